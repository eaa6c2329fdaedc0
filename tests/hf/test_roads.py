"""transformers' road and fairseq's: the same scores, saliences, tickets, functions and deltas from one encoder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fairseq_tickets import checkpoint
from fairseq_tickets.dominant_ticket.delta import DeltaBase, load_delta, make_delta, save_delta
from fairseq_tickets.dominant_ticket.extraction import extract
from fairseq_tickets.dominant_ticket.l1 import L1ToPretrained
from fairseq_tickets.dominant_ticket.salience import METRICS, dimension_salience, salient_ticket
from fairseq_tickets.errors import UserError
from fairseq_tickets.hf import Encoder
from fairseq_tickets.parameters import MATRICES, ModelShape, matrix_name
from fairseq_tickets.plugin.salience import _linears
from fairseq_tickets.super_ticket.importance import GRANULARITIES, importance_scores
from fairseq_tickets.super_ticket.pruning import super_ticket
from fairseq_tickets.tickets import DominantTicket, SuperTicket, load_super_ticket
from tests.hf.models import EMBED, FFN, HEADS, KINDS, LAYERS, Both, batch, both, hidden_losses

SHAPE = ModelShape(LAYERS, HEADS, EMBED, FFN)
BATCHES = [[0, 1], [2]]
# layer 0 keeps one head and no FFN, layer 1 no head, layer 2 everything
PRUNED = SuperTicket(SHAPE, [[0, 1], [0, 0], [1, 1]], [0, 1, 1])


@pytest.fixture(params=KINDS)
def roads(request: pytest.FixtureRequest, tmp_path: Path) -> Both:
    """Every kind."""
    return both(request.param, tmp_path)


def states(roads: Both) -> tuple[Tensor, Tensor]:
    """Hidden states of both roads where there is no padding."""
    where = roads.mask.bool()
    with torch.no_grad():
        theirs = roads.hf(input_ids=roads.tokens, attention_mask=roads.mask).last_hidden_state[where]
        ours = roads.fairseq(roads.numbers, features_only=True)[0][where]
    return theirs, ours


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_importance_and_super_tickets(granularity: str, roads: Both) -> None:
    theirs, ours = hidden_losses(roads)
    found = Encoder(roads.hf).importance(BATCHES, theirs, granularity)
    expected = importance_scores(roads.fairseq, BATCHES, ours, granularity)
    assert expected.heads.min() > 0
    np.testing.assert_allclose(found.heads, expected.heads, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.ffn, expected.ffn, rtol=1e-4, atol=1e-5)
    assert found.shape == expected.shape == SHAPE and found.examples == 3
    assert super_ticket(found, 0.4, 0.4).heads == super_ticket(expected, 0.4, 0.4).heads


def test_the_commands_read_its_files(tmp_path: Path) -> None:
    from fairseq_tickets.cli import main

    roads = both("Roberta", tmp_path)
    theirs, _ = hidden_losses(roads)
    Encoder(roads.hf).importance(BATCHES, theirs).save(tmp_path / "scores.npz")
    words = ["--scores", str(tmp_path / "scores.npz"), "--heads", "0.4", "--ffn", "0.4"]
    assert main(["prune", *words, "--output", str(tmp_path / "t.json")]) == 0
    ticket = load_super_ticket(tmp_path / "t.json")
    assert 0 < ticket.provenance["weight_remaining"]["encoder"] < 1
    Encoder(roads.hf).apply(ticket)


def test_camembert_is_a_roberta() -> None:
    from tests.hf.models import model

    roberta, camembert = model("Roberta", "ForSequenceClassification"), model("Camembert", "ForSequenceClassification")
    camembert.load_state_dict(roberta.state_dict())
    tokens, mask = batch("Roberta")
    inputs = [{"input_ids": tokens, "attention_mask": mask, "labels": torch.tensor([0, 1, 0])}]
    found, expected = (Encoder(m).importance(inputs) for m in (camembert, roberta))
    np.testing.assert_allclose(found.heads, expected.heads, rtol=1e-6)


@pytest.mark.parametrize("form", ["compact", "gated"])
def test_a_pruned_model(form: str, roads: Both) -> None:
    before = states(roads)[0]
    encoder = Encoder(roads.hf).apply(PRUNED, form)
    roads.fairseq.ticket_encoder.apply_super_ticket(PRUNED, "gated")
    theirs, ours = states(roads)
    torch.testing.assert_close(theirs, ours, atol=2e-5, rtol=0)
    assert (theirs - before).abs().max() > 0.1
    tensors = encoder.tensors()
    assert tensors[matrix_name(0, "fc2")].shape == (EMBED, FFN)
    if form == "compact":
        assert not tensors[matrix_name(0, "fc2")].any() and not tensors[matrix_name(1, "out_proj")].any()
        count = sum(p.numel() for p in roads.hf.parameters() if p.requires_grad)
        assert count < sum(t.numel() for t in roads.hf.state_dict().values() if t.is_floating_point())


def test_a_compact_model_is_saved_dense_and_loads_dense(roads: Both, tmp_path: Path) -> None:
    roads.hf.double()  # in float32 the two orders of summation differ by 1e-5
    Encoder(roads.hf).apply(PRUNED)
    pruned, _ = states(roads)
    roads.hf.save_pretrained(tmp_path / "saved")
    dense = type(roads.hf).from_pretrained(tmp_path / "saved", dtype=torch.float64).eval()
    found = dense(input_ids=roads.tokens, attention_mask=roads.mask).last_hidden_state[roads.mask.bool()]
    torch.testing.assert_close(found, pruned, atol=1e-12, rtol=0)
    roads.hf.load_state_dict({name: tensor + 0.25 for name, tensor in dense.state_dict().items()})
    for linear in Encoder(roads.hf).linears()[0].values():
        assert torch.isfinite(linear.weight).all()
    changed, _ = states(roads)
    assert (changed - pruned).abs().max() > 0.01


def test_training_a_compact_model_moves_nothing_that_is_gone(roads: Both) -> None:
    Encoder(roads.hf).apply(PRUNED)
    optimizer = torch.optim.AdamW([p for p in roads.hf.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    theirs, _ = hidden_losses(roads)
    for _ in range(2):
        optimizer.zero_grad()
        theirs([0, 1, 2]).sum().backward()
        optimizer.step()
    after = Encoder(roads.hf).tensors()
    for layer in range(LAYERS):
        rows = torch.tensor(PRUNED.heads[layer]).repeat_interleave(EMBED // HEADS).bool()
        for matrix in ("q_proj", "k_proj", "v_proj"):
            assert not after[matrix_name(layer, matrix)][~rows].any()
            assert not after[matrix_name(layer, matrix, "bias")][~rows].any()
        assert not after[matrix_name(layer, "out_proj")][:, ~rows].any()
    assert not after[matrix_name(0, "fc1")].any() and not after[matrix_name(0, "fc2", "bias")].any()
    assert after[matrix_name(1, "out_proj", "bias")].any()


@pytest.mark.parametrize("metric", METRICS)
def test_salience(metric: str, roads: Both) -> None:
    theirs, ours = hidden_losses(roads)
    batches = [[2]] if metric == "activation" else BATCHES
    if metric == "activation":  # every token counts, so none may be padding
        roads = roads._replace(tokens=roads.tokens[:, :3], mask=roads.mask[:, :3], numbers=roads.numbers[:, :3])
        theirs, ours = hidden_losses(roads)
    layers = list(roads.fairseq.encoder.sentence_encoder.layers)
    expected = dimension_salience(
        roads.fairseq, [_linears(layer) for layer in layers], HEADS, batches, lambda b: (ours(b).mean(), len(b)), metric
    )
    found = Encoder(roads.hf).salience(batches, metric, lambda b: (theirs(b).mean(), len(b)))
    for name in MATRICES:
        torch.testing.assert_close(found.scores[name], expected.scores[name], rtol=1e-4, atol=1e-5)
    assert salient_ticket(found, 2).dimensions == salient_ticket(expected, 2).dimensions


def moved(roads: Both) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same change of some columns on both roads; θ₀ of each."""
    encoder, parameters = Encoder(roads.hf), dict(roads.fairseq.named_parameters())
    before = encoder.tensors(), {name: tensor.detach().clone() for name, tensor in parameters.items()}
    torch.manual_seed(4)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            change = torch.zeros_like(parameter)
            if name.endswith("weight"):
                change[:, 3] = torch.randn(len(change))
                change[:2, 5] = 0.01
            parameter += change
            parameters[name] += change
    return before


