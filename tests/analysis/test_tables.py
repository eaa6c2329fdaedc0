"""Result tables from made-up runs, every cell worked out by hand."""

from __future__ import annotations

import csv

import pytest

from fairseq_tickets.analysis.markup import FORMATS, render
from fairseq_tickets.analysis.overview import best_rows
from fairseq_tickets.analysis.results import result_from_json
from fairseq_tickets.analysis.tables import result_table
from fairseq_tickets.errors import UserError
from fairseq_tickets.tickets import DominantTicket

from .samples import SMALL, dominant, result, single_task_runs


def runs(*contents):
    return [result_from_json(content, f"{number}.json") for number, content in enumerate(contents)]


def texts(table):
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def both(task, metrics, seed, full, ticket, left=0.8):
    """Full model and two winning levels; the first is chosen."""
    kinds = {"task": task, "metrics": metrics, "seed": seed}
    weights = {"encoder": left, "without_embeddings": left - 0.1}
    yield result(score=full, **kinds)
    yield result(method="winning", level=0.1, score=ticket, weight_remaining=weights, **kinds)
    yield result(method="winning", level=0.2, score=0.99, select=0.1, **kinds)


@pytest.fixture
def single():
    """RTE: full 60, 62, tickets 64, 65 points: gains 4, 3. MRPC: full 80, 80, tickets 80, 80."""
    contents = []
    for seed, full, ticket in ((1, 0.60, 0.64), (2, 0.62, 0.65)):
        contents += [
            *both("RTE", ("accuracy",), seed, full, ticket),
            *both("MRPC", ("accuracy", "f1"), seed, 0.8, 0.8, 0.9),
        ]
    return runs(*contents)


def test_table_1(single):
    table = result_table("S1", single)
    assert [name for name, _ in table.header][1:] == [
        "RTE Acc",
        "MRPC Acc/F1",
        "Average Score",
        "Average Weight Remaining",
    ]
    found = texts(table)
    assert found["ST-DNN minilm, all of dev"] == ["61.0±1.4", "80.0±0.0/80.0±0.0", "70.5", "100.0%"]
    assert found["SuperT minilm, all of dev"] == ["64.5±0.7", "80.0±0.0/80.0±0.0", "72.3", "85.0%"]
    # Gains 4 and 3: mean 3.5, sd 0.707, t = 3.5 / 0.5 = 7; so p = 1 - 2/pi * atan(7) = 0.0903
    assert found["SuperT - ST-DNN minilm, all of dev: paired t-test"][:2] == [
        "+3.5, p=0.0903, n=2",
        "+0.0, p=1, n=2",
    ]
    assert "SuperT minilm, 90% of dev not used for selection" in found
    assert "no results for CoLA, SST-2, STS-B, QNLI, QQP, MNLI" in table.notes[0]
    assert table.signature.startswith("runs=8|seeds=1,2|")
    bold = {row[0].text for row in table.rows if row[1].bold}
    assert bold == {"SuperT minilm, all of dev", "SuperT minilm, 90% of dev not used for selection"}


def test_missing_cells_are_dashes_with_a_note(single):
    table = result_table("S1", [r for r in single if r.task == "RTE" or r.method == "full"])
    assert texts(table)["SuperT minilm, all of dev"] == ["64.5±0.7", "-", "-", "-"]
    assert "no results for SuperT minilm: MRPC" in table.notes
    assert texts(table)["SuperT - ST-DNN minilm, all of dev: paired t-test"][1] == "-"


def test_table_2_lists_the_seed_with_the_best_average():
    contents = []
    for seed, rte, sst in ((1, 0.70, 0.90), (2, 0.60, 0.98)):
        for task, score in (("RTE", rte), ("SST-2", sst)):
            contents.append(
                result(task=task, seed=seed, score=score, key=f"{task}{seed}", predictions={"file": "p.tsv"})
            )
    table = result_table("S2", runs(*contents))  # averages 80 and 79
    assert texts(table) == {"ST-DNN minilm": ["SST-2", "1", "-", "SST-21", "p.tsv"]}
    assert [row[4].text for row in table.rows] == ["RTE1", "SST-21"]


