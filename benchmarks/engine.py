"""What an experiment's machinery costs: steps that do nothing, planned, done and read as a table.

    python benchmarks/engine.py --output runs/bench/engine.json

- plan: a recipe asks for steps and the driver finds which can be done, in a process of its own: seconds, peak memory
- overhead: wall time a step, of steps that do nothing, with one worker: claim, process, files, and the driver's part
- table: `table levels` over as many results, in a process of its own
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fairseq_tickets.files import write_json

STEPS, DONE = 10_000, 200  # planned, and really done
LEVELS, SEEDS = 20, 50  # of the table's results: levels x seeds x 5 tasks x 2 methods = 10,000
ROOT = Path(__file__).parents[1]


def nothing(folder: Path, number: int, after: list[str]) -> None:
    """A step."""
    (folder / "nothing").touch()


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="write the figures here, as JSON")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps to plan, and results in the table")
    parser.add_argument("--done", type=int, default=DONE, help="steps to do with each engine")
    parser.add_argument(
        "--engine", action="append", choices=("local", "ray"), help="default: local, and ray if installed"
    )
    parser.add_argument("--part", choices=("plan", "table"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part == "plan":
        print(json.dumps(plan(args.steps)))
    elif args.part == "table":
        print(json.dumps(table(args.steps)))
    else:
        figures: dict[str, Any] = {"steps": args.steps, "done": args.done}
        figures["plan"], figures["table"] = (part(name, args.steps) for name in ("plan", "table"))
        for engine in args.engine or engines():
            figures[engine] = overhead(engine, args.done)
        print(json.dumps(figures, indent=1))
        if args.output is not None:
            write_json(args.output, figures)


def part(name: str, steps: int) -> Any:
    """Figures of a part, from a process of its own."""
    command = [sys.executable, __file__, "--part", name, "--steps", str(steps)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def plan(steps: int) -> dict[str, float]:
    """A tenth of the steps without needs, the others after one of these each."""
    from fairseq_tickets.protocol.driver import Driver
    from fairseq_tickets.protocol.engines import Engine

    with tempfile.TemporaryDirectory() as folder:
        lab = lab_at(Path(folder))
        began = time.perf_counter()
        nowhere = Engine()
        nowhere.at_once = 0  # nothing is handed over
        driver = Driver(lab, nowhere)
        driver.begin(lambda lab: ask(lab, steps))
        seconds = time.perf_counter() - began
        assert len(driver.demand.todo) == steps
    return {"seconds": round(seconds, 3), "peak_mb": peak()}


def overhead(engine: str, steps: int) -> dict[str, float]:
    """Milliseconds a step; the first ones, which wait until the engine has loaded PyTorch, are left out."""
    from fairseq_tickets.protocol.driver import Driver
    from fairseq_tickets.protocol.engines import Options, start_engine

    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with start_engine(engine, Options(workers=1), folder) as started:
            Driver(lab_at(folder), started).drive(lambda lab: ask(lab, 4))
            began = time.perf_counter()
            Driver(lab_at(folder), started).drive(lambda lab: ask(lab, steps + 4))
            seconds = time.perf_counter() - began
    return {"milliseconds": round(1000 * seconds / steps, 2)}


def table(results: int) -> dict[str, float]:
    """Seconds of `table levels` over so many results in one file."""
    from fairseq_tickets.cli import main as command

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.jsonl"
        size = write_results(path, results)
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            assert command(["table", "levels", str(path)]) == 0
        seconds = time.perf_counter() - began
    return {"seconds": round(seconds, 3), "file_mb": round(size / 1e6, 1), "peak_mb": peak()}


def write_results(path: Path, count: int) -> int:
    """Results like the committed ones, which are copied with other seeds and levels; bytes written."""
    from fairseq_tickets.analysis.result_lines import result_line
    from fairseq_tickets.analysis.results import checksum

    source = ROOT / "examples" / "super_tickets" / "results" / "minilm-small" / "runs.jsonl"
    models = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    models = [model for model in models if model["method"] in ("full", "winning", "random")]
    with path.open("w", encoding="utf-8") as lines:
        for number in range(count):
            made = dict(models[number % len(models)])
            del made["checksum"]
            made.update(key=f"{number:020x}", seed=made["seed"] + 10 * (number // len(models)))
            lines.write(result_line({**made, "checksum": checksum(made)}))
    return path.stat().st_size


def lab_at(folder: Path) -> Any:
    """A plan without protocol, model and data."""
    from fairseq_tickets.protocol.plan import Plan
    from fairseq_tickets.protocol.store import Store

    return Plan(Store(folder), acts=True)


def ask(lab: Any, steps: int) -> None:
    """A recipe: every tenth step needs nothing, the others need that one."""
    sys.path.insert(0, str(ROOT))
    from benchmarks import engine

    first = None
    for number in range(steps):
        after = [] if number % 10 == 0 or first is None else [first.file("nothing")]
        step = lab.step(engine.nothing, {"number": number, "after": after}, f"step {number}")
        first = step if number % 10 == 0 else first


def engines() -> list[str]:
    """Engines that are installed."""
    import importlib.util

    return ["local", *(["ray"] if importlib.util.find_spec("ray") else [])]


def peak() -> float:
    """Peak memory of this process, in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


if __name__ == "__main__":
    main()
