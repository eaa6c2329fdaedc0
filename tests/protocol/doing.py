"""Steps done one after the other in this process, without engine or store: a protocol on toy data in a few seconds."""

from __future__ import annotations

import json
import pkgutil
from pathlib import Path
from typing import Any

from fairseq_tickets.protocol.experiment import Experiment
from fairseq_tickets.protocol.lab import Lab
from fairseq_tickets.protocol.steps import RESULT, Step
from fairseq_tickets.protocol.store import write_done

from ..plugin.training import fresh_process


def done(path: Path) -> tuple[Lab, list[dict[str, Any]]]:
    """Do all steps that a protocol asks for at once; its lab, and the results in order of the recipes."""
    lab = Experiment(path, path.parent / "runs").known()
    assert all(branch.known for branch in lab.branches)
    for step in lab.steps.values():
        with fresh_process():
            do(step)
    found = [step.folder / RESULT for step in lab.steps.values() if step.makes_result]
    return lab, [json.loads(file.read_text(encoding="utf-8")) for file in found]


def do(step: Step) -> None:
    """Call a step's function."""
    step.folder.mkdir(parents=True)
    pkgutil.resolve_name(step.function)(step.folder, **step.given())
    write_done(step.folder, [], {"seconds": seconds_of(step)})


def seconds_of(step: Step) -> float:
    """How long a step is said to have taken: a number that tells it from others and from the sums of others."""
    return 2.0**step.order
