"""`fairseq-tickets doctor`: what is installed, what is patched, and what is wrong, with advice."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, NamedTuple

from fairseq_tickets.cli import selftest

DESCRIPTION = """Print versions, what is patched, where --user-dir points, whether a GPU is seen, and what is wrong.

  fairseq-tickets doctor

It also tries what every command needs, on a few numbers: a small checkpoint is written and read, one with a planted
call is refused, and one training step is made.

Every line that starts with "wrong" comes with advice. The exit code is 1 if something is broken, else 0.
A line that starts with "note" breaks nothing."""

DISTRIBUTIONS = (
    "fairseq-tickets fairseq torch numpy scipy hydra-core omegaconf safetensors sentencepiece tokenizers transformers "
    "matplotlib torchaudio pip"
).split()
NEEDED = ("fairseq", "torch", "numpy", "scipy", "hydra-core", "omegaconf", "safetensors", "sentencepiece", "tqdm")
FIRST_PYTHON, TESTED_PYTHON = (3, 9), (3, 13)
FIRST_TORCH = (2, 3)
OMEGACONF_TRAP = (24, 1)  # the first pip that refuses the metadata of omegaconf 2.0.6
IMPORT_TIMEOUT = 300
HOOK = "fairseq_tickets.pth"

# Run in a new interpreter, from another folder: so the answer is what a plain `fairseq-train` gets.
PROBE = """
import json, sys
sys.stdout, out = sys.stderr, sys.stdout
result = {"hook": any(getattr(finder, "__name__", "") == "FairseqTicketsHook" for finder in sys.meta_path)}
try:
    import fairseq
    import fairseq_tickets.plugin
except BaseException as error:
    result["error"] = f"{type(error).__name__}: {error}"
compat = sys.modules.get("_fairseq_tickets_compat")
result["patched"] = list(compat.applied) if compat else []
json.dump(result, out)
"""


class Report(NamedTuple):
    """What the doctor found: facts by name, things that are broken, and remarks; each with advice."""

    facts: dict[str, Any]
    wrong: list[str]
    notes: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 if something is broken."""
    report = examine()
    if args.json:
        print(json.dumps({**report.facts, "wrong": report.wrong, "notes": report.notes}, indent=1))
        return 1 if report.wrong else 0
    for name, value in report.facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item or 'missing'}" for key, item in value.items())
        elif isinstance(value, list):
            value = "; ".join(value) or "nothing"
        print(f"{name + ':':12} {value}")
    for line in report.notes:
        print(f"note:        {line}")
    for line in report.wrong:
        print(f"wrong:       {line}")
    if not report.wrong:
        print("All is well.")
    return 1 if report.wrong else 0


def examine() -> Report:
    """Look at this Python's environment; imports PyTorch here and fairseq in a process of its own."""
    report = Report({}, [], [])
    versions = {name: _version(name) for name in DISTRIBUTIONS}
    report.facts["python"] = f"{'.'.join(map(str, sys.version_info[:3]))} ({sys.executable})"
    report.facts["versions"] = versions
    for check in (_python, _missing, _fairseq, _torch, _tried, _pip):
        check(report, versions)
    report.facts["user-dir"] = str(Path(__file__).resolve().parent.parent)
    return report


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _python(report: Report, versions: dict[str, str | None]) -> None:
    if sys.version_info[:2] < FIRST_PYTHON:
        report.wrong.append("Python is older than 3.9, which is the first that is supported: make the environment anew")
    elif sys.version_info[:2] > TESTED_PYTHON:
        report.notes.append("Python is newer than 3.13, the last that is tested; if fairseq fails, try 3.11")


def _missing(report: Report, versions: dict[str, str | None]) -> None:
    missing = [name for name in NEEDED if _version(name) is None]
    if missing:
        report.wrong.append(f"not installed: {', '.join(missing)}. Run `make setup`, or see Install in README.md")
    if versions["tokenizers"] is None:
        report.notes.append(
            'tokenizers is not installed: `prepare` can\'t read tokenizer.json; pip install "fairseq_tickets[hf]"'
        )


def _fairseq(report: Report, versions: dict[str, str | None]) -> None:
    probe = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=IMPORT_TIMEOUT, cwd=Path.home().anchor
    )
    try:
        found = json.loads(probe.stdout)
    except ValueError:
        found = {"error": (probe.stderr.strip().splitlines() or ["the interpreter died"])[-1]}
    report.facts["hook"] = "active" if found.get("hook") else "not active"
    report.facts["patched"] = found.get("patched", [])
    if not found.get("hook"):
        report.wrong.append(
            f"the startup hook {HOOK} is not active in new interpreters, so fairseq-train may not start on Python >= "
            "3.11: install the project with pip into this environment (a copied folder or PYTHONPATH is not enough)"
        )
    if "error" in found and versions["fairseq"] is not None:
        report.wrong.append(f"fairseq with the plugin cannot be imported: {found['error']}")


def _torch(report: Report, versions: dict[str, str | None]) -> None:
    if versions["torch"] is None:
        return
    try:
        import torch

        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    except Exception as error:  # a broken PyTorch can fail in any way, and that is the finding
        report.wrong.append(f"PyTorch cannot be imported: {error}. Install it again")
        return
    report.facts["gpu"] = gpus or "none seen: training runs on the CPU, add --cpu"
    report.facts["threads"] = torch.get_num_threads()
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < FIRST_TORCH:
        report.wrong.append("PyTorch is older than 2.3, which is the first that is supported: install a newer one")
    if versions["torchaudio"] is not None:
        _torchaudio(report, __import__)


def _torchaudio(report: Report, load: Callable[[str], Any]) -> None:
    try:
        load("torchaudio")
    except Exception as error:  # it fails in C++, so with OSError, ImportError or RuntimeError
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        report.wrong.append(
            f"torchaudio is installed but cannot be loaded ({line}); `import transformers` fails with it. "
            "It is not used here: pip uninstall torchaudio"
        )


def _tried(report: Report, versions: dict[str, str | None]) -> None:
    if versions["torch"] is None or versions["numpy"] is None:
        return
    command = [sys.executable, "-m", selftest.__name__]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_TIMEOUT, cwd=Path.home().anchor)
    except subprocess.TimeoutExpired:
        report.wrong.append(f"the checks did not end within {IMPORT_TIMEOUT} s: look for what else this machine does")
        return
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    faults = {line["ended"]: line["fault"] for line in lines if "ended" in line}
    for name, (_, advice) in selftest.CHECKS.items():
        if name not in faults:  # the interpreter ended in the middle of this one
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            report.wrong.append(f"{name}: Python ended with exit code {done.returncode}, {last}; {advice}")
            break
        if faults[name]:
            report.wrong.append(f"{name}: {faults[name]}; {advice}")
    report.facts["tried"] = [name for name, fault in faults.items() if fault is None]


def _pip(report: Report, versions: dict[str, str | None]) -> None:
    pip = versions["pip"]
    if pip is not None and tuple(int(part) for part in pip.split(".")[:2] if part.isdigit()) >= OMEGACONF_TRAP:
        report.notes.append(
            f"pip {pip} cannot install fairseq 0.12.2 (it refuses omegaconf 2.0.6's metadata): "
            'when you install again, first pip install "pip<24.1", or use uv'
        )