def test_table_3():
    rows = {"mt_dnn": 0.70, "mt_dnn+st": 0.72, "ticket_share": 0.74, "ticket_share+st": 0.76}
    half = {"encoder": 0.5}
    contents = [
        result(method=m, task=t, score=s + extra, weight_remaining=half if "share" in m else None)
        for m, s in rows.items()
        for t, extra in (("RTE", 0), ("SST-2", 0.1))
    ]
    found = texts(result_table("S3", runs(*contents)))
    assert found == {
        "MT-DNN minilm": ["70.0", "80.0", "75.0", "100.0%"],
        "MT-DNN minilm + ST fine-tuning": ["72.0", "82.0", "77.0", "100.0%"],
        "Ticket-Share minilm": ["74.0", "84.0", "79.0", "50.0%"],
        "Ticket-Share minilm + ST fine-tuning": ["76.0", "86.0", "81.0", "50.0%"],
    }


def test_models_that_share_other_tasks_are_rows_of_their_own():
    both, third = ["RTE", "SST-2"], ["MRPC", "RTE"]
    contents = [result(method=m, task="RTE", score=0.7, shared_tasks=both) for m in ("mt_dnn", "ticket_share")]
    contents.append(result(method="mt_dnn", task="RTE", score=0.6, shared_tasks=third))
    found = texts(result_table("S3", runs(*contents)))
    assert {name: row[0] for name, row in found.items() if row[0] != "-"} == {
        "MT-DNN minilm (RTE+SST-2)": "70.0",
        "MT-DNN minilm (MRPC+RTE)": "60.0",
        "Ticket-Share minilm": "70.0",
    }
    means = {row[0].text: row[1].text for row in best_rows(runs(*contents)).rows}
    assert means == {"MT-DNN (MRPC+RTE)": "60.0", "MT-DNN (RTE+SST-2)": "70.0", "Ticket-Share": "70.0"}


def test_table_4():
    contents = []
    for fraction in (0.001, 0.1):
        for method, level in (("full", None), ("winning", 0.2)):
            score = 0.5 + fraction + (0.02 if level else 0)
            more = {"task": "SNLI", "source_task": "MNLI", "train_fraction": fraction, "partial_data": True}
            more["train_examples"] = round(fraction * 44021)
            contents.append(result(method=method, level=level, score=score, **more))
    table = result_table("S4", runs(*contents[:-1]))
    assert [name for name, _ in table.header] == ["Model", "0.1%", "10%"]
    assert texts(table) == {
        "SNLI: # training examples": ["44", "4,402"],
        "SNLI: MNLI-ST-DNN minilm": ["50.1", "60.0"],
        "SNLI: MNLI-SuperT minilm": ["52.1", "-"],
    }
    assert table.notes == ["no results for SNLI: MNLI-SuperT minilm at 10%"]
    assert "data=partial (SNLI)" in table.signature


def test_multi_task_models_are_adapted_without_a_source_task():
    """In Table 4, not in Table 3."""
    contents = [
        result(method=m, task="SciTail", train_fraction=f) for m in ("mt_dnn+st", "ticket_share") for f in (0.01, 1)
    ]
    found = texts(result_table("S4", runs(*contents)))
    assert found == {"SciTail: MT-DNN minilm": ["70.0", "70.0"], "SciTail: Ticket-Share minilm": ["70.0", "70.0"]}
    with pytest.raises(UserError, match="the result files have none"):
        result_table("S3", runs(*contents))


def test_predictions_are_found_beside_the_result_and_in_the_runs_folder(tmp_path):
    for folder in ("abc", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "abc" / "test.tsv").write_text("")
    for place in ("abc/result.json", "results/RTE-full-seed1.json"):
        table = result_table("S2", [result_from_json(result(key="abc"), str(tmp_path / place))])
        assert table.rows[0][5].text == "abc/test.tsv"