def test_l1_distance_and_extraction(roads: Both) -> None:
    theirs, ours = moved(roads)
    encoder = Encoder(roads.hf)
    found, expected = encoder.l1(1e-3, theirs), L1ToPretrained(roads.fairseq.named_parameters(), ours, 1e-3)
    assert found.penalised == expected.penalised
    assert found.measure(1e-3).moved == expected.measure(1e-3).moved > 0
    assert found.value() == pytest.approx(expected.value(), rel=1e-5)
    tuned = dict(roads.fairseq.named_parameters())
    ticket = encoder.extract(theirs, 1e-3, 2)
    assert ticket == extract(ours, tuned, HEADS, 1e-3, 2)
    assert all(row == [3, 5] for rows in ticket.dimensions.values() for row in rows)


def two_columns() -> DominantTicket:
    """A column and the bias of every matrix but those of layer 1."""
    rows = {m: [[3, SHAPE.in_features(m)] if layer != 1 else [] for layer in range(LAYERS)] for m in MATRICES}
    return DominantTicket(SHAPE, rows)


def test_training_under_a_dominant_ticket_and_its_delta(roads: Both, tmp_path: Path) -> None:
    """Two AdamW steps on both roads: the same columns, the same delta file's content, the same function."""
    from fairseq_tickets.dominant_ticket.columns import apply_ticket
    from fairseq_tickets.encoder_layer import encoder_layers

    base = {name: t.detach().clone() for name, t in roads.fairseq.named_parameters()}
    before = roads.hf.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    encoder = Encoder(roads.hf).apply(two_columns())
    roads.fairseq.requires_grad_(False)
    apply_ticket(encoder_layers(roads.fairseq), two_columns())
    for module, losses in zip((roads.hf, roads.fairseq), hidden_losses(roads)):
        optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            losses([0, 1, 2]).mean().backward()
            optimizer.step()
    found = encoder.delta()
    expected = make_delta(roads.fairseq.state_dict(), two_columns(), "")
    assert found.columns.keys() == expected.columns.keys()
    for key, values in expected.columns.items():
        torch.testing.assert_close(found.columns[key], values, rtol=0, atol=1e-5)
        assert (values[:, 0] - base[matrix_name(*key)][:, 3]).abs().max() > 1e-4
    trained, _ = states(roads)
    save_delta(tmp_path / "d.safetensors", found)
    again = type(roads.hf)(roads.hf.config)
    again.load_state_dict(before)
    roads = roads._replace(hf=again.eval())
    with Encoder(again).deltas().using(load_delta(tmp_path / "d.safetensors")):
        torch.testing.assert_close(states(roads)[0], trained, atol=1e-5, rtol=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.state_dict().items())


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "XLMRoberta", "MPNet"])
def test_a_delta_goes_from_one_road_to_the_other(kind: str, tmp_path: Path) -> None:
    """The base's fingerprint is that of the imported checkpoint, where the tokenizer is known."""
    from transformers import PreTrainedTokenizerFast

    roads = both(kind, tmp_path)
    tokenizer = (
        None
        if kind in ("Roberta", "XLMRoberta")
        else PreTrainedTokenizerFast(tokenizer_object=word_tokenizer(kind), **special(kind))
    )
    imported = checkpoint.encoder_tensors(tmp_path / "imported" / "model.pt")
    assert Encoder(roads.hf, tokenizer).fingerprint() == checkpoint.fingerprint(imported)
    encoder = Encoder(roads.hf, tokenizer).apply(two_columns())
    with torch.no_grad():
        for module in roads.hf.modules():
            if hasattr(module, "columns") and module.columns is not None:
                module.columns += 0.5
    expected, _ = states(roads)
    base = DeltaBase(roads.fairseq)
    base.apply(encoder.delta())
    torch.testing.assert_close(states(roads)[1], expected, atol=2e-5, rtol=0)


