"""`ticket_roberta` computes what fairseq's `roberta` does, without dead copies, and honours tickets on loading."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from fairseq.models.roberta import model as roberta

from fairseq_tickets.encoder_layer import encoder_layers
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.plugin.model import TicketRobertaLargeConfig, TicketRobertaLargeModel
from fairseq_tickets.tickets import SuperTicket

from . import toy

HEAD = "sentence_classification_head"
SHAPE = ModelShape(toy.LAYERS, toy.HEADS, toy.EMBED, toy.FFN)
TICKET = SuperTicket(SHAPE, [[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], [1, 0, 1])


def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(toy.tokens(), features_only=True, classification_head_name=HEAD)[0]


@pytest.mark.parametrize("training", [True, False], ids=["train mode", "eval mode"])
def test_same_logits_as_stock_roberta(training: bool) -> None:
    stock, ours = toy.stock_roberta(), toy.ticket_roberta()
    for layer in stock.encoder.sentence_encoder.layers:
        layer.ever_training = True  # its "fast path" would run the dead copies, which are other random numbers
    ours.load_state_dict(copy.deepcopy(stock.state_dict()))
    stock.train(training)
    ours.train(training)
    torch.testing.assert_close(logits(ours), logits(stock), rtol=0, atol=1e-5)


def test_no_dead_copies() -> None:
    stock, ours = toy.stock_roberta(), toy.ticket_roberta()
    names = {name for name, _ in stock.named_parameters()}
    dead = {name for name in names if any(f"_{kind}" in name for kind in ("weight", "bias"))}
    assert len(dead) == 8 * toy.LAYERS
    assert {name for name, _ in ours.named_parameters()} == names - dead


def test_language_model_head_is_frozen_but_not_the_embedding_it_shares() -> None:
    model = toy.ticket_roberta()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        f"encoder.lm_head.{name}"
        for name in ("bias", "dense.weight", "dense.bias", "layer_norm.weight", "layer_norm.bias")
    }


def test_roberta_large_has_355_million_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, d, f, vocabulary, positions = 24, 1024, 4096, 50265, 514
    layer = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 2 * 2 * d
    by_hand = layers * layer + vocabulary * d + positions * d + 2 * d
    by_hand += (d * d + d) + 2 * d + vocabulary  # the language-model head; it shares the embedding
    words = toy.dictionary()
    for index in range(vocabulary - len(words)):
        words.add_symbol(f"more{index}")
    monkeypatch.setattr(roberta, "init_bert_params", lambda module: None)  # meta tensors hold no numbers
    with torch.device("meta"):
        model = TicketRobertaLargeModel.build_model(
            TicketRobertaLargeConfig(), SimpleNamespace(source_dictionary=words)
        )
    assert sum(parameter.numel() for parameter in model.parameters()) == by_hand == 355_411_033


@pytest.mark.parametrize("form", ["gated", "compact"])
def test_a_saved_ticket_is_honoured_on_loading(form: str) -> None:
    """A checkpoint, loaded into a fresh full model and evaluated at once, is evaluated under its ticket."""
    trained = toy.ticket_roberta()
    toy.randomise(trained)
    full = logits(trained.eval())
    trained.ticket_encoder.apply_super_ticket(TICKET, form)
    expected = logits(trained)
    assert (expected - full).abs().max() > 1e-2
    fresh = toy.ticket_roberta()
    fresh.load_state_dict(copy.deepcopy(trained.state_dict()))
    assert fresh.ticket_encoder.ticket_form == form
    torch.testing.assert_close(logits(fresh.eval()), expected, rtol=0, atol=0)


def test_compact_and_gated_are_one_function_from_the_same_dense_checkpoint() -> None:
    stock = toy.stock_roberta().double()
    outputs = []
    for form in ("gated", "compact"):
        model = toy.ticket_roberta().double()
        model.ticket_encoder.apply_super_ticket(TICKET, form)
        model.load_state_dict(copy.deepcopy(stock.state_dict()))
        outputs.append(logits(model.eval()))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-12)


def test_compact_parameters_by_hand() -> None:
    model = toy.ticket_roberta()
    before = sum(p.numel() for p in model.parameters())
    model.ticket_encoder.apply_super_ticket(TICKET, "compact")
    d, f, head_dim = toy.EMBED, toy.FFN, toy.EMBED // toy.HEADS
    heads_gone, ffn_gone = 12 - 4, 1
    gone = heads_gone * head_dim * (4 * d + 3) + ffn_gone * (2 * d * f + d + f)
    assert before - sum(p.numel() for p in model.parameters()) == gone


def test_another_ticket_in_the_checkpoint_is_refused() -> None:
    trained, other = toy.ticket_roberta(), toy.ticket_roberta()
    trained.ticket_encoder.apply_super_ticket(TICKET, "gated")
    full_ffn = SuperTicket(SHAPE, TICKET.heads, [1, 1, 1])
    other.ticket_encoder.apply_super_ticket(full_ffn, "gated")
    with pytest.raises(UserError, match="trained under another super ticket"):
        other.load_state_dict(trained.state_dict())


def test_ticket_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match="belongs to another model size: the ticket has layers 2"):
        toy.ticket_roberta().ticket_encoder.apply_super_ticket(
            SuperTicket.full(ModelShape(2, toy.HEADS, toy.EMBED, toy.FFN)), "gated", "ticket t.json"
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_layers": 2}, "has 2 encoder layers"),
        ({"encoder_ffn_embed_dim": 24}, r"fc1.weight is \(24, 12\) there, \(20, 12\) in the model"),
        ({"max_positions": 20}, "position table has 22 rows, so it must be 20"),
    ],
    ids=["fewer layers", "wider FFN", "more positions"],
)
def test_checkpoint_of_another_shape_is_refused_by_name(changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        toy.ticket_roberta().load_state_dict(toy.stock_roberta(**changes).state_dict())


def test_gates_can_be_set_per_task_and_opened_again() -> None:
    model = toy.ticket_roberta()
    toy.randomise(model)
    full = logits(model.eval())
    model.ticket_encoder.set_gates(TICKET)
    assert (logits(model) - full).abs().max() > 1e-2
    model.ticket_encoder.set_gates(None)
    assert all(layer.head_gate is None and layer.ffn_gate is None for layer in encoder_layers(model))
    torch.testing.assert_close(logits(model), full, rtol=0, atol=0)
