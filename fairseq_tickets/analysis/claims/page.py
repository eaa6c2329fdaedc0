"""All claims held against results, as one page of markdown or as JSON."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any, NamedTuple

from fairseq_tickets.analysis.claims import of_dominant_tickets, of_super_tickets
from fairseq_tickets.analysis.claims.claim import (
    FREEDOM,
    MARGIN,
    OPEN,
    SMALLER,
    STRONG,
    Claim,
    Finding,
    Setting,
    verdict,
)
from fairseq_tickets.analysis.claims.learning import LEARNT, learnt
from fairseq_tickets.analysis.markup import Cell, Table, cells, columns, render
from fairseq_tickets.analysis.results import Result, select, signature
from fairseq_tickets.analysis.statistics import round_half_up
from fairseq_tickets.analysis.table_parts import by_sharing, models_in
from fairseq_tickets.counts import DimensionCounts

PAPERS = (
    ("Super tickets (Liang et al. 2021)", of_super_tickets.CLAIMS),
    ("Dominant winning tickets (Gong et al. 2022)", of_dominant_tickets.CLAIMS),
    ("Salience tickets (not from the papers)", of_dominant_tickets.OWN),
)
UNMEASURED = "not measured"
READING = f"""\
Effect: the mean over tasks and its 95 % interval over seeds, that is, for other seeds on the same tasks and dev sets
(Student's; over several tasks Welch's). Scores are those on the part of dev that neither selection nor early stopping
has seen, held against each other seed by seed. One seed gives no interval. n: values behind it.

**holds**: the whole interval is where the claim says. **does not hold**: all of it is on the other side. Where two
things are said to be comparable, a loss of {MARGIN:g} point is allowed. A verdict asks for {FREEDOM:g} degrees of
freedom, three seeds of one task. Where there is nothing to be found, one claim in 40 holds by chance.

A task counts where the full model has learnt it: its answers and the truth correlate (Matthews, Pearson) by {LEARNT:g}
at least.
"""
Counts = Mapping[str, Mapping[tuple[str, int], DimensionCounts]]  # experiment -> (task, seed) -> counts


class Judged(NamedTuple):
    """A claim and what each setting that has the runs for it says."""

    claim: Claim
    found: list[tuple[Finding, str]]  # and the verdict


def settings_of(results: Mapping[str, Sequence[Result]], counts: Counts) -> tuple[list[Setting], list[str]]:
    """The settings in the results, and a line for each that names what its full models have not learnt.

    One a model, and one more for each set of tasks on one encoder where there are several such sets. Counts under a
    name that no results have make a setting of their own.
    """
    settings, notes = [], []
    for name, runs in results.items():
        models = models_in(runs)
        for model in models:
            for shared, own in by_sharing(select(runs, model=model)):
                kept, missed = learnt(own)
                shown = (name if len(models) == 1 else f"{name}, {model}") + shared
                out = {task for task, share, source in missed if share == 1 and not source}
                counted = counts.get(name, {}) if len(models) == 1 and not shared else {}
                settings.append(Setting(shown, kept, {at: counted[at] for at in counted if at[0] not in out}))
                if missed:
                    notes.append(f"{shown}: not learnt and left out: {', '.join(map(_cell_text, missed))}.")
    settings += [Setting(name, (), own) for name, own in counts.items() if name not in results]
    return settings, notes


def _cell_text(cell: tuple[str, float, str]) -> str:
    task, share, source = cell
    return task + (f" after {source}" if source else "") + (f", {100 * share:g} % of it" if share != 1 else "")


def judge(settings: Sequence[Setting]) -> list[tuple[str, list[Judged]]]:
    """Each paper's claims, with what the settings say about them."""
    return [(title, [_judged(claim, settings) for claim in claims]) for title, claims in PAPERS]


