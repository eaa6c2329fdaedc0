"""What `doctor` tries in an interpreter of its own: the few things that every command needs of PyTorch and NumPy.

Each check is done for real on a few numbers, since versions that are each supported can still not work together. One
JSON line is printed before a check and one after it, so that a check that ends the interpreter is known by name.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable


class Fault(Exception):
    """A check found another result than the right one."""


def expect(right: bool, otherwise: str) -> None:
    """Raises Fault."""
    if not right:
        raise Fault(otherwise)


def numbers(folder: Path) -> None:
    """Tensors to NumPy arrays and back."""
    import numpy as np
    import torch

    array = torch.arange(3.0).numpy()
    expect(np.array_equal(array, [0.0, 1.0, 2.0]), f"tensor 0, 1, 2 became the array {array}")
    expect(torch.from_numpy(np.ones(2, dtype=np.float32)).tolist() == [1.0, 1.0], "array 1, 1 became another tensor")


def round_trip(folder: Path) -> None:
    """A checkpoint of the kinds of things that fairseq's hold, written and read."""
    import numpy as np
    import torch

    from fairseq_tickets import checkpoint

    path = folder / "checkpoint.pt"
    weight = torch.arange(6.0).view(2, 3)
    options = argparse.Namespace(lr=[1e-4], arch="ticket_roberta")
    best = {"best": np.float64(0.5)}
    checkpoint.save({"args": options, "model": {"weight": weight}, "extra_state": best}, path)
    for mmap in (False, True):
        loaded = checkpoint.load(path, mmap=mmap)
        expect(torch.equal(loaded["model"]["weight"], weight), "the weights came back changed")
        expect(loaded["args"] == options and loaded["extra_state"] == best, "the options came back changed")


class _Planted:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def refusal(folder: Path) -> None:
    """A checkpoint whose pickle would call a function is refused, and the function is not called."""
    import torch

    from fairseq_tickets import checkpoint
    from fairseq_tickets.errors import UserError

    mark, path = folder / "called", folder / "planted.pt"
    torch.save({"model": _Planted(mark)}, path)
    try:
        checkpoint.load(path)
    except UserError:
        refused = True
    else:
        refused = False
    expect(not mark.exists(), "it ran what a checkpoint told it to")
    expect(refused, "it took a checkpoint that names a function")


def training(folder: Path) -> None:
    """One update of a small encoder layer, in which only what may move moves."""
    import torch

    from fairseq_tickets.encoder_layer import TicketEncoderLayer
    from fairseq_tickets.updates.optimizer import SlicedOptimizer
    from fairseq_tickets.updates.parts import Columns

    torch.manual_seed(1)
    layer = TicketEncoderLayer(6, 10, 3)
    weight = dict(layer.named_parameters())["fc1.weight"]
    before = weight.detach().clone()
    parts = {"fc1.weight": [Columns(torch.tensor([4]))]}
    optimizer = SlicedOptimizer(layer.named_parameters(), parts, lambda leaves: torch.optim.AdamW(leaves, lr=0.1))
    loss = layer(torch.randn(5, 2, 6)).square().mean()
    loss.backward()
    optimizer.step()
    moved = (weight.detach() != before).any(dim=0).nonzero().flatten().tolist()
    expect(
        bool(torch.isfinite(loss)) and moved == [4], f"the loss is {loss.item()}, and columns {moved} moved, not [4]"
    )


CHECKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "arrays from tensors": (numbers, "NumPy and PyTorch don't fit: with NumPy 2, PyTorch must be 2.3 or newer"),
    "a small checkpoint written and read": (
        round_trip,
        "install torch>=2.3 and numpy>=1.26 or newer",
    ),
    "a checkpoint with a planted call refused": (refusal, "load no file that you don't trust; install torch>=2.3"),
    "one training step": (training, "install torch>=2.3 again, built for this machine"),
}


def main() -> int:
    """Run every check, whatever became of the one before."""
    with tempfile.TemporaryDirectory() as folder:
        for name, (check, _) in CHECKS.items():
            print(json.dumps({"started": name}), flush=True)
            try:
                check(Path(folder))
            except Exception as error:  # a broken installation can fail in any way, and that is the finding
                line = (str(error).strip().splitlines() or [""])[0]
                kind = "" if isinstance(error, Fault) else f"{type(error).__name__}: "
                print(json.dumps({"ended": name, "fault": kind + line}), flush=True)
            else:
                print(json.dumps({"ended": name, "fault": None}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