def test_tables_5_6_and_7(single):
    assert texts(result_table("S5", single)) == {
        "ST-DNN minilm": ["1.41", "0.00"],
        "SuperT minilm": ["0.71", "0.00"],
    }
    assert texts(result_table("S6", single)) == {"SuperT minilm": ["0.71", "0.00"]}
    found = texts(result_table("S7", single))
    assert found["SuperT minilm (mean)"] == ["0.80", "0.90", "0.850"]
    assert found["SuperT minilm (std dev)"] == ["0.00", "0.00", "-"]
    assert found["SuperT minilm, embeddings left out (mean)"] == ["0.70", "0.80", "0.750"]


def test_table_8_averages_over_seeds_first_and_table_5_over_learning_rates():
    """Seeds by rates: (70, 72), (74, 80). Means over seeds 72, 76; over rates 71, 77."""
    values = {(1, 1e-5): 0.70, (1, 1e-4): 0.72, (2, 1e-5): 0.74, (2, 1e-4): 0.80}
    contents = [result(method="mt_dnn+st", seed=s, score=v, config={"lr": lr}) for (s, lr), v in values.items()]
    assert texts(result_table("S8", runs(*contents))) == {"MT-DNN + ST minilm": ["2.83"]}
    assert texts(result_table("S5", runs(*contents))) == {"MT-DNN + ST minilm": ["4.24"]}


def test_one_seed_has_no_deviation():
    table = result_table("S5", runs(result()))
    assert texts(table) == {"ST-DNN minilm": ["-"]}
    assert table.notes == ["ST-DNN minilm, RTE: a deviation needs 2 seeds, there is 1"]


def test_dominant_table_2():
    """One dimension of W^Q (20) and one of W^FC1 (50): 70 of 10,000 parameters."""
    ticket: DominantTicket = dominant(SMALL, {"q_proj": {0: [3]}, "fc1": {1: [20]}})
    more = {"experiment": "dominant", "total_parameters": 10000}
    contents = [result(trainable_parameters=10000, score=0.7, **more)]
    for method, k, score in (("dominant", 3, 0.72), ("dominant", 1, 0.71), ("random_dimensions", 1, 0.5)):
        kinds = {"method": method, "top_k": k, "trainable_parameters": 999, "source_task": "MNLI"}
        contents.append(result(score=score, ticket=ticket.to_json(), **kinds, **more))
    contents.append(result(method="bitfit", score=0.6, trainable_parameters=123, **more))
    table = result_table("D2", runs(*contents))
    assert texts(table) == {
        "Full-ft minilm": ["70.0", "100%", "10,000"],
        "Dominant-3 minilm": ["72.0", "0.7%", "70"],
        "BitFit minilm": ["60.0", "1.23%", "123"],
        "Random-1 minilm": ["50.0", "0.7%", "70"],
        "Dominant-1 minilm": ["71.0", "0.7%", "70"],
    }
    assert [row[0].text for row in table.rows if row[1].bold] == ["Dominant-3 minilm"]
    assert table.notes[0] == "no results for Random-3 minilm"


def test_salience_stands_beside_dominant_where_it_was_run():
    ticket = dominant(SMALL, {"q_proj": {0: [3]}}, method="salience", metric="fisher", examples=64)
    contents = [
        result(method="dominant", top_k=3, score=0.6),
        result(method="dominant", top_k=1, score=0.7),
        result(method="salience", top_k=1, score=0.8, ticket=ticket.to_json(), total_parameters=10000),
    ]
    table = result_table("D2", runs(*contents))
    assert list(texts(table)) == ["Dominant-3 minilm", "Dominant-1 minilm", "Salience-1 minilm"]
    assert texts(table)["Salience-1 minilm"] == ["80.0", "0.2%", "20"]
    assert table.notes[-1].endswith("metric fisher over 64 examples")
    assert not any("Salience-3" in note for note in table.notes)


