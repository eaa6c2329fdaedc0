"""Functions behind steps: prepare data, train on a task or for a part of it, score.

Each gets the folder to write in and plain arguments, and returns when its last file is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq_tickets.protocol.functions import fairseq_train
from fairseq_tickets.protocol.functions.result_content import (
    common_result,
    recorded,
    scores_of,
    seconds_of,
    task_facts,
    write_training,
)
from fairseq_tickets.protocol.functions.tickets import make_ticket
from fairseq_tickets.protocol.steps import CHECKPOINT, DATA, SCORES
from fairseq_tickets.protocol.store import write_result


def prepare(folder: Path, task: str, inputs: Mapping[str, str], glue: str, tokenizer: str, dictionary: str) -> None:
    """Prepare a task's data in the folder `data`.

    Args:
        inputs: checksums of the files that it is prepared from, by role.
    """
    from fairseq_tickets.data.prepare import prepare as prepare_data
    from fairseq_tickets.data.tasks import find_files, find_task

    spec = find_task(task)
    files = find_files(Path(glue), spec)
    prepare_data(spec, files, folder / DATA, tokenizer=Path(tokenizer), dictionary=Path(dictionary))


def train(folder: Path, **run: Any) -> None:
    """Train, evaluate and write the result file; the arguments are those that `Lab.train` gives."""
    data, facts, ticket = Path(run["data"]), task_facts(Path(run["data"])), make_ticket(folder, run)
    options = fairseq_train.options_of(run, folder, ticket)
    if run["method"] == "random_elements":
        chosen = run["ticket"]
        options += ["--random-elements", repr(chosen["elements"]), "--random-elements-seed", str(chosen["seed"])]
    predicts = run["predicts"] and fairseq_train.has_split(data, "test")
    recorder = fairseq_train.run_training(options, folder, run["config"], saves=run["saves"] or predicts)
    content = {
        **common_result(run, facts),
        "level": run["level"],
        "top_k": run["top_k"],
        "source_task": run["source_task"],
        "shared_tasks": run["shared_tasks"],
        "ticket": None if ticket is None else ticket.to_json(),
        "ticket_seconds": seconds_of(run["ticket_steps"]),
        "weight_remaining": recorder.weight_remaining(ticket),
        **recorded(recorder, run["config"]),
        "scores": scores_of(recorder.best_epoch()["valid"]),
    }
    if predicts:
        from fairseq_tickets.protocol.functions.predictions import write_predictions

        files = write_predictions(folder / CHECKPOINT, data, facts, folder, run["config"]["device"])
        content["predictions"] = {"file": files[0], "files": files}
    if not run["saves"]:
        (folder / CHECKPOINT).unlink(missing_ok=True)
    write_result(folder, content)


def train_part(folder: Path, **run: Any) -> None:
    """Fine-tuning for a part of all updates; the arguments are those that `Lab.train_part` gives.

    The checkpoint of the last update is kept. One under a ticket becomes a whole model of the same function, its pruned
    heads and FFNs zeros: scored, these have the importance 0, and training can go on from it under a smaller ticket.
    """
    ticket, config = make_ticket(folder, run), run["config"]
    whole = fairseq_train.updates_of(run, config)
    updates = max(1, round(run["part"] * whole))
    options = [*fairseq_train.options_of(run, folder, ticket), "--max-update", str(updates)]
    if run["decay"] == "part":
        options += ["--total-num-update", str(updates), "--warmup-updates", str(round(config["warmup"] * updates))]
    recorder = fairseq_train.run_training(options, folder, config, saves=True, last=True)
    if ticket is not None:
        _make_whole(folder / CHECKPOINT, ticket.shape.ffn_dim)
    about = {"part": run["part"], "updates": updates, "updates_of_a_whole_run": whole}
    write_training(folder, "part-of-training", recorder, config, **about)


def _make_whole(path: Path, ffn_dim: int) -> None:
    from fairseq_tickets import checkpoint
    from fairseq_tickets.convert.dense import dense_state_dict

    state = checkpoint.load(path)
    state["model"] = dense_state_dict(state["model"], ffn_dim)
    checkpoint.save(state, path)


def score(
    folder: Path,
    task: str,
    seed: int,
    fraction: float,
    config: Mapping[str, Any],
    full: str,
    full_key: str,
    data: str,
    granularity: str,
    limit: int | None,
) -> None:
    """Importance scores of a fine-tuned full model over its training data.

    Args:
        full, full_key: its checkpoint, and the key of its run.
        granularity, limit: see `plugin.scoring.score_checkpoint`.
    """
    from fairseq_tickets.plugin.scoring import score_checkpoint

    fairseq_train.pin_threads(config["threads"])
    batch_size = config["batch_size"] if granularity == "batch" else 32
    scores = score_checkpoint(
        full, data, granularity=granularity, batch_size=batch_size, limit=limit, device=config["device"]
    )
    scores.provenance.update(run=full_key, seed=seed)
    # the checkpoint holds the time it was written; its run's key says the same and never changes
    scores.provenance.pop("checkpoint_sha256", None)
    scores.save(folder / SCORES)
