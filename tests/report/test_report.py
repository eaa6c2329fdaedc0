"""The report without a browser: what it computes, what it refuses, and the figures of a notebook."""

from __future__ import annotations

import builtins
import json
import re

import pytest

from fairseq_tickets.analysis.phases import SCORE, cost_rows, curve_rows, finding_rows, phase_rows
from fairseq_tickets.analysis.report import charts
from fairseq_tickets.analysis.report.explorers import dominant_entries
from fairseq_tickets.analysis.report.gather import gather
from fairseq_tickets.analysis.report.page import embedded_json
from fairseq_tickets.analysis.results import load_results
from fairseq_tickets.cli import main
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES
from tests.analysis.samples import SMALL, result, single_task_runs, skeleton_ticket, write
from tests.report.material import HOSTILE, inputs, salience_of


def runs(tmp_path, *contents):
    return load_results([write(tmp_path / "results", list(contents))])


def test_phase_rows_by_hand(tmp_path):
    found = runs(
        tmp_path,
        result(method="full", score=0.5),
        *(
            result(method="winning", level=level, seed=seed, score=score, select=score)
            for level, seed, score in ((0.1, 1, 0.6), (0.1, 2, 0.64), (0.2, 1, 0.7), (0.2, 2, 0.5))
        ),
    )
    single, means = phase_rows(found, "RTE")
    mean = next(row for row in means if (row["kind"], row["level"], row["metric"]) == ("winning", 10.0, SCORE))
    assert mean["mean"] == pytest.approx(62) and mean["n"] == 2
    assert mean["sd"] == pytest.approx(8**0.5)  # of 60 and 64: sqrt(2 * 2^2 / 1)
    assert (mean["low"], mean["high"]) == (pytest.approx(62 - 8**0.5), pytest.approx(62 + 8**0.5))
    stars = {(row["seed"], row["level"]) for row in single if row["super"]}
    assert stars == {(1, 20.0), (2, 10.0)}  # each seed's best
    full = next(row for row in means if row["kind"] == "full" and row["metric"] == SCORE)
    assert full["sd"] is None and full["low"] == full["high"] == full["mean"] == 50


def test_cost_rows_by_hand(tmp_path):
    found = runs(
        tmp_path,
        *(
            result(method="bitfit", seed=s, score=v, trainable_parameters=10, total_parameters=1000, wall_seconds=t)
            for s, v, t in ((1, 0.5, 10.0), (2, 0.7, 20.0))
        ),
    )
    (row,) = cost_rows(found)
    assert row["parameters"] == 10 and row["share"] == 1.0 and row["seconds"] == 15.0
    assert row["mean"] == pytest.approx(60) and row["high"] == pytest.approx(60 + 10 * 2**0.5)


def test_finding_rows_by_hand(tmp_path):
    def run(method, seed, seconds, **more):
        more = {"trainable_parameters": 10, "total_parameters": 1000, **more}
        return result(method=method, seed=seed, ticket_seconds=seconds, **more)

    early = {"level": 0.2, "config": {"lr": 5e-5, "batch_size": 16, "found_after": 0.1}}
    found = runs(
        tmp_path,
        *(
            run("dominant", seed, t, top_k=k) for seed, t in ((1, 100.0), (2, 140.0)) for k in (1, 3)
        ),  # one ticket for both
        run("salience", 1, 30.0, top_k=1),
        run("winning", 1, None, level=0.1),  # doesn't say
        run("early", 1, 12.0, **early),
        run("bitfit", 1, None),
    )
    rows = {row["method"]: row for row in finding_rows(found)}
    assert list(rows) == ["early super ticket, after 10 %", "salience (one pass)", "dominant (L1 run)"]  # by time
    dominant = rows["dominant (L1 run)"]
    assert (dominant["seconds"], dominant["least"], dominant["most"], dominant["n"]) == (120.0, 100.0, 140.0, 2)
    costs = {row["method"]: row["ticket_seconds"] for row in cost_rows(found)}
    assert costs == {
        "dominant, k = 1": 120.0,
        "dominant, k = 3": 120.0,
        "salience, k = 1": 30.0,
        "BitFit (biases)": None,
    }


def test_saliences_are_entries_of_the_explorer(tmp_path):
    found = gather([str(inputs(tmp_path))])
    entries, notes = dominant_entries(found)
    (own,) = [entry for entry in entries if entry["kind"] == "salience"]
    ticket = skeleton_ticket(SMALL, 1)
    assert own["name"] == "salience of RTE seed 1: gradient" and notes == []
    assert own["size"] == [SMALL.layers, SMALL.embed_dim, SMALL.ffn_dim]
    for matrix in MATRICES:
        assert own["most"][matrix] == 3e-5 and own["bias"][matrix] == SMALL.in_features(matrix)
        for layer, dims in enumerate(ticket.dimensions[matrix]):
            assert own["dimensions"][matrix][layer][:3] == dims
            assert own["values"][matrix][layer][:3] == [3e-5, 2e-5, 1e-5]


def test_a_page_of_one_salience_file_shows_it(tmp_path):
    salience_of(skeleton_ticket(SMALL, 1), metric="fisher").save(tmp_path / "s.npz")
    output = tmp_path / "r.html"
    for named in ([str(tmp_path / "s.npz")], ["--saliences", f"mine={tmp_path / 's.npz'}"]):
        assert main(["report", *named, "--output", str(output)]) == 0
        name = "mine" if named[0] == "--saliences" else "s"
        assert f'<option value="0">salience of {name}: fisher</option>' in output.read_text()