def test_tickets_of_several_sources_are_not_mixed():
    """RTE trained under tickets of MNLI and of SST-2: two rows. One source a task, though different ones: one row."""
    more = {"method": "dominant", "top_k": 1}
    mnli, sst = result(source_task="MNLI", score=0.7, **more), result(source_task="SST-2", score=0.5, **more)
    found = texts(result_table("D2", runs(mnli, sst)))
    assert {name: row[0] for name, row in found.items()} == {
        "Dominant-1 from MNLI minilm": "70.0",
        "Dominant-1 from SST-2 minilm": "50.0",
    }
    other = result(task="MRPC", source_task="SST-2", metrics=("accuracy", "f1"), score=0.5, **more)
    assert texts(result_table("D2", runs(mnli, other)))["Dominant-1 minilm"][:2] == ["50.0", "70.0"]


def test_dominant_table_3_and_the_papers_metrics():
    sts = {"task": "STS-B", "scores": {"all": {"pearson": 0.9, "spearman": 0.5}}}
    mnli = {"task": "MNLI", "scores": {"all": {"accuracy": 0.8, "accuracy_mm": 0.7}}}
    contents = [
        result(**sts),
        result(**mnli),
        result(method="random_elements", trainable_parameters=50, **sts),
    ]
    table = result_table("D3", runs(*contents))
    assert texts(table)["All parameters minilm"] == ["75.0", "90.0", "100%", "1,000"]
    assert texts(table)["Random elements minilm"] == ["-", "90.0", "5%", "50"]


@pytest.mark.parametrize("name", ["S3", "S4", "D2", "D3"])
def test_tables_say_what_they_need(name, single):
    with pytest.raises(UserError, match="needs .* runs; the result files have none"):
        result_table(name, single)


def test_levels(single):
    """RTE at 10 %: 64 and 65 points against 60 and 62 of the same seeds: +3.5."""
    table = result_table("levels", single)
    rows = {tuple(cell.text for cell in row[1:3]): [cell.text for cell in row[3:]] for row in table.rows}
    assert rows["RTE", "10 %"] == ["80.0 %", "70.0 %", "64.5±0.7", "-", "-", "+3.5"]


def test_unknown_table(single):
    with pytest.raises(UserError, match="table S9: must be one of S1, S2"):
        result_table("S9", single)


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("name", ["S1", "S2", "S5", "S6", "S7"])
def test_every_format_carries_notes_and_signature(name, style):
    table = result_table(name, runs(*single_task_runs(seeds=2)))
    text = render(table, style)
    assert table.signature in text
    assert all(note in text for note in table.notes)
    if style == "csv":
        rows = list(csv.reader(line for line in text.splitlines() if not line.startswith("#")))
        assert rows == [
            [name for name, _ in table.header],
            *([cell.text for cell in row] for row in table.rows),
        ]


def test_unknown_format(single):
    with pytest.raises(UserError, match="--format html: must be one of markdown, csv, latex"):
        render(result_table("S1", single), "html")


def test_latex_escapes():
    from fairseq_tickets.analysis.markup import Cell, Table, columns

    text = render(Table("t", columns("a_b", "W^FC1"), [[Cell("5% & #1", True), Cell("1±2")]]), "latex")
    assert "a\\_b & $W^{\\mathrm{FC1}}$ \\\\" in text
    assert "\\textbf{5\\% \\& \\#1} & 1$\\pm$2 \\\\" in text


def test_runs_that_predict_one_class_are_told():
    contents = single_task_runs(seeds=2)
    for epoch in contents[0]["epochs"]:
        epoch["valid"]["classes_predicted"] = 1 if epoch["epoch"] == contents[0]["best_epoch"] else 2
    results = [result_from_json(content, f"{place}.json") for place, content in enumerate(contents)]
    assert [r.single_class_prediction for r in results] == [True] + [False] * (len(results) - 1)
    notes = result_table("levels", results).notes
    assert [note for note in notes if note.startswith(f"1 of {len(results)} runs predict one class only")]
