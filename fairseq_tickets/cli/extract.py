"""`fairseq-tickets extract`: a pre-trained and an L1-fine-tuned checkpoint -> dominant ticket."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from fairseq_tickets.cli.numbers import number, whole
from fairseq_tickets.cli.progress import progress_bar
from fairseq_tickets.cli.workers import writable
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import sha256
from fairseq_tickets.recorded import attention_heads, options

if TYPE_CHECKING:
    from torch import Tensor


DESCRIPTION = """Find the few input dimensions of every matrix in which fine-tuning with the L1 penalty moved the model.

Per matrix, the parameters with |theta - theta0| > sigma are counted for every input dimension; the bias counts as one
more dimension. The --top-k dimensions with the highest counts (never one with count 0) make the ticket.

  fairseq-tickets extract --pretrained models/minilm/model.pt --finetuned runs/sst2-l1/checkpoint_last.pt \\
      --sigma 5e-5 --top-k 1 --output dominant.json --report

How to choose sigma: it scales with the learning rate. Adam moves a weight by about the learning rate per update, so a
run with ten times the learning rate needs about ten times the sigma; the paper's 5e-5 goes with learning rates of
1e-5 to 5e-5. --report shows where sigma lies: after enough L1 fine-tuning most parameters sit still (99 % below 1e-5
in the paper) and some per mille lie far above; sigma belongs into the gap. Checkpoints must be float32."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--pretrained", required=True, metavar="FILE", help="checkpoint before fine-tuning (theta0)")
    parser.add_argument("--finetuned", required=True, metavar="FILE", help="checkpoint after L1 fine-tuning (theta)")
    parser.add_argument(
        "--sigma",
        type=number("--sigma", 0, 1),
        default=5e-5,
        help="a parameter is out-weighted beyond this |change| (default: %(default)g)",
    )
    parser.add_argument(
        "--top-k",
        type=whole("--top-k", 1),
        default=1,
        metavar="K",
        help="at most K dimensions a matrix (default: %(default)s)",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="ticket file to write (.json)")
    parser.add_argument("--counts", metavar="FILE", help="also write all counts (.npz), for `plot out-weighted`")
    parser.add_argument(
        "--heads", type=whole("--heads", 1), metavar="N", help="attention heads a layer, if no checkpoint records them"
    )
    parser.add_argument("--report", action="store_true", help="print how |change| is distributed, by matrix")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Read both checkpoints, extract, write the ticket."""
    from fairseq_tickets import __version__
    from fairseq_tickets.counts import DimensionCounts
    from fairseq_tickets.dominant_ticket import extraction
    from fairseq_tickets.dominant_ticket.report import format_report, report
    from fairseq_tickets.tickets import DominantTicket

    extraction.check_sigma(args.sigma)
    output, counts = writable(args.output), writable(args.counts, "--counts") if args.counts else None
    both_exist = os.path.exists(args.finetuned) and os.path.exists(args.pretrained)
    if both_exist and os.path.samefile(args.pretrained, args.finetuned):
        raise UserError(f"--pretrained and --finetuned are the same file, {args.finetuned}")
    pretrained, before = _read(args.pretrained)
    finetuned, after = _read(args.finetuned)
    heads = args.heads or attention_heads(after) or attention_heads(before)
    if heads is None:
        raise UserError("no checkpoint records the number of attention heads; give it with --heads")
    extraction.check_top_k(extraction.check_pair(pretrained, finetuned, heads), args.top_k)
    counted = _with_bar("extract", lambda step: extraction.count_model(pretrained, finetuned, heads, args.sigma, step))
    ticket: DominantTicket = extraction.ticket_from_counts(counted, args.top_k)
    facts = training_facts(after)
    ticket.provenance.update(facts)
    hint = extraction.sigma_hint(args.sigma, facts.get("lr"))
    if hint:
        print(f"fairseq-tickets: {hint}", file=sys.stderr)
    ticket.provenance["inputs"] = _checksums({"pretrained": args.pretrained, "finetuned": args.finetuned})
    ticket.provenance["package_version"] = __version__
    distributions = None
    if args.report:
        distributions = _with_bar("report", lambda step: report(pretrained, finetuned, heads, args.sigma, step))
    if counts is not None:
        DimensionCounts(counted.tables(), ticket.provenance).save(counts)
    ticket.save(output)
    if args.json:
        figures: dict[str, Any] = {
            "output": args.output,
            "dimensions": sum(len(dims) for _, _, dims in ticket.items()),
            "trainable_parameters": ticket.trainable_parameters(),
            "ticket": ticket.to_json(),
        }
        if distributions is not None:
            figures["report"] = {
                name: {**d._asdict(), "quantiles": {f"{q:g}": v for q, v in d.quantiles.items()}}
                for name, d in distributions.items()
            }
        print(json.dumps(figures, indent=1))
        return 0
    if distributions is not None:
        print(format_report(distributions, args.sigma))
    print(f"written to {args.output}: {ticket.describe()}")
    return 0


def training_facts(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Task, seed, λ and learning rate as the fine-tuned checkpoint records them; what it lacks is left out."""
    facts: dict[str, Any] = {}
    data = options(checkpoint, "task").get("data")
    if data:
        facts["task"] = Path(str(data)).name
    criterion, optimization = options(checkpoint, "criterion"), options(checkpoint, "optimization")
    for name, value in (
        ("seed", options(checkpoint, "common").get("seed")),
        ("l1_weight", criterion.get("l1_weight")),
        ("l1_mode", criterion.get("l1_mode")),
        ("lr", optimization.get("lr")),
    ):
        value = value[0] if isinstance(value, (list, tuple)) and value else value
        if isinstance(value, (int, float, str)):
            facts[name] = value
    return facts


def _read(path: str) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """A checkpoint's encoder tensors, left in the file until used, and the rest of it."""
    from fairseq_tickets.checkpoint import load
    from fairseq_tickets.parameters import is_dead_copy

    checkpoint = load(path, mmap=True, finite=False)
    model = checkpoint.get("model")
    if model is None:
        raise UserError(f"{path} is not a fairseq checkpoint: it has no model (no tensors under the key 'model')")
    return {name: tensor for name, tensor in model.items() if not is_dead_copy(name)}, checkpoint


def _with_bar(title: str, work: Callable[[Callable[[int, int], None]], Any]) -> Any:
    with progress_bar(title, "matrices") as update:
        before = 0

        def step(done: int, total: int) -> None:
            nonlocal before
            update(done - before, total)
            before = done

        return work(step)


def _checksums(files: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Name and SHA-256 of each file; two at a time, since hashing is what takes longest here."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        digests = list(pool.map(sha256, files.values()))
    return {role: {"file": Path(path).name, "sha256": digest} for (role, path), digest in zip(files.items(), digests)}
