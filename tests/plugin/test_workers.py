"""Data-parallel training: two workers (gloo, on the CPU) are one worker with twice the batch.

fairseq counts GPUs when it starts workers itself, so CPU workers are started one by one, as torchrun does, and then
find each other by the environment. Its `pytorch_ddp` wraps only models on a GPU; `legacy_ddp` works on both.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fairseq.distributed import utils as distributed

from fairseq_tickets.tickets import SuperTicket

from . import toy
from .test_training import SHAPE, TICKET, assert_same_weights, expected_metrics
from .training import NO_DROPOUT, Run, arguments, config, predictions, run_config, train

WORKERS = 2
PARALLEL = ["--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp", "--distributed-world-size", str(WORKERS)]


def train_in_parallel(data: Path, save_dir: Path, model: Path, *more: str) -> Run:
    """`training.train` by two workers, forked from this process; the report is that of the first."""
    made = config(arguments(data, save_dir, model, *PARALLEL, *more))
    save_dir.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(WORKERS):
        child = os.fork()
        if child == 0:  # no exception and no exit handler of the test run may go on from here
            status = 1
            try:
                sys.stdout = sys.stderr = open(save_dir / f"worker{rank}.log", "w")  # noqa: SIM115
                os.environ.update(
                    MASTER_ADDR="localhost", MASTER_PORT=str(port), WORLD_SIZE=str(WORKERS), RANK=str(rank)
                )
                distributed.infer_init_method(made.distributed_training)
                distributed.distributed_init(made)
                run = run_config(made, save_dir)
                (save_dir / f"worker{rank}.pickle").write_bytes(pickle.dumps(run))
                torch.distributed.barrier()
                status = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert statuses == [0] * WORKERS, (save_dir / "worker0.log").read_text() + (save_dir / "worker1.log").read_text()
    runs = [pickle.loads((save_dir / f"worker{rank}.pickle").read_bytes()) for rank in range(WORKERS)]
    first: Run = runs[0]
    assert [s["score"] for s in runs[1].valid] == [s["score"] for s in first.valid]  # every worker knows all figures
    return first


@pytest.mark.parametrize("data", ["data", "binary", "scores"])
def test_metrics_of_two_workers_are_those_of_all_predictions(folder: Path, tmp_path: Path, data: str) -> None:
    """The splits of 11 and 23 examples don't part evenly; in batches of 2 one worker gets a dummy batch."""
    run = train_in_parallel(folder / data, tmp_path, folder / "model.pt", "--max-epoch", "2", "--batch-size-valid", "2")
    _, outputs, targets = predictions(run.path(), folder / data)
    for name, value in expected_metrics(outputs, targets, data == "scores").items():
        assert run.valid[-1][name] == pytest.approx(value, abs=1e-4), name


@pytest.mark.parametrize("ticket", [False, True], ids=["full model", "under a ticket"])
def test_two_workers_train_what_one_trains_with_twice_the_batch(folder: Path, tmp_path: Path, ticket: bool) -> None:
    common = [*NO_DROPOUT, "--max-epoch", "5", "--lr", "0.001", "--required-batch-size-multiple", "1"]
    if ticket:
        TICKET.save(tmp_path / "ticket.json")
        common += ["--ticket", str(tmp_path / "ticket.json")]
    one = train(folder / "data", tmp_path / "one", folder / "model.pt", *common, "--batch-size", "24")
    two = train_in_parallel(folder / "data", tmp_path / "two", folder / "model.pt", *common, "--batch-size", "12")
    assert len(one.losses) == len(two.losses) == 5
    assert two.losses == pytest.approx(one.losses, abs=1e-5)
    assert_same_weights(one.checkpoint()["model"], two.checkpoint()["model"], 2e-5)
    for name in ("loss", "accuracy", "mcc", "accuracy_report"):
        assert two.valid[-1][name] == pytest.approx(one.valid[-1][name], abs=1e-4)


def test_two_workers_adopt_the_ticket_of_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    """Without --ticket the checkpoint they start from prunes the model, when it is wrapped for both already."""
    TICKET.save(tmp_path / "ticket.json")
    common = [*NO_DROPOUT, "--lr", "0.001", "--required-batch-size-multiple", "1"]
    under = ["--ticket", str(tmp_path / "ticket.json"), "--batch-size", "24", "--max-epoch", "1"]
    begun = train(folder / "data", tmp_path / "begun", folder / "model.pt", *common, *under)
    more = [*common, "--max-epoch", "4"]
    one = train(folder / "data", tmp_path / "one", begun.path(), *more, "--batch-size", "24")
    two = train_in_parallel(folder / "data", tmp_path / "two", begun.path(), *more, "--batch-size", "12")
    assert len(one.losses) == len(two.losses) == 4
    assert two.losses == pytest.approx(one.losses, abs=1e-5)
    assert_same_weights(one.checkpoint()["model"], two.checkpoint()["model"], 2e-5)


def test_uneven_workers_weigh_examples_equally(folder: Path, tmp_path: Path) -> None:
    """24 examples in batches of 5 and 5 and 5 and 5 and 4: the last update has a dummy batch on one worker."""
    common = [*NO_DROPOUT, "--max-epoch", "2", "--lr", "0.001"]
    one = train(
        folder / "data", tmp_path / "one", folder / "model.pt", *common, "--batch-size", "5", "--update-freq", "2"
    )
    two = train_in_parallel(folder / "data", tmp_path / "two", folder / "model.pt", *common, "--batch-size", "5")
    assert len(one.losses) == len(two.losses) == 6
    assert two.losses == pytest.approx(one.losses, abs=1e-5)
    assert_same_weights(one.checkpoint()["model"], two.checkpoint()["model"], 2e-5)


@pytest.mark.slow
def test_torchrun_with_the_real_command(folder: Path, tmp_path: Path) -> None:
    SuperTicket.full(SHAPE).save(tmp_path / "ticket.json")
    command = Path(sys.executable).parent / "fairseq-train"
    user_dir = Path(toy.__file__).resolve().parents[2] / "fairseq_tickets"
    words = arguments(folder / "binary", tmp_path, folder / "model.pt", *PARALLEL, "--user-dir", str(user_dir))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            "2",
            "--master_port",
            "29517",
            str(command),
            *words,
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed = done.stdout + done.stderr
    assert "as rank 1" in printed
    _, outputs, targets = predictions(tmp_path / "checkpoint_last.pt", folder / "binary")
    assert f'"valid_accuracy": "{float((outputs == targets).mean()):g}"' in printed
