"""What the startup hook costs a program that never imports fairseq.

Python runs `fairseq_tickets.pth` at every start. This starts interpreters in turn that do nothing, with the file and
without it (in a copy of an otherwise empty virtual environment), and compares the medians. The order changes from
round to round, so that a machine that gets slower or faster meets both alike.

    python benchmarks/startup.py --rounds 200 --output startup.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

PTH = "fairseq_tickets.pth"
WITH, WITHOUT = "with the hook", "without"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="starts of each kind (default: 200)")
    parser.add_argument("--output", type=Path, help="write the figures here as JSON too")
    options = parser.parse_args()
    installed = [Path(folder) / PTH for folder in sys.path if (Path(folder) / PTH).is_file()]
    if not installed:
        parser.error(f"{PTH} is not installed in this environment: run `make setup`")
    with tempfile.TemporaryDirectory() as folder:
        pythons = {name: bare_environment(Path(folder) / name.replace(" ", "_")) for name in (WITH, WITHOUT)}
        site = subprocess.check_output(
            [pythons[WITH], "-c", "import site; print(site.getsitepackages()[0])"], text=True
        )
        (Path(site.strip()) / PTH).write_bytes(installed[0].read_bytes())
        seconds = measure(pythons, options.rounds)
    report(seconds, options.output)


def bare_environment(folder: Path) -> str:
    """A virtual environment with nothing in it; returns its Python."""
    venv.create(folder, symlinks=os.name != "nt")
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def measure(pythons: dict[str, str], rounds: int) -> dict[str, list[float]]:
    """Wall-clock seconds of `rounds` starts of each interpreter, interleaved in random order."""
    seconds: dict[str, list[float]] = {name: [] for name in pythons}
    order = random.Random(1)
    for turn in range(-5, rounds):  # the first rounds fill the disk cache and don't count
        for name in order.sample(sorted(pythons), len(pythons)):
            start = time.perf_counter()
            subprocess.run([pythons[name], "-c", "pass"], check=True)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(seconds: dict[str, list[float]], output: Path | None) -> None:
    """Print medians and quartiles in milliseconds, and the difference of the medians."""
    figures = {}
    for name, values in seconds.items():
        low, median, high = (1000 * value for value in statistics.quantiles(values, n=4))
        figures[name] = {"median_ms": median, "quartiles_ms": [low, high], "minimum_ms": 1000 * min(values)}
        print(f"{name:15} median {median:6.2f} ms, quartiles {low:.2f} to {high:.2f}, minimum {1000 * min(values):.2f}")
    pairs = [1000 * (a - b) for a, b in zip(seconds[WITH], seconds[WITHOUT])]
    low, middle, high = statistics.quantiles(pairs, n=4)
    print(f"difference      median {middle:+6.2f} ms, quartiles {low:+.2f} to {high:+.2f}, over {len(pairs)} pairs")
    if output is not None:
        result = {
            "benchmark": "startup",
            "rounds": len(pairs),
            "figures": figures,
            "difference_ms": {"median": middle, "quartiles": [low, high]},
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
