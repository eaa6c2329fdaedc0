"""`ticket_multitask`: metrics of every task, checkpoints that carry their tickets, resuming, then one task alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairseq_tickets.errors import UserError
from fairseq_tickets.plugin.loading import load_finetuned
from fairseq_tickets.plugin.multitask import task as task_module
from fairseq_tickets.super_ticket.pruning import weight_remaining
from fairseq_tickets.tickets import SuperTicket

from .. import toy
from ..test_training import assert_same_weights, expected_metrics
from ..training import COMMON, NO_DROPOUT, validate_words
from ..training import train as train_one
from . import toy as multitask_toy
from .toy import SHAPE, TICKETS, UNION, train, watching, write_list


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of the three tasks, `model.pt`, and `shared`: a run of two epochs under the tickets, with its statistics."""
    made = multitask_toy.write_tasks(tmp_path_factory.mktemp("multitask"))
    run = train(
        write_list(made, made / "lists" / "tasks.yaml", tickets=True, two={"head_dropout": 0.4}),
        *(made / "shared", made / "model.pt", "--ticket-optimizer", "adamax"),
    )
    (made / "shared" / "stats.json").write_text(json.dumps(run.valid))
    shutil.move(made / "lists", made / "gone")  # list and tickets
    return made


def logits(model: Any, name: str, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(tokens, features_only=True, classification_head_name=name)[0]
    return out


def test_the_checkpoint_gives_each_task_its_scores_without_list_and_tickets(folder: Path) -> None:
    """Every metric of the run, from single predictions of the reloaded model, against scikit-learn and SciPy."""
    stats = json.loads((folder / "shared" / "stats.json").read_text())[-1]
    model, task = load_finetuned(folder / "shared" / "checkpoint_last.pt")
    assert model.ticket_encoder.super_ticket == UNION
    assert model.task_tickets == TICKETS
    assert [layer.kept_heads for layer in model.ticket_encoder.layers] == [[0, 1, 2, 3], [0, 1, 2, 3], [1, 2, 3]]
    assert [layer.has_ffn for layer in model.ticket_encoder.layers] == [True, False, True]
    assert [model.classification_heads[name].dropout.p for name in TICKETS] == [0.1, 0.4, 0.1]
    scores = []
    for name, single in task.tasks.items():
        task.gate(model, name)
        dataset = single.load_dataset("valid")
        outputs, targets = [], []
        for index in range(len(dataset)):
            sample = dataset.collater([dataset[index]])
            out = logits(model, name, sample["net_input"]["src_tokens"])
            outputs.append(float(out[0, 0]) if single.regression else int(out.argmax()))
            targets.append(float(sample["target"][0]))
        expected = expected_metrics(np.array(outputs), np.array(targets), single.regression)
        for metric, value in expected.items():
            assert stats[f"{name}_{metric}"] == pytest.approx(value, abs=1e-4), (name, metric)
        own = [expected[metric] for metric in single.metric_names]
        assert stats[f"{name}_score"] == pytest.approx(sum(own) / len(own), abs=1e-4)
        scores.append(sum(own) / len(own))
    assert stats["score"] == pytest.approx(sum(scores) / 3, abs=1e-4)


def test_fairseq_validate_prints_the_same(folder: Path) -> None:
    """Again without list and tickets, in batches of another size."""
    words = ["--path", str(folder / "shared" / "checkpoint_last.pt"), "--task", "ticket_multitask", *COMMON]
    words += ["--criterion", "ticket_sentence_prediction", "--batch-size", "3"]
    printed = validate_words(words)
    stats = json.loads((folder / "shared" / "stats.json").read_text())[-1]
    for name in ("score", "score_report", "three_accuracy", "two_f1", "real_pearson", "real_score_select"):
        assert printed[name] == pytest.approx(stats[name], abs=1e-4), name


def test_weight_remaining_is_reported(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By hand from the paper's rule; "average" is the mean over tasks, not the union's share."""
    rows = toy.VOCABULARY, 18
    shares = {name: weight_remaining(SHAPE, ticket, *rows)["encoder"] for name, ticket in TICKETS.items()}
    found = task_module.remaining(SHAPE, TICKETS, *rows)
    assert found["average"] == pytest.approx(sum(shares.values()) / 3)
    assert found["union"] == weight_remaining(SHAPE, UNION, *rows)["encoder"]
    assert {name: found[name] for name in TICKETS} == shares
    assert found["average"] < found["union"] < 1


RESET = ["--reset-optimizer", "--reset-dataloader", "--reset-meters"]


def test_resumed_in_mid_epoch_is_as_if_never_stopped(folder: Path, tmp_path: Path) -> None:
    """15 batches an epoch; stopped after 20, in the second of three epochs."""
    tasks = write_list(folder, tmp_path / "tasks.yaml", tickets=True)
    common = ["--ticket-optimizer", "adamw", "--weight-decay", "0.1", "--max-epoch", "3"]
    whole = train(tasks, tmp_path / "whole", folder / "model.pt", *common)
    train(tasks, tmp_path / "parts", folder / "model.pt", *common, "--max-update", "20")
    resumed = train(tasks, tmp_path / "parts", folder / "model.pt", *common)
    assert len(whole.losses) == 45 and len(resumed.losses) == 25
    assert resumed.losses == pytest.approx(whole.losses[20:], abs=1e-6)
    assert_same_weights(whole.checkpoint()["model"], resumed.checkpoint()["model"], 1e-6)
    other = write_list(folder, tmp_path / "other" / "tasks.yaml", tickets=True)
    SuperTicket.full(SHAPE).save(tmp_path / "other" / "two.json")
    with pytest.raises(UserError, match="task two: --ticket is another one there"):
        train(other, tmp_path / "parts", folder / "model.pt", *common, "--max-epoch", "4")
    plain = write_list(folder, tmp_path / "plain.yaml", tickets=False)
    with pytest.raises(UserError, match="task three: --ticket is not given here"):
        train(plain, tmp_path / "parts", folder / "model.pt", *common, "--max-epoch", "4")
    last = str(tmp_path / "parts" / "checkpoint_last.pt")
    adopted = train(plain, tmp_path / "new", None, *common, "--restore-file", last, *RESET)
    assert set(adopted.checkpoint()["model"]) == set(resumed.checkpoint()["model"])  # the tickets come with it


def test_every_epoch_mixes_anew(folder: Path, tmp_path: Path) -> None:
    """Each example once an epoch, batches of one task, in another order and other batches every epoch."""
    tasks = write_list(folder, tmp_path / "tasks.yaml", tickets=False)
    seen: list[tuple[str, tuple[int, ...]]] = []

    def train_step(original: Any, self: Any, sample: Any, *args: Any, **options: Any) -> Any:
        seen.append((sample["task"], tuple(sorted(sample["id"].tolist()))))
        return original(self, sample, *args, **options)

    with watching("train_step", train_step):
        train(tasks, tmp_path / "out", folder / "model.pt", "--no-save")
    first, second = seen[:15], seen[15:]
    for epoch in (first, second):
        for name, size in (("three", 26), ("two", 18), ("real", 10)):
            assert sorted(i for task, ids in epoch for i in ids if task == name) == list(range(size))
    assert [task for task, _ in first] != [task for task, _ in second]
    assert set(first) != set(second)
    assert [task for task, _ in first] != sorted(task for task, _ in first)


@pytest.mark.parametrize("ticket", [None, "two"])
def test_one_task_goes_on_from_the_shared_checkpoint(folder: Path, tmp_path: Path, ticket: str | None) -> None:
    """Before the first update the model computes what the shared one computes, with the task's own head."""
    more = []
    if ticket:
        TICKETS[ticket].save(tmp_path / "ticket.json")
        more = ["--ticket", str(tmp_path / "ticket.json")]
    start = folder / "shared" / "checkpoint_last.pt"
    run = train_one(folder / "two", tmp_path / "out", start, *more, "--lr", "0", "--max-epoch", "1", *NO_DROPOUT)
    model, _ = load_finetuned(run.path())
    shared, _ = load_finetuned(start)
    assert model.ticket_encoder.super_ticket == (TICKETS[ticket] if ticket else UNION)
    shared.ticket_encoder.set_gates(TICKETS[ticket] if ticket else None)
    torch.testing.assert_close(
        logits(model, "sentence_classification_head", toy.tokens()), logits(shared, "two", toy.tokens())
    )
    assert not [name for name in run.checkpoint()["model"] if "classification_heads" in name and "ticket" in name]


def test_the_head_to_start_from_can_be_chosen(folder: Path, tmp_path: Path) -> None:
    start = folder / "shared" / "checkpoint_last.pt"
    common = ["--lr", "0", "--max-epoch", "1"]
    shared, _ = load_finetuned(start)
    head = "classification_heads.sentence_classification_head.dense.weight"
    known = shared.classification_heads["two"].dense.weight
    fresh = train_one(folder / "two", tmp_path / "new", start, *common, "--start-head", "new").checkpoint()["model"]
    assert not torch.equal(fresh[head], known)
    same = train_one(folder / "two", tmp_path / "two", start, *common, "--start-head", "two").checkpoint()["model"]
    assert torch.equal(same[head], known)
    with pytest.raises(UserError, match="no such head; its heads are three, two, real"):
        train_one(folder / "two", tmp_path / "no", start, *common, "--start-head", "RTE")
    with pytest.raises(UserError, match="does not fit this task"):
        train_one(folder / "two", tmp_path / "no", start, *common, "--start-head", "three")


def test_a_ticket_with_what_is_gone_is_refused(folder: Path, tmp_path: Path) -> None:
    start = folder / "shared" / "checkpoint_last.pt"
    SuperTicket.full(SHAPE).save(tmp_path / "full.json")
    with pytest.raises(UserError, match="keeps what the checkpoint no longer has .layer 2, head 0."):
        train_one(folder / "two", tmp_path / "a", start, "--ticket", str(tmp_path / "full.json"))
    TICKETS["two"].save(tmp_path / "two.json")
    with pytest.raises(UserError, match="use --ticket-form compact"):
        train_one(
            folder / "two", tmp_path / "a", start, "--ticket", str(tmp_path / "two.json"), "--ticket-form", "gated"
        )


def test_a_plain_optimizer_is_refused_under_tickets(folder: Path, tmp_path: Path) -> None:
    tasks = write_list(folder, tmp_path / "tasks.yaml", tickets=True)
    with pytest.raises(UserError, match="--optimizer FairseqAdam would move more than the tickets allow"):
        train(tasks, tmp_path / "out", folder / "model.pt", "--optimizer", "adam", "--no-save")


def bad_name(_: Path, entries: list[dict[str, Any]]) -> None:
    entries[1]["name"] = "three"


def other_size(target: Path, entries: list[dict[str, Any]]) -> None:
    SuperTicket.full(SHAPE._replace(layers=4)).save(target.parent / "two.json")


def missing_ticket(target: Path, entries: list[dict[str, Any]]) -> None:
    entries[1]["ticket"] = "nowhere.json"


def other_dictionary(target: Path, entries: list[dict[str, Any]]) -> None:
    copied = Path(shutil.copytree(entries[1]["data"], target.parent / "data"))
    lines = (copied / "input0" / "dict.txt").read_text().splitlines()
    (copied / "input0" / "dict.txt").write_text("\n".join(lines[::-1]) + "\n")
    entries[1]["data"] = str(copied)


def empty_task(target: Path, entries: list[dict[str, Any]]) -> None:
    toy.write_data(target.parent / "empty", train=0, classes=2)
    entries[1]["data"] = "empty"


def no_data(target: Path, entries: list[dict[str, Any]]) -> None:
    entries[1]["data"] = "nowhere"


def unknown_key(_: Path, entries: list[dict[str, Any]]) -> None:
    entries[2]["tiket"] = "x.json"


def bad_weight(_: Path, entries: list[dict[str, Any]]) -> None:
    entries[2]["weight"] = 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (bad_name, "two tasks have the name three"),
        (other_size, "ticket .*two.json of task two belongs to another model size"),
        (missing_ticket, "nowhere.json"),
        (other_dictionary, "tasks three and two have different dictionaries"),
        (empty_task, "task two has no examples: split 'train'"),
        (no_data, "task two: .*nowhere is not a binarised data folder"),
        (unknown_key, "task 3: unknown key 'tiket'"),
        (bad_weight, "task 3 .real.: weight is 0; it must be a number above 0"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bad_list_is_refused_before_training(folder: Path, tmp_path: Path, spoil: Any, message: str) -> None:
    import yaml

    target = write_list(folder, tmp_path / "list" / "tasks.yaml", tickets=True)
    entries = yaml.safe_load(target.read_text())["tasks"]
    spoil(target, entries)
    target.write_text(yaml.safe_dump({"tasks": entries}))

    def train_step(*_: Any, **__: Any) -> None:
        raise AssertionError("training has started")

    with watching("train_step", train_step), pytest.raises(UserError, match=message):
        train(target, tmp_path / "out", folder / "model.pt", "--no-save")


def test_a_checkpoint_without_a_head_is_refused(folder: Path, tmp_path: Path) -> None:
    """From several tasks to others of which some are new; from a model without heads to evaluation."""
    tasks = write_list(folder, tmp_path / "tasks.yaml", tickets=False, two={"name": "four"})
    with pytest.raises(UserError, match="no head for task four; its heads are three, two, real"):
        train(tasks, tmp_path / "out", folder / "shared" / "checkpoint_last.pt", "--no-save")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--best-checkpoint-metric", "accuracy"],
            "accuracy is not measured here; choose from loss, score, three_loss",
        ),
        (["--task-sampling", "temperature", "--task-temperature", "0"], "--task-temperature 0.0 must be above 0"),
    ],
)
def test_bad_options(folder: Path, tmp_path: Path, more: list[str], message: str) -> None:
    tasks = write_list(folder, tmp_path / "tasks.yaml", tickets=False)
    with pytest.raises(UserError, match=message):
        train(tasks, tmp_path / "out", folder / "model.pt", *more)


def test_a_task_with_nothing_but_long_examples_is_named(folder: Path, tmp_path: Path) -> None:
    """One example of 10 tokens; other tasks have shorter ones, which would otherwise be all that is trained on."""
    data = toy.write_data(tmp_path / "long", train=1, regression=True, seed=0)
    tasks = write_list(folder, tmp_path / "lists" / "tasks.yaml", tickets=False, real={"data": str(data)})
    few = ("--shorten-method", "none", "--max-positions", "8", "--skip-invalid-size-inputs-valid-test")
    with pytest.raises(UserError, match=r"^task real \(.*long\): all 1 examples of a split are longer than 8 tokens"):
        train(tasks, tmp_path / "run", folder / "model.pt", *few)
