"""`options`: what fairseq's own parser says about the same components."""

from __future__ import annotations

import argparse
import json

import pytest
from fairseq.dataclass.utils import gen_parser_from_dataclass

from fairseq_tickets.cli import main
from fairseq_tickets.plugin.components import components

UNEXPLAINED = ("--no-shuffle",)  # by fairseq itself


def test_every_option_is_what_fairseq_takes(capsys: pytest.CaptureFixture[str]) -> None:
    for (kind, name), config in components().items():
        assert main(["options", f"{kind}/{name}", "--json"]) == 0
        rows = {row["option"]: row for row in json.loads(capsys.readouterr().out)[f"{kind}/{name}"]}
        parser = argparse.ArgumentParser(add_help=False)
        gen_parser_from_dataclass(parser, config())
        actions = {action.option_strings[0]: action for action in parser._actions if action.option_strings}
        assert rows.keys() <= {*actions, "--data"}, name
        assert all(row["help"] or option in UNEXPLAINED for option, row in rows.items()), name
        for option, action in actions.items():
            if option in rows and action.choices:
                assert rows[option]["values"] == [str(choice) for choice in action.choices]


def test_components_and_their_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["options"]) == 0
    assert "optimizer: ticket\n" in capsys.readouterr().out
    assert main(["options", "ticket_sentence_prediction"]) == 0
    shown = capsys.readouterr().out
    assert "task/ticket_sentence_prediction:" in shown and "criterion/ticket_sentence_prediction:" in shown
    assert "  --ticket-form {compact,gated} (default: compact)" in shown
    assert main(["options", "nonsense"]) == 2
    assert "no component nonsense; choose from ticket_sentence_prediction," in capsys.readouterr().err


def test_keys_of_a_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["options", "protocol", "--json"]) == 0
    rows = {row["option"]: row for row in json.loads(capsys.readouterr().out)["protocol"]}
    assert rows["training.warmup"]["values"] == "a number at least 0 and at most 1"
    assert (rows["dominant.sigma"]["default"], rows["model.path"]["default"]) == (5e-5, "must be given")
    assert rows["tasks.TASK.subset"]["values"].startswith("a whole number of at least 1 or a number above 0")
    assert {"dominant.l1.weight", "sharing.then", "early.after"} <= rows.keys()
    assert not {"tasks.TASK.max_epoch", "dominant.l1.max_epoch"} & rows.keys()  # said once, in `training`
    assert main(["options", "protocol"]) == 0
    assert "  iterative.step a number above 0 and at most 0.5 (default: 0.1)" in capsys.readouterr().out
