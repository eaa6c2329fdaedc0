"""What a run was made of, kept in its checkpoints, so that no run goes on as another.

fairseq goes on from checkpoint_last.pt in --save-dir whatever the options say: with another --ticket it finds itself
done already, or trains fine-tuned weights that were to be rewound. Here a run's checkpoints record what fixed it (task,
data, dictionary, ticket, base, criterion, optimizer), files by their content; going on with anything else is refused.
What may change between launches: how long to train, the learning rate and its schedule, batches, evaluation, logging.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

from omegaconf import DictConfig, OmegaConf

from fairseq_tickets.dictionary import symbols_digest
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import file_digest
from fairseq_tickets.plugin.start import Start, section_of
from fairseq_tickets.recorded import options
from fairseq_tickets.task_record import RUN_STATE
from fairseq_tickets.tickets import load_ticket

logger = logging.getLogger(__name__)

SETTINGS: Mapping[str, tuple[str, ...]] = {
    "task": (
        "_name",
        "ticket_form",
        "ticket_route",
        "random_elements",
        "random_elements_seed",
        "delta_checkpoints",
        "init_token",
        "separator_token",
        "shorten_method",
        "train_examples",
        "train_examples_seed",
        "task_sampling",
        "task_temperature",
    ),
    "criterion": ("_name", "l1_weight", "l1_mode", "classification_head_name"),
    "optimizer": ("_name", "ticket_optimizer"),
}
_OLD = (("task", "ticket"), ("checkpoint", "finetune_from_model"))  # paths, all that old checkpoints tell of files
_WHAT = {
    "base": "--finetune-from-model",
    "theta0": "--pretrained-path",
    "dictionary": "dictionary",
    "ticket": "--ticket",
    "data": "data",
    "tasks": "list of tasks",
}
_MENDED = "use another --save-dir, or give that run's own options to go on with it"
_RESTORED = (
    "give that run's own options, or start anew from it with --reset-optimizer --reset-dataloader --reset-meters"
)


def run_record(cfg: Any, parts: Mapping[str, tuple[Any, Optional[str]]], several: bool) -> dict[str, Any]:
    """What fixes a run, files by their checksums.

    Args:
        cfg: the task's config, part of the whole one.
        parts: by name, a task (TicketSentencePredictionTask) and its ticket file or None.
        several: True for a list of tasks, whose names count.
    """
    base = (section_of(cfg, "checkpoint") or {}).get("finetune_from_model")
    criterion = section_of(cfg, "criterion")
    theta0 = base
    if isinstance(criterion, DictConfig) and "l1_weight" in criterion:
        theta0 = criterion.get("pretrained_path") or base
    tasks = {
        name if several else "": {
            "ticket": None if ticket is None else ticket_digest(ticket),
            "data": data_digest(Path(task.cfg.data)),
            "labels": task.label_names,
        }
        for name, (task, ticket) in parts.items()
    }
    first = next(iter(parts.values()))[0]
    return {
        "version": 1,
        "base": _file(base),
        "theta0": _file(theta0),
        "dictionary": symbols_digest(first.source_dictionary.symbols),
        "inputs": {name: cfg[name] for name in ("init_token", "separator_token")},
        "tasks": tasks,
    }


def check_same_run(start: Optional[Start], cfg: Any, record: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that was made of something else.

    Args:
        start: where training starts; nothing is asked unless it resumes.
        cfg: any section of the whole config.
        record: of the run to come.

    Raises:
        UserError: naming what differs.
    """
    if start is None or not start.resumes or not start.content.get("optimizer_history"):
        return
    found = next(_differences(start, cfg, record), None)
    if found is not None:
        where = f"--save-dir {start.path.parent}" if start.option == "--save-dir" else f"{start.option} {start.path}"
        mend = _MENDED if start.option == "--save-dir" else _RESTORED
        raise UserError(f"{where} holds another run ({start.path.name}): {found}; {mend}")


def ticket_digest(path: str) -> str:
    """Hex SHA-256 of what a ticket says, its provenance apart."""
    content = {name: value for name, value in load_ticket(path).to_json().items() if name != "provenance"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def data_digest(data: Path) -> Optional[str]:
    """Hex SHA-256 of the lengths of all training sentences, which tells data sets apart; None without them."""
    index = data / "input0" / "train.idx"
    return file_digest(index) if index.is_file() else None


def _file(path: Optional[str]) -> Optional[str]:
    return file_digest(path) if path and Path(path).is_file() else None


def _differences(start: Start, cfg: Any, record: Mapping[str, Any]) -> Iterator[str]:
    for section, names in SETTINGS.items():
        yield from _other_settings(start, cfg, section, names)
    saved = (start.content.get("task_state") or {}).get(RUN_STATE)
    if not isinstance(saved, Mapping):
        yield from _other_paths(start, cfg)
        return
    for name in ("base", "theta0", "dictionary"):
        # --restore-file excludes --finetune-from-model
        if record[name] is not None or start.option == "--save-dir":
            yield from _other(name, saved.get(name), record[name])
    was, now = saved.get("tasks") or {}, record["tasks"]
    if list(was) != list(now):
        yield f"{_WHAT['tasks']} was {', '.join(was)} there and is {', '.join(now)} here"
    for task in now:
        of = f"task {task}: " if task else ""
        for name in ("ticket", "data"):
            for found in _other(name, was[task].get(name), now[task][name]):
                yield of + found
        labels, given = was[task].get("labels"), now[task]["labels"]
        if labels != given:
            yield f"{of}labels were {_listed(labels)} there and are {_listed(given)} here"


def _other_settings(start: Start, cfg: Any, section: str, names: tuple[str, ...]) -> Iterator[str]:
    whole = start.content.get("cfg")
    saved, own = _plain(whole.get(section) if isinstance(whole, Mapping) else None), _plain(section_of(cfg, section))
    for name in names:
        if name in own and name in saved and str(saved[name]) != str(own[name]):
            option = f"--{section}" if name == "_name" else f"--{name.replace('_', '-')}"
            yield f"{option} was {_shown(saved[name])} there and is {_shown(own[name])} here"


def _plain(section: Any) -> dict[str, Any]:
    """A section of a config, saved or live, whatever fairseq keeps it in: older components have a Namespace."""
    if isinstance(section, Namespace):
        return vars(section)
    if isinstance(section, DictConfig):
        section = OmegaConf.to_container(section, resolve=True, enum_to_str=True)
    return dict(section) if isinstance(section, Mapping) else {}


def _other_paths(start: Start, cfg: Any) -> Iterator[str]:
    """Checkpoints from before there was a record: was there a ticket, a base? Other paths may be the same files."""
    for section, name in _OLD:
        live = section_of(cfg, section)
        if live is None or (name != "ticket" and start.option != "--save-dir"):
            continue
        was, now = options(start.content, section).get(name), live.get(name)
        option = f"--{name.replace('_', '-')}"
        if bool(was) != bool(now):
            yield f"{option} was {_shown(was)} there and is {_shown(now)} here"
        elif was and os.path.abspath(was) != os.path.abspath(now):
            logger.warning(f"{option} was {was} in {start.path} and is {now}: going on as if they were the same")


def _other(name: str, was: Any, now: Any) -> Iterator[str]:
    if was != now:
        kind = "was not given there" if was is None else "is not given here" if now is None else "is another one there"
        yield f"{_WHAT[name]} {kind}"


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)


def _listed(labels: Any) -> str:
    return ", ".join(map(str, labels or [])) or "none"