def word_tokenizer(kind: str) -> object:
    """A tokenizer with the toy's words."""
    import tokenizers

    from tests.convert.toy import BERT_WORDS, ROBERTA_WORDS

    words = BERT_WORDS if kind == "Bert" else ROBERTA_WORDS
    unknown = "[UNK]" if kind == "Bert" else "<unk>"
    numbers = {word: number for number, word in enumerate(words)}
    return tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token=unknown))


def special(kind: str) -> dict[str, str]:
    """Its special words by role."""
    words = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
    if kind != "Bert":
        words = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    return dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), words))


def test_what_can_not_be_done_is_said() -> None:
    import transformers

    from tests.hf.models import model

    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=5)
    with pytest.raises(UserError, match="'gpt2' can't be mapped .* supported are bert, roberta, xlm-roberta"):
        Encoder(transformers.GPT2Model(config))
    encoder = Encoder(model("Bert"))
    with pytest.raises(UserError, match="call apply first"):
        encoder.delta()
    other = SuperTicket.full(ModelShape(LAYERS + 1, HEADS, EMBED, FFN))
    with pytest.raises(UserError, match="belongs to another model size"):
        encoder.apply(other)
    with pytest.raises(UserError, match="form is 'thin'"):
        encoder.apply(PRUNED, "thin")
    encoder.apply(PRUNED)
    for call in (lambda: encoder.apply(PRUNED), lambda: encoder.importance([]), encoder.deltas):
        with pytest.raises(UserError, match="is under a ticket and can't be"):
            call()
    broken = model("Roberta")
    broken.encoder.layer[1].intermediate.dense = torch.nn.Identity()
    with pytest.raises(UserError, match="layer 1, fc1: encoder.layer.1.intermediate.dense is a Identity"):
        Encoder(broken)


