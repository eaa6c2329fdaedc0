"""transformers.Trainer under tickets, and what comes out: checkpoints, adapters for the real peft, the L1 penalty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from fairseq_tickets.convert.from_peft import load_peft
from fairseq_tickets.dominant_ticket.delta import apply
from fairseq_tickets.errors import UserError
from fairseq_tickets.hf import Encoder, l1_callback
from fairseq_tickets.parameters import MATRICES, ModelShape, matrix_name
from fairseq_tickets.tickets import DominantTicket, SuperTicket, Ticket
from tests.hf.models import EMBED, FFN, HEADS, KINDS, LAYERS, batch, model

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*1-D or zero-sized lora:UserWarning",  # peft takes the bias of lora_B for a sharded weight
    "ignore:.*is_gradient_checkpointing:FutureWarning",  # peft asks transformers for what it has renamed
)
SHAPE = ModelShape(LAYERS, HEADS, EMBED, FFN)
SUPER = SuperTicket(SHAPE, [[0, 1], [0, 0], [1, 1]], [0, 1, 1])
DOMINANT = DominantTicket(SHAPE, {m: [[3, SHAPE.in_features(m)], [], [1, 2]] for m in MATRICES})
CLS = "ForSequenceClassification"


def examples(kind: str) -> list[dict[str, Any]]:
    """Eight examples of one batch's rows."""
    tokens, mask = batch(kind)
    rows = [{"input_ids": tokens[n], "attention_mask": mask[n], "labels": n} for n in range(3)]
    return rows * 3