def test_learning_curves_thin_long_runs(tmp_path):
    curve = [{"update": u, "train_loss": 1.0} for u in range(5000)]
    rows = curve_rows(runs(tmp_path, result(curve=curve)), "RTE")
    assert 300 < len(rows) <= 400 and {row["quantity"] for row in rows} == {"training loss"}


def test_figures_are_objects(tmp_path):
    found = gather([str(inputs(tmp_path))])
    figures = [
        charts.phase_transition(found.results, "RTE", against="level"),
        charts.score_against_parameters(found.results, "RTE"),
        charts.run_costs(found.results, "RTE"),
        charts.finding_costs(found.results, "RTE"),
        charts.learning_curves(found.results, "RTE"),
        charts.skeleton({n: t for n, t in found.tickets.items() if "dominant" in t.describe()}),
    ]
    for figure in figures:
        assert figure.to_dict()["$schema"].startswith("https://vega.github.io/schema/vega-lite")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda r: charts.phase_transition(r, "CoLA"), "no winning, random or losing runs of CoLA"),
        (lambda r: charts.finding_costs(r, "CoLA"), "no runs of CoLA that say how long finding their tickets took"),
        (lambda r: charts.phase_transition(r, "RTE", against="time"), "against is 'time'"),
        (
            lambda r: charts.learning_curves(r, "CoLA", "validation score"),
            "no runs of CoLA that recorded validation score",
        ),
        (lambda r: charts.skeleton({}), "at least one dominant ticket"),
        (lambda r: charts.skeleton({}, "w"), "matrix is 'w'"),
    ],
)
def test_figures_refuse_by_name(tmp_path, draw, message):
    with pytest.raises(UserError, match=message):
        draw(load_results([inputs(tmp_path) / "results"]))


def test_embedded_json_cannot_leave_its_element():
    text = embedded_json({HOSTILE: [HOSTILE]})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {HOSTILE: [HOSTILE]}


def test_a_damaged_file_is_named_and_left_out(tmp_path, capsys):
    folder = inputs(tmp_path)
    (folder / "cut.json").write_text((folder / "a.json").read_text()[:40])
    (folder / "cut.npz").write_bytes((folder / "s0.npz").read_bytes()[:200])
    (folder / "config.json").write_text('{"other": "kind"}')  # whole and of another kind: passed over in a folder
    assert main(["report", str(folder), "--output", str(tmp_path / "r.html")]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and all(line.startswith("fairseq-tickets: left out: ") for line in told)
    assert "cut.json" in told[0] and "cut.npz" in told[1]
    page = (tmp_path / "r.html").read_text()
    assert "Left out" in page and "cut.npz" in page


def test_a_foreign_file_named_outright_is_left_out(tmp_path, capsys):
    folder = inputs(tmp_path)
    (folder / "config.json").write_text('{"other": "kind"}')
    named = [str(folder / "a.json"), str(folder / "config.json")]
    assert main(["report", *named, "--output", str(tmp_path / "r.html")]) == 1
    assert "config.json is no result, ticket" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to report on"),
        (["absent"], "no such file or folder: absent"),
        (["empty"], "nothing to show in empty"),
        (["bad.json"], "nothing to show in bad.json"),
        (["--tickets", "absent.json"], "no such file or folder: absent.json"),
    ],
)
def test_nothing_to_show_writes_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text("{")
    assert main(["report", *arguments, "--output", "r.html"]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "r.html").exists()


def test_two_claims_to_one_run_are_told(tmp_path, capsys):
    write(tmp_path / "one", [result(score=0.5)])
    write(tmp_path / "two", [result(score=0.6)])
    assert main(["report", str(tmp_path / "one"), str(tmp_path / "two"), "--output", str(tmp_path / "r.html")]) == 1
    assert "claim the same run but differ" in capsys.readouterr().err


def test_groups_are_kept_apart_and_said(tmp_path):
    other = [{**run, "experiment": "other", "key": run["key"] + "o"} for run in single_task_runs(("RTE",), 1)]
    write(tmp_path / "results", [*single_task_runs(("RTE",), 1), *other])
    assert main(["report", str(tmp_path / "results"), "--output", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "2 groups of experiment and model, never averaged together: other (minilm), super_tickets (minilm)" in page


def test_partial_data_is_said(tmp_path):
    write(tmp_path / "results", [result(partial_data=True)])
    assert main(["report", str(tmp_path / "results"), "--output", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "PARTIAL for RTE" in page and "partial data</span>" in page


def test_lines_of_many_results_and_single_files_are_alike(tmp_path):
    from fairseq_tickets.analysis.result_lines import result_line
    from fairseq_tickets.analysis.results import checksum

    contents = [{**run, "checksum": checksum(run)} for run in single_task_runs(("RTE",), 2)]
    write(tmp_path / "files", contents)
    (tmp_path / "runs.jsonl").write_text("".join(map(result_line, contents)))
    cut = tmp_path / "cut.jsonl"
    cut.write_text((tmp_path / "runs.jsonl").read_text()[:-20])
    whole, lines = gather([str(tmp_path / "files")]), gather([str(tmp_path / "runs.jsonl")])
    assert {r.key for r in whole.results} == {r.key for r in lines.results}
    part = gather([str(cut)])
    assert len(part.results) == len(contents) - 1 and f"line {len(contents)}" in part.warnings[0]


def test_without_the_extra_one_line(tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "altair":
            raise ImportError("No module named 'altair'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["report", str(write(tmp_path / "r", [result()])), "--output", str(tmp_path / "r.html")]) == 2
    assert re.search(r"error: the report needs Altair.*fairseq_tickets\[report\]", capsys.readouterr().err)
