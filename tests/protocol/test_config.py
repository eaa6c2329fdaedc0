"""Protocol files: defaults of the paper, overrides, and everything that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.config import Protocol, load_protocol, protocol_from

BASE: dict[str, Any] = {
    "experiment": "toy",
    "model": {"path": "models/minilm"},
    "glue": "glue",
    "tasks": {"RTE": None},
    "super_tickets": None,
}


def load(**changes: Any) -> Protocol:
    return protocol_from({**BASE, **changes}, Path("p.yaml"))


def test_defaults_are_those_of_the_paper() -> None:
    protocol = load()
    training = protocol.tasks["RTE"]
    assert training.learning_rates == (5e-5, 1e-4, 2e-4)
    assert training.batch_sizes == (8, 16, 32)
    assert (training.optimizer, training.max_epoch, training.warmup, training.clip_norm) == ("adamax", 6, 0.1, 1.0)
    assert protocol.seeds == (1, 2, 3, 4, 5)
    assert protocol.super_tickets is not None
    assert protocol.super_tickets.levels == {"RTE": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)}
    assert protocol.super_tickets.keep == {"RTE": ("winning", "random", "losing")}
    assert protocol.model.name == "minilm"


def test_paths_hold_in_every_folder() -> None:
    """A node of a cluster may have another current folder."""
    protocol = load(tasks={"mine": {"data": "~/mine"}})
    assert (protocol.model.path, protocol.tokenizer) == (Path.cwd() / "models" / "minilm",) * 2
    assert protocol.tasks["mine"].data == Path.home() / "mine"


def test_a_task_overrides_training_and_leaves_the_others_alone() -> None:
    protocol = load(tasks={"RTE": {"head_dropout": 0.3, "subset": 500}, "MRPC": None}, training={"head_dropout": 0.05})
    assert protocol.tasks["RTE"].head_dropout == 0.3
    assert protocol.tasks["RTE"].subset == 500
    assert protocol.tasks["MRPC"].head_dropout == 0.05


def test_a_power_of_ten_without_a_dot_is_a_number(tmp_path: Path) -> None:
    # YAML 1.1 reads 1e-4 as a text
    path = tmp_path / "p.yaml"
    path.write_text(
        "{experiment: e, model: {path: m}, glue: g, tasks: {RTE: }, dominant: {learning_rates: {full: 1e-4}}}"
    )
    protocol = load_protocol(path)
    assert protocol.dominant is not None and protocol.dominant.learning_rates["full"] == (1e-4,)


def test_levels_and_kinds_of_tickets_by_task() -> None:
    protocol = load(
        tasks={"RTE": None, "MRPC": None},
        super_tickets={
            "levels": {"default": [0.2, 0.4], "MRPC": 0.1},
            "keep": {"default": ["winning"], "RTE": ["winning", "losing"]},
        },
    )
    assert protocol.super_tickets is not None
    assert protocol.super_tickets.levels == {"RTE": (0.2, 0.4), "MRPC": (0.1,)}
    assert protocol.super_tickets.keep == {"RTE": ("winning", "losing"), "MRPC": ("winning",)}


def test_variables_in_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEWHERE", "/elsewhere")
    assert load(glue="$SOMEWHERE/glue").glue == Path("/elsewhere/glue")
    monkeypatch.delenv("SOMEWHERE")
    with pytest.raises(UserError, match="SOMEWHERE is not set"):
        load(glue="$SOMEWHERE/glue")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": 1}, "p.yaml: unknown key 'speed'; the keys here are experiment, model"),
        ({"training": {"learning_rate": 1}}, "training: unknown key 'learning_rate'; the keys here are learning_rates"),
        ({"tasks": {"RTE": {"epochs": 3}}}, "tasks: RTE: unknown key 'epochs'"),
        ({"tasks": {"RTX": None}}, "unknown task 'RTX'; it must be one of CoLA"),
        ({"tasks": {"RTE": {"metrics": ["bleu"]}}}, "'bleu' is unknown; it must be one of accuracy"),
        ({"super_tickets": {"tasks": ["MRPC"]}}, "'MRPC' is unknown; it must be one of RTE"),
        ({"super_tickets": {"keep": ["best"]}}, "'best' is unknown; it must be one of winning"),
        ({"super_tickets": {"levels": []}}, "levels is empty"),
        ({"super_tickets": {"levels": [0.1, 0.1]}}, "0.1 is listed twice"),
        ({"super_tickets": {"levels": {"QNLI": [0.1]}}}, "super_tickets: levels: unknown key 'QNLI'"),
        ({"seeds": [1.5]}, "seeds is 1.5; it must be a whole number"),
        ({"search_seeds": 9}, "search_seeds is 9, but there are only"),
        ({"seeds": [True]}, "seeds is True; it must be a whole number"),
        ({"training": {"max_epoch": 0}}, "max_epoch is 0; it must be a whole number of at least 1"),
        ({"training": {"warmup": 2}}, "warmup is 2; it must be a number at least 0 and at most 1"),
        ({"training": {"learning_rates": [0]}}, "learning_rates is 0; it must be a number above 0"),
        ({"training": {"optimizer": "lamb"}}, "optimizer is 'lamb'; it must be one of adamax"),
        ({"training": {"precision": "fp16"}}, "precision is 'fp16'; it must be one of float32, bf16"),
        ({"training": {"precision": "bf16", "amp": True}}, "precision is 'bf16' and amp is true; take one of them"),
        (
            {"tasks": {"RTE": {"precision": "bf16"}}, "dominant": {"l1": {"amp": True}}},
            "dominant: precision is 'bf16' and amp is true; take one of them",
        ),
        ({"tasks": {"RTE": {"subset": 0}}}, "subset is 0; it must be a whole number of at least 1"),
        ({"tasks": {"RTE": {"subset": 1.5}}}, "subset is 1.5; it must be"),
        ({"tasks": {"RTE": {"subset": True}}}, "subset is True; it must be"),
        ({"tasks": {"RTE": 3}}, "tasks: RTE is 3; it must be a mapping"),
        ({"tasks": {"RTE": {"optimizer": ["sgd"]}}}, "tasks: RTE: optimizer is ['sgd']; it must be one of adamax"),
        ({"training": 7}, "training is 7; it must be a mapping"),
        ({"training": {"max_epochs": 7}}, "'max_epochs'; the keys here are learning_rates, batch_sizes, max_epoch,"),
        ({"training": {"max_epochs": 7}}, "(did you mean max_epoch?)"),
        ({"training": {3: 7}}, "p.yaml: training: the key 3 is no text"),
        ({"model": None}, "p.yaml: model: there is no path; it must be a text"),
        ({"model": {"path": 3}}, "model: path is 3; it must be a text"),
        ({"model": {"path": "m", "name": "a\nb"}}, "model: name is 'a\\nb'; a name has"),
        ({"keep_checkpoints": 1}, "keep_checkpoints is 1; it must be true or false"),
        ({"seeds": [1, -1]}, "seeds is -1; it must be a whole number of at least 0"),
        ({"dominant": {"l1": {"weight": 0}}}, "dominant: l1: weight is 0; it must be a number above 0"),
        (
            {"sharing": {"training": {"learning_rates": 1, "batch_sizes": 8}, "then": {"amp": "yes"}}},
            "sharing: then: amp is 'yes'; it must be true or false",
        ),
        ({"sharing": [], "search_seeds": 2}, "sharing is []; it must be a mapping"),
        (
            {
                "tasks": {"RTE": {"fractions": 0.5}, "MRPC": None},
                "adaptation": {"source": "RTE", "targets": "MRPC"},
            },
            "adaptation: source: RTE must be among the tasks of super_tickets, with winning tickets of all its data",
        ),
        (
            {
                "tasks": {"RTE": {"fractions": 0.5, "learning_rates": 1}},
                "sharing": {"training": {"batch_sizes": 8, "learning_rates": 1}},
            },
            "sharing: tasks: RTE has no tickets to share: it must be among the tasks of super_tickets, with winning",
        ),
        ({"super_tickets": {"settings": "all"}, "search_seeds": 1}, "super_tickets: settings is 'all', on every seed"),
        ({"tasks": {}}, "tasks is empty"),
        ({"tasks": ["RTE"]}, "it must be a mapping"),
        ({"experiment": "../up"}, "it names a folder"),
        ({"glue": None, "tasks": {"RTE": None}}, "glue"),
        ({"adaptation": {"source": "RTE", "targets": ["RTE"]}}, "targets"),
        ({"dominant": {"salience": {"metric": "hessian"}}}, "metric is 'hessian'; it must be one of gradient, fisher"),
        ({"dominant": {"salience": {"examples": 0}}}, "salience: examples is 0"),
        ({"dominant": {"salience": {"examples": 4}}}, "batch_size is 8, more than the 4 examples to take"),
        ({"dominant": {"salience": {"heads": 1}}}, "salience: unknown key 'heads'"),
        ({"dominant": {"learning_rates": {"salience": [1]}}}, "unknown key 'salience'"),
        (
            {"super_tickets": {"keep": ["random"]}, "early": None},
            "early: super_tickets has no winning tickets of all the",
        ),
        ({"early": {"after": [1]}}, "early: after is 1; it must be a number above 0 and at most 0.99"),
        (
            {"early": {"levels": [0.15]}},
            "early: levels: 0.15 is not among the levels of RTE's winning tickets: 0.1, 0.2",
        ),
        ({"early": {"tasks": ["MRPC"]}}, "early: tasks: 'MRPC' is unknown; it must be one of RTE"),
        ({"tasks": {"RTE": {"fractions": [0.1]}}, "early": None}, "no winning tickets of all the data of any task"),
        ({"iterative": {"step": 0.6}}, "iterative: step is 0.6; it must be a number above 0 and at most 0.5"),
        ({"iterative": {"step": 0.15}}, "iterative: levels: 0.2 is no whole number of steps of 0.15"),
        ({"iterative": {"levels": [0.1]}}, "0.1 is not among the levels of RTE's winning tickets: 0.2, 0.3"),
        (
            {"iterative": {"fraction_of_budget": 2}},
            "fraction_of_budget is 2; it must be a number above 0 and at most 1",
        ),
        ({"iterative": {"budget": 2}}, "iterative: unknown key 'budget'"),
        ({"super_tickets": {"levels": [0.1]}, "iterative": None}, "levels: there are none in the levels of RTE's"),
        ({"dominant": {"methods": ["lora"]}}, "'lora' is unknown; it must be one of full, dominant"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        load(**changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("section", ["early", "iterative"])
def test_comparisons_need_super_tickets(section: str) -> None:
    content = {**BASE, "dominant": None, section: None}
    del content["super_tickets"]
    with pytest.raises(UserError, match=f"{section} needs a section super_tickets with winning tickets"):
        protocol_from(content, Path("p.yaml"))


def test_defaults_of_early_and_iterative() -> None:
    protocol = load(early=None, iterative=None)
    assert protocol.early is not None and protocol.iterative is not None
    assert protocol.early.after == (0.01, 0.05, 0.1, 0.25, 0.5)
    assert protocol.early.levels == {"RTE": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)}
    assert protocol.iterative.levels == {"RTE": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)}
    assert [protocol.iterative.steps_to(level) for level in protocol.iterative.levels["RTE"]] == [2, 3, 4, 5, 6, 7, 8]
    assert protocol.iterative.fraction_of_budget is None


def test_tickets_on_parts_of_the_data_are_shared_by_nobody_who_shares_none() -> None:
    tasks = {"RTE": {"fractions": 0.5, "learning_rates": 1}}
    sharing = {"methods": "mt_dnn", "training": {"batch_sizes": 8}}
    protocol = load(tasks=tasks, training={"learning_rates": 1}, sharing=sharing)
    assert protocol.sharing is not None and protocol.sharing.tasks == ("RTE",)


def test_what_is_not_said_below_is_said_above() -> None:
    protocol = load(
        training={"max_epoch": 2, "learning_rates": 1},
        dominant={"l1": {"max_epoch": 9}},
        sharing={"training": {"batch_sizes": 4}},
    )
    assert protocol.dominant is not None and protocol.sharing is not None
    task, found = protocol.tasks["RTE"], protocol.dominant
    assert (found.training.over(task).max_epoch, found.l1.over(task).max_epoch, found.l1.weight) == (2, 9, 1e-3)
    assert protocol.sharing.training.grid() == [(1.0, 4)] and protocol.sharing.then is None


def test_subset_is_a_count_or_a_part() -> None:
    for given, kept in ((500, 500), (0.5, 0.5), (1, 1.0), (1.0, 1.0), (None, None)):
        found = load(tasks={"RTE": {"subset": given}}).tasks["RTE"].subset
        assert (found, type(found)) == (kept, type(kept))


def test_nothing_asked_for() -> None:
    content = {key: value for key, value in BASE.items() if key != "super_tickets"}
    with pytest.raises(UserError, match="needs a section super_tickets, dominant or sharing"):
        protocol_from(content, Path("p.yaml"))