def train(module: Any, kind: str, folder: Path, callbacks: Any = (), **settings: Any) -> Any:
    """Trainer for some steps on the CPU."""
    from transformers import Trainer, TrainingArguments

    arguments: dict[str, Any] = {"max_steps": 4, "learning_rate": 0.01, "per_device_train_batch_size": 3}
    arguments.update({"use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True, **settings})
    trainer = Trainer(
        model=module,
        args=TrainingArguments(output_dir=str(folder), **arguments),
        train_dataset=examples(kind),
        callbacks=list(callbacks),
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("ticket", [SUPER, DOMINANT], ids=["super", "dominant"])
@pytest.mark.parametrize("kind", KINDS)
def test_trainer_moves_what_the_ticket_allows(kind: str, ticket: Ticket, tmp_path: Path) -> None:
    module = model(kind, CLS, num_labels=3)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    encoder = Encoder(module)
    ours = encoder.tensors()
    encoder.apply(ticket)
    trainer = train(module, kind, tmp_path, weight_decay=0.1)
    after = encoder.tensors()
    assert any(not torch.equal(after[name], tensor) for name, tensor in ours.items() if "heads" in name)
    for layer in range(LAYERS):
        for matrix in MATRICES:
            name, bias = matrix_name(layer, matrix), matrix_name(layer, matrix, "bias")
            changed = (after[name] != ours[name]).any(0).nonzero().flatten().tolist()
            if isinstance(ticket, DominantTicket):
                dims = ticket.dimensions[matrix][layer]
                width = SHAPE.in_features(matrix)
                assert set(changed) == {index for index in dims if index != width}
                assert torch.equal(after[bias], ours[bias]) == (width not in dims)
    embedding = next(name for name in before if name.endswith("word_embeddings.weight"))
    assert torch.equal(module.state_dict()[embedding], before[embedding]) == isinstance(ticket, DominantTicket)
    trainer.save_model(str(tmp_path / "saved"))  # a plain model, to whoever loads it
    plain = type(module).from_pretrained(tmp_path / "saved").eval()
    tokens, mask = batch(kind)
    found, expected = (m.eval()(input_ids=tokens, attention_mask=mask).logits for m in (plain, module))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_trained_ticket_is_an_adapter(kind: str, tmp_path: Path) -> None:
    from peft import PeftModel

    module = model(kind, CLS, num_labels=3)
    start = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    encoder = Encoder(module)
    ours = encoder.tensors()
    train(encoder.apply(DOMINANT).model, kind, tmp_path)
    report = encoder.save_adapter(tmp_path / "adapter", "some/base")
    assert report.rank == 2 and "some/base" in (tmp_path / "adapter" / "README.md").read_text()
    base = type(module)(module.config)
    base.load_state_dict(start)
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    tokens, mask = batch(kind)
    expected = module.eval()(input_ids=tokens, attention_mask=mask).logits
    found = loaded(input_ids=tokens, attention_mask=mask).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    merged = loaded.merge_and_unload()(input_ids=tokens, attention_mask=mask).logits
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=0)
    delta = encoder.delta()
    if kind != "DistilBert":  # whose names `import --adapter` doesn't know, since fairseq has no such model
        from fairseq_tickets.checkpoint import fingerprint
        from fairseq_tickets.convert import peft

        peft.save_peft(
            type(delta)(delta.ticket, fingerprint(ours), delta.columns, delta.heads),
            ours,
            tmp_path / "again",
            encoder._layout,
        )
        back, _ = load_peft(tmp_path / "again", ours, SHAPE)
        theirs = apply(ours, back)
        assert max(float((theirs[n] - t).abs().max()) for n, t in encoder.tensors().items()) < 1e-6


def test_the_l1_penalty_is_added_to_the_mean_gradient(tmp_path: Path) -> None:
    """One SGD step with and without: they differ by lr · λ · sign(θ − θ₀), whatever the accumulation."""
    found = []
    for penalised in (False, True):
        module = model("Roberta", CLS, num_labels=3)
        encoder = Encoder(module)
        origin = {name: tensor - 0.5 for name, tensor in encoder.tensors().items()}  # so that the sign is +1
        callbacks = [l1_callback(encoder.l1(0.25, origin))] if penalised else []
        more = {"optim": "sgd", "lr_scheduler_type": "constant", "gradient_accumulation_steps": 2}
        train(module.float(), "Roberta", tmp_path, callbacks, max_steps=1, learning_rate=0.1, seed=3, **more)
        found.append(encoder.tensors())
    for name, tensor in found[0].items():
        shift = 0.0 if "heads" in name else 0.1 * 0.25
        torch.testing.assert_close(found[1][name], tensor - shift, atol=1e-6, rtol=0)


def test_a_delta_says_how_pairs_are_joined_and_what_the_classes_are() -> None:
    from transformers import PreTrainedTokenizerFast

    from tests.hf.test_roads import special, word_tokenizer

    for kind, separator in (("Bert", None), ("Roberta", 2)):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=word_tokenizer(kind), **special(kind))
        start, end = tokenizer.cls_token, tokenizer.sep_token
        pair = [start, "$A", end, *([end] if separator else []), "$B", end]
        numbers = [(word, tokenizer.convert_tokens_to_ids(word)) for word in (start, end)]
        tokenizer._tokenizer.post_processor = TemplateProcessing(single=pair[:3], pair=pair, special_tokens=numbers)
        module = model(kind, CLS, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
        task = Encoder(module, tokenizer).apply(DOMINANT).delta().task
        assert task is not None and task.labels == ("no", "yes") and task.regression is False
        assert (task.init_token, task.separator_token) == (0, separator)
    assert Encoder(model("Bert", CLS)).apply(DOMINANT).delta().task is None


def test_fp16_gradients_are_refused() -> None:
    from types import SimpleNamespace

    callback = l1_callback(Encoder(model("Roberta")).l1())
    with pytest.raises(UserError, match="fp16 scales the gradients"):
        callback.on_pre_optimizer_step(SimpleNamespace(fp16=True), None, None)


def test_the_default_losses_are_the_models_own() -> None:
    tokens, mask = batch("Bert")
    for labels, settings in (
        (torch.tensor([0, 2, 1]), {"num_labels": 3}),
        (torch.tensor([0.5, 2.0, -1.0]), {"num_labels": 1}),
    ):
        module = model("Bert", CLS, **settings)
        inputs = {"input_ids": tokens, "attention_mask": mask, "labels": labels}
        with torch.no_grad():
            expected = module(**inputs).loss
            torch.testing.assert_close(Encoder(module).losses(inputs).mean(), expected)
