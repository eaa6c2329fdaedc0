"""One self-contained page from what was gathered: tables, charts and explorers, laid out by the templates.

Names from files are data and never markup: Jinja escapes them in the HTML, JSON is embedded with every `<`, `>`, `&`
and line separator written as an escape, and the page's own policy (Content-Security-Policy) lets nothing run but the
two scripts whose hashes it names, and lets nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fairseq_tickets import __version__
from fairseq_tickets.analysis import phases
from fairseq_tickets.analysis.dimensions import recurrence_table
from fairseq_tickets.analysis.markup import Table, render
from fairseq_tickets.analysis.output import signature_of_files, task_of
from fairseq_tickets.analysis.overlap_tables import Similarity, compare
from fairseq_tickets.analysis.overview import best_rows, facts, groups_of
from fairseq_tickets.analysis.report import charts
from fairseq_tickets.analysis.report.bundle import vega
from fairseq_tickets.analysis.report.explorers import (
    Order,
    check_alike,
    dominant_entries,
    matrices,
    share_sets,
    shares_json,
    super_series,
)
from fairseq_tickets.analysis.report.gather import Material, dominant_tickets_of
from fairseq_tickets.analysis.results import Result
from fairseq_tickets.analysis.shares import ownership_table, shares_table, task_shares
from fairseq_tickets.analysis.table_parts import in_points
from fairseq_tickets.analysis.tables import RESULT_TABLES, result_table
from fairseq_tickets.analysis.tables_dominant import trained_share
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, atomic_write
from fairseq_tickets.parameters import MATRICES, PAPER_NAMES
from fairseq_tickets.tickets import SuperTicket, Ticket

TEMPLATES = Path(__file__).parent / "templates"
_COMPARED = 24  # tickets in one Jaccard matrix
_DRAWS, _SEED = 20, 1


def write_page(path: PathLike, found: Material, orders: Mapping[str, Order], title: str = "Tickets") -> None:
    """Write the page whole or not at all.

    Args:
        path: where to.
        found: what to show.
        orders: name of scores -> how they prune; scores without an order have no slider.
        title: of the page.
    """
    text = page(found, orders, title)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def page(found: Material, orders: Mapping[str, Order], title: str = "Tickets") -> str:
    """The page's HTML; UserError where the extra is missing."""
    charts.library()
    import jinja2

    figures = _Figures()
    keys = {run.key: number for number, run in enumerate(found.results)}
    groups = [_group(name, runs, figures) for name, runs in groups_of(found.results).items()]
    supers, notes = super_series(found, orders)
    dominants, more = dominant_entries(found)
    sharing = _sharing(found, figures)
    data: dict[str, Any] = {
        "charts": figures.charts,
        "datasets": figures.datasets,
        "supers": supers,
        "dominants": dominants,
        "matrices": matrices(),
        "shares": {name: shares_json(shares) for name, shares in sharing["sets"].items()},
        "csv": [],
    }
    similar = _similarities(found, figures)
    tables = [table for group in groups for table in group["tables"]] + _file_tables(found)
    for number, table in enumerate([*(group["best"] for group in groups), *tables]):
        table["id"] = f"t{number}"
        data["csv"].append(render(table["table"], "csv"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    scripts = [vega(), "\n".join((TEMPLATES / n).read_text("utf-8") for n in SCRIPTS)]
    return environment.get_template("report.html").render(
        title=title,
        version=__version__,
        groups=groups,
        warnings=found.warnings,
        notes=[*notes, *more, *check_alike(found), *_mixed(groups)],
        supers=supers,
        dominants=dominants,
        sharing=sharing,
        similar=similar,
        tables=tables,
        run_columns=RUN_COLUMNS,
        runs=[_run_row(run) for run in found.results],
        keys=keys,
        policy=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        style=(TEMPLATES / "report.css").read_text("utf-8"),
        scripts=scripts,
        data=embedded_json(data),
    )


SCRIPTS = ("common.js", "charts.js", "supers.js", "dominants.js", "sharing.js", "tables.js")


def embedded_json(content: Any) -> str:
    """JSON that can stand in a script element whatever its texts say."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


class _Figures:
    """Charts of the page by id, each with variants that its controls choose among; equal data are kept once."""

    def __init__(self) -> None:
        self.charts: dict[str, Any] = {}
        self.datasets: dict[str, Any] = {}

    def add(
        self,
        title: str,
        draw: Callable[..., Any],
        parameter: tuple[str, Mapping[str, str]] | None = None,
        **choices: Mapping[str, str],
    ) -> dict[str, Any] | None:
        """Draw every combination of choices (option -> value -> label); those that raise UserError are left out.

        Args:
            title: of the figure.
            draw: makes the chart from a value of each choice.
            parameter: name and values of a parameter that the chart itself has.
            choices: what `draw` takes.

        Returns:
            what the template needs: id, title, controls; None when nothing could be drawn.
        """
        variants: dict[str, Any] = {}
        self._try(draw, dict(choices), {}, variants)
        if not variants:
            return None
        name = f"c{len(self.charts)}"
        self.charts[name] = {"title": title, "variants": variants}
        labels = {
            "metric": "Score",
            "against": "Against",
            "quantity": "Show",
            "task": "Task",
            "matrix": "Matrix",
            "measure": "Over",
        }
        used = [key.split("|") for key in variants]
        controls = [
            {
                "label": labels[option],
                "parameter": "",
                "values": [(v, text) for v, text in values.items() if any(u[i] == v for u in used)],
            }
            for i, (option, values) in enumerate(choices.items())
        ]
        if parameter:
            own, texts = parameter
            controls.insert(0, {"label": labels[own], "parameter": own, "values": list(texts.items())})
        return {"id": name, "title": title, "controls": controls}

    def _try(
        self, draw: Any, left: dict[str, Mapping[str, str]], taken: dict[str, str], variants: dict[str, Any]
    ) -> None:
        if left:
            option, values = next(iter(left.items()))
            rest = {name: own for name, own in left.items() if name != option}
            for value in values:
                self._try(draw, rest, {**taken, option: value}, variants)
            return
        try:
            spec = draw(**taken).to_dict(validate=False)
        except UserError:
            return
        self.datasets.update(spec.pop("datasets", {}))
        variants["|".join(taken.values())] = {k: v for k, v in spec.items() if k not in ("config", "$schema")}


def _group(name: tuple[str, str], runs: Sequence[Result], figures: _Figures) -> dict[str, Any]:
    """One experiment of one model."""
    experiment, model = name
    metrics = {phases.SCORE: "task score", phases.UNSEEN: "task score, the 90 % not selected on"}
    metrics.update({m: m for m in ("accuracy", "f1", "mcc", "pearson", "spearman", "accuracy_mm")})
    against = {"weight": "weight remaining", "layers_weight": "weight remaining without embeddings", "level": "level"}
    drawn = [
        figures.add(
            f"{task}: phase transition",
            lambda against, task=task, rows=rows: charts.phase_chart(rows, task, phases.SCORE, against),
            parameter=(charts.METRIC, _measured(metrics, rows)),
            against=against,
        )
        for task, rows in ((task, phases.phase_rows(runs, task)) for task in phases.phase_tasks(runs))
    ]
    costs = []
    for task in sorted({row["task"] for row in phases.cost_rows(runs) if row["method"] != phases.METHOD_NAMES["full"]}):
        quantities = {name: name for name in (*phases.CURVES.values(), phases.VALIDATION)}
        costs += [
            figures.add(
                f"{task}: score and trained parameters", lambda task=task: charts.score_against_parameters(runs, task)
            ),
            figures.add(
                f"{task}: learning curves",
                lambda quantity, task=task: charts.learning_curves(runs, task, quantity),
                quantity=quantities,
            ),
            figures.add(f"{task}: time of a run", lambda task=task: charts.run_costs(runs, task)),
        ]
    costs += [
        figures.add(f"{task}: time to find a ticket", lambda task=task: charts.finding_costs(runs, task))
        for task in sorted({row["task"] for row in phases.finding_rows(runs)})
    ]
    tables = []
    command = f"--experiment {experiment} --model {model}"
    for table in RESULT_TABLES:
        try:
            tables.append(
                {
                    "table": result_table(table, runs),
                    "name": table,
                    "place": f"{experiment}, {model}",
                    "command": command,
                }
            )
        except UserError:
            continue
    return {
        "experiment": experiment,
        "model": model,
        "facts": facts(runs),
        "partial": any(text.startswith("PARTIAL") for name, text in facts(runs) if name == "Data"),
        "best": {"table": best_rows(runs), "name": "best", "place": "", "command": ""},
        "phases": [figure for figure in drawn if figure],
        "costs": [figure for figure in costs if figure],
        "tables": tables,
    }


def _measured(metrics: Mapping[str, str], rows: tuple[list[phases.Row], list[phases.Row]]) -> dict[str, str]:
    """Metrics that these runs have; a task with one metric has its score under one name."""
    found = {row["metric"] for row in rows[0]}
    return {name: text for name, text in metrics.items() if name in found}


def _sharing(found: Material, figures: _Figures) -> dict[str, Any]:
    tasks = {name: task_of(scores.provenance) or name for name, scores in found.scores.items()}
    seeds = {name: scores.provenance.get("seed") for name, scores in found.scores.items()}
    sets = share_sets(found, tasks, seeds)
    maps = [
        figures.add(
            f"{label}: task shares",
            lambda task, shares=shares: charts.share_map(shares, None if task == "" else task),
            task={"": "largest share", **{task: task for task in shares.tasks}},
        )
        for label, shares in sets.items()
    ]
    return {"sets": sets, "maps": maps}


def _similarities(found: Material, figures: _Figures) -> list[dict[str, Any]]:
    """Jaccard matrices and skeletons, one a kind and model size."""
    groups: dict[tuple[Any, ...], dict[str, Ticket]] = {}
    own: dict[str, Ticket] = {name: t for name, t in found.tickets.items() if isinstance(t, SuperTicket)}
    for name, ticket in (*own.items(), *dominant_tickets_of(found).items()):
        groups.setdefault((type(ticket).__name__, ticket.shape), {})[name] = ticket
    out = []
    for (kind, _), tickets in groups.items():
        left = len(tickets) - _COMPARED
        tickets = dict(list(tickets.items())[:_COMPARED])
        similar = compare({"": tickets}, _DRAWS, _SEED) if len(tickets) > 1 else []
        by_name: dict[str, Similarity] = {s.measure: s for s in similar}
        entry: dict[str, Any] = {"dominant": kind == "DominantTicket", "similar": similar, "left": max(0, left)}
        entry["map"] = figures.add(
            "Jaccard similarity",
            lambda measure, b=by_name: charts.similarity_map(b[measure]),
            measure={m: m for m in by_name},
        )
        entry["skeleton"] = None
        if kind == "DominantTicket":
            entry["skeleton"] = figures.add(
                "Skeleton: dimensions through the layers",
                lambda matrix, t=tickets: charts.skeleton(t, matrix),
                matrix={m: PAPER_NAMES[m] for m in ("v_proj", *(m for m in MATRICES if m != "v_proj"))},
            )
        out.append(entry)
    return out


def _file_tables(found: Material) -> list[dict[str, Any]]:
    """Tables of ticket and scores files."""
    makers: list[tuple[str, Any, dict[Any, dict[str, Any]], str]] = []
    supers = _by_shape({n: t for n, t in found.tickets.items() if isinstance(t, SuperTicket)})
    dominant = _by_shape(dominant_tickets_of(found))
    scores: dict[Any, dict[str, Any]] = {}
    for name, own in found.scores.items():
        scores.setdefault(own.heads.shape, {})[name] = own
    makers = [
        ("ownership", ownership_table, supers, "tickets"),
        ("importance", lambda s: shares_table(task_shares(s)), scores, "scores"),
        ("recurrence", recurrence_table, dominant, "tickets"),
    ]
    tables = []
    for name, make, sets, kind in makers:
        for things in sets.values():
            table: Table = make(things)
            table.signature = signature_of_files([found.paths[kind, n] for n in things if (kind, n) in found.paths])
            tables.append({"table": table, "name": name, "place": "files", "command": ""})
    return tables


def _by_shape(tickets: Mapping[str, Any]) -> dict[Any, dict[str, Any]]:
    groups: dict[Any, dict[str, Any]] = {}
    for name, ticket in tickets.items():
        groups.setdefault(ticket.shape, {})[name] = ticket
    return groups


def _mixed(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    if len(groups) < 2:
        return []
    names = ", ".join(f"{group['experiment']} ({group['model']})" for group in groups)
    return [f"{len(groups)} groups of experiment and model, never averaged together: {names}"]


def _run_row(run: Result) -> list[str]:
    share = trained_share(run)
    kept = run.weight_remaining.get("encoder")
    return [
        run.experiment,
        run.model,
        run.task,
        run.method,
        "" if run.level is None else f"{100 * run.level:g}",
        "" if run.top_k is None else str(run.top_k),
        run.source_task or "",
        "+".join(run.shared_tasks),
        f"{100 * run.train_fraction:g}",
        str(run.seed),
        in_points(run.score(), 2),
        "" if kept is None else f"{100 * kept:.1f}",
        "" if share is None else str(share[0]),
        "" if run.wall_seconds is None else f"{run.wall_seconds:.0f}",
        "" if run.ticket_seconds is None else f"{run.ticket_seconds:.1f}",
        run.key,
        run.path,
    ]


RUN_COLUMNS = (
    "experiment model task method level% k ticket_of shared_by data% seed score weight% trained seconds ticket_seconds "
    "key file"
).split()


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