def test_a_delta_of_another_base_is_refused() -> None:
    from tests.hf.models import model

    delta = Encoder(model("Roberta")).apply(two_columns()).delta()
    other = model("Roberta")
    with torch.no_grad():
        other.embeddings.word_embeddings.weight[5, 0] += 1
    with pytest.raises(UserError, match="trained from another base"):
        Encoder(other).deltas().apply(delta)


@pytest.mark.slow
def test_the_real_minilm_on_real_sentences(tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    from fairseq_tickets.convert import import_folder
    from tests.convert.minilm import minilm_folder
    from tests.convert.test_minilm import SENTENCES
    from tests.convert.test_mpnet import read_dictionary, ticket_model

    import_folder(minilm_folder(), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    hf = AutoModel.from_pretrained(minilm_folder(), add_pooling_layer=False).eval()
    encoder = Encoder(hf, tokenizer)
    assert encoder.fingerprint() == checkpoint.fingerprint(checkpoint.encoder_tensors(tmp_path / "model.pt"))
    words, fairseq = read_dictionary(tmp_path), ticket_model(tmp_path, 30522)
    roles = {"[CLS]": "<s>", "[SEP]": "</s>", "[PAD]": "<pad>"}
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    tokens = [tokenizer.convert_ids_to_tokens(row) for row in batch["input_ids"].tolist()]
    numbers = torch.tensor([[words.index(roles.get(word, word)) for word in row] for row in tokens])
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    torch.manual_seed(0)
    direction = torch.randn(384)
    found = encoder.importance([inputs], lambda b: (hf(**b).last_hidden_state[:, 0] @ direction).square())
    expected = importance_scores(
        fairseq, [numbers], lambda b: (fairseq(b, features_only=True)[0][:, 0] @ direction).square()
    )
    np.testing.assert_allclose(found.heads, expected.heads, rtol=1e-4)
    np.testing.assert_allclose(found.ffn, expected.ffn, rtol=1e-4)


def test_fairseq_is_never_imported() -> None:
    code = "import sys, fairseq_tickets.hf; sys.exit('fairseq' in sys.modules or 'omegaconf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