def _judged(claim: Claim, settings: Sequence[Setting]) -> Judged:
    found: list[Finding | None] = []
    if claim.measure is not None:
        found += [claim.measure(setting) for setting in settings]
    if claim.between is not None:
        ordered = [(one, other) for one, other in permutations(settings, 2) if 0 < _size(one) < 0.8 * _size(other)]
        found += [claim.between(one, other) for one, other in ordered]
    return Judged(claim, [(f, verdict(claim.rule, f.effect)) for f in found if f is not None])


def _size(setting: Setting) -> int:
    """Parameters of the setting's full model, 0 where no result says them."""
    return max((run.total_parameters or 0 for run in setting.runs), default=0)


def markdown(
    judged: Sequence[tuple[str, Sequence[Judged]]],
    notes: Sequence[str],
    results: Mapping[str, Sequence[Result]],
    arguments: Sequence[str],
) -> str:
    """The page: how to read it, then for each paper a line for each claim and setting, and what was measured."""
    command = " ".join(["fairseq-tickets claims", *map(shlex.quote, arguments)])
    wrapped = textwrap.wrap(command, 110, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)
    lines = [
        "# The papers' claims, one by one",
        "",
        "Made by:",
        "",
        "```bash",
        " \\\n".join(wrapped),
        "```",
        "",
        READING,
    ]
    lines += [*(f"- {note}" for note in notes), ""]
    for title, claims in judged:
        lines += [f"## {title}", "", render(_table(claims), "markdown").split("\n\n", 1)[1]]
        lines += ["What was measured, and the command that shows the numbers behind it:", ""]
        lines += [
            f"- {claim.key}: {claim.measured}; holds {claim.rule}. `fairseq-tickets {claim.command}`"
            for claim, _ in claims
        ]
        lines += [""]
    lines += ["## Results", "", *(f"- {name}: `{signature(runs)}`" for name, runs in results.items()), ""]
    return "\n".join(lines)


def _table(claims: Sequence[Judged]) -> Table:
    rows: list[list[Cell]] = []
    for claim, found in claims:
        if not found:
            rows.append(cells(claim.key, claim.says, "", "", "", UNMEASURED))
        for number, (finding, said) in enumerate(found):
            effect = finding.effect
            many = f"{effect.n} in {effect.tasks} task{'s' if effect.tasks > 1 else ''}"
            about = (claim.key, claim.says) if number == 0 else ("", "")
            rows.append([*cells(*about, finding.setting, many, interval(claim, finding)), Cell(said, said != OPEN)])
    return Table("", columns("Place", "Claim", "Results", "n", "Effect [95 %]", "Verdict"), rows)


def interval(claim: Claim, finding: Finding) -> str:
    """`+1.0 [-0.4, +2.4]`, and the tasks' own effects behind it."""
    effect = finding.effect

    def text(number: float) -> str:
        shown = round_half_up(number, claim.digits)
        return shown if shown.startswith("-") or claim.rule in (SMALLER, STRONG) else f"+{shown}"

    between = f" [{text(effect.low)}, {text(effect.high)}]" if effect.sure else ""
    by_task = ", ".join(f"{task} {text(value)}" for task, value in finding.by_task.items())
    return f"{text(effect.value)}{between}" + (f" ({by_task})" if len(finding.by_task) > 1 else "")


def to_json(judged: Sequence[tuple[str, Sequence[Judged]]]) -> list[dict[str, Any]]:
    """The same for programs: a claim with its findings each."""
    return [
        {
            "claim": claim.key,
            "says": claim.says,
            "measured": claim.measured,
            "rule": claim.rule,
            "command": claim.command,
            "found": [
                {
                    "results": finding.setting,
                    "effect": finding.effect.value,
                    "interval": [finding.effect.low, finding.effect.high] if finding.effect.sure else None,
                    "n": finding.effect.n,
                    "tasks": finding.effect.tasks,
                    "by_task": dict(finding.by_task),
                    "verdict": said,
                }
                for finding, said in found
            ],
        }
        for _, claims in judged
        for claim, found in claims
    ]
