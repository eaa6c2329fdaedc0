"""Figures: what the lines and cells show, refusals, and the same bytes for the same input."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed: no plots")

from fairseq_tickets.analysis import figure_style, figures_dominant, figures_shares, figures_super
from fairseq_tickets.analysis.results import result_from_json
from fairseq_tickets.analysis.shares import task_shares
from fairseq_tickets.counts import DimensionCounts
from fairseq_tickets.errors import UserError
from fairseq_tickets.scores import ImportanceScores

from .samples import SMALL, counts_of, dominant, result, single_task_runs, skeleton_ticket


def runs(*contents):
    return [result_from_json(content, f"{number}.json") for number, content in enumerate(contents)]


def level_runs():
    """Two seeds, two levels: winning 60 and 64 at 90 %, 50 at 70 %; full model 58 and 62."""
    for seed, full, first, second in ((1, 0.58, 0.60, 0.50), (2, 0.62, 0.64, 0.50)):
        yield result(seed=seed, score=full)
        for level, score in ((0.1, first), (0.3, second)):
            left = {"encoder": 1 - level, "without_embeddings": 1 - level}
            yield result(method="winning", seed=seed, level=level, score=score, weight_remaining=left)


def lines_of(axis):
    return {line.get_label(): line for line in axis.get_lines()}


def test_phase_transition_draws_means_and_the_full_model():
    (axis,) = figures_super.phase_transition(runs(*level_runs())).axes
    lines = lines_of(axis)
    np.testing.assert_allclose(lines["winning tickets"].get_xydata(), [[90, 62], [70, 50]])
    np.testing.assert_allclose(lines["full model"].get_ydata(), [60, 60])
    assert axis.xaxis_inverted() and axis.get_title() == "RTE"
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(62 + 8**0.5) and band.min() == pytest.approx(50)


def test_three_kinds_differ_without_colour():
    figure = figures_super.phase_transition(runs(*single_task_runs(("RTE",), seeds=2)))
    lines = lines_of(figure.axes[0])
    kinds = [lines[f"{kind} tickets"] for kind in ("winning", "random", "losing")]
    assert (
        len({line.get_marker() for line in kinds}) == 3
        and len({str(line._unscaled_dash_pattern) for line in kinds}) == 3
    )


def test_gain_is_paired_and_weight_is_shown():
    upper, lower = figures_super.gain(runs(*level_runs())).axes
    assert [bar.get_height() for bar in upper.patches] == [pytest.approx(2)]
    assert [bar.get_height() for bar in lower.patches] == [pytest.approx(90)]
    assert [label.get_text() for label in lower.get_xticklabels()] == ["RTE"]


def test_a_single_seed_has_no_whisker():
    for seeds, caps in (((1, 2), 2), ((1,), 0)):
        upper, _ = figures_super.gain(runs(*(run for run in level_runs() if run["seed"] in seeds))).axes
        (whisker,) = (found for found in upper.containers if found.get_label() != "minilm")
        assert sum(np.isfinite(np.asarray(line.get_ydata(), dtype=float)).sum() for line in whisker.lines[1]) == caps


def test_training_subsets_have_a_panel_a_share():
    contents = [dict(c, train_fraction=f, key=f"{c['key']}{f}") for f in (1.0, 0.1) for c in level_runs()]
    figure = figures_super.training_subsets(runs(*contents))
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["RTE, 100% of training data", "RTE, 10% of training data"]
    with pytest.raises(UserError, match="more than one share"):
        figures_super.training_subsets(runs(*level_runs()))


def test_nothing_to_draw():
    with pytest.raises(UserError, match="no winning, random or losing runs"):
        figures_super.phase_transition(runs(result()))
    with pytest.raises(UserError, match="no gain to show"):
        figures_super.gain(runs(result()))
    with pytest.raises(UserError, match="no result file has a curve"):
        figures_dominant.training_curves(runs(result()))


def test_skeleton_shows_recurring_dimensions_only():
    """Dimension 7 in three layers of one ticket and one of the other; 3 in one layer only."""
    one = dominant(SMALL, {"v_proj": {0: [7], 1: [7], 2: [7, 3]}})
    two = dominant(SMALL, {"v_proj": {0: [7]}})
    figure = figures_dominant.skeleton({"one": one, "two": two})
    axis = next(a for a in figure.axes if "V" in a.get_title())
    assert [label.get_text() for label in axis.get_yticklabels()] == ["7 (3)"]
    np.testing.assert_allclose(np.asarray(axis.collections[0].get_array()).ravel(), [1, 0.5, 0.5])


def test_out_weighted_keeps_single_dimensions_and_the_bias():
    counts = {m: np.zeros_like(c) for m, c in counts_of(skeleton_ticket(SMALL, 1), 1).items()}
    counts["q_proj"][1, 4] = 5  # of 20 parameters: a quarter, drawn as its root
    counts["fc2"][2, 50] = 20  # the bias of every output
    figure = figures_dominant.out_weighted({"RTE": DimensionCounts(counts)})
    first, last = figure.axes[0].images[0].get_array(), figure.axes[5].images[0].get_array()
    assert np.argwhere(first > 0).tolist() == [[1, 4]] and first[1, 4] == pytest.approx(0.5)
    assert last.shape[1] == 50 + 2 and last[2, 50:].tolist() == [1, 1] and last[:, :50].max() == 0


def test_out_weighted_bins_show_the_largest():
    share = np.zeros((1, 4097))
    share[0, 2000] = 0.64
    picture, edge = figures_dominant._binned(share)
    assert edge == 64 and picture[0].max() == 0.64 and np.count_nonzero(picture) == 1


def test_training_curves_are_means_where_all_seeds_train():
    curve = [{"update": u, "train_loss": 1 / u, "train_accuracy": 0.5} for u in (1, 2, 4)]
    shorter = [{"update": u, "train_loss": 3 / u, "train_accuracy": 0.7} for u in (1, 2)]
    epochs = [{"epoch": 1, "updates": 4, "valid": {"loss": 9.0, "accuracy": 0.7, "mcc": 0.1}}]
    scores = {"all": {"accuracy": 0.7, "mcc": 0.1}, "select": {"accuracy": 0.7}}  # RTE is judged by accuracy alone
    more = {"method": "dominant", "top_k": 1, "epochs": epochs, "best_epoch": 1, "scores": scores}
    figure = figures_dominant.training_curves(
        runs(result(seed=1, curve=curve, **more), result(seed=2, curve=shorter, **more))
    )
    loss, accuracy, valid = (lines_of(axis)["Dominant-1"].get_xydata() for axis in figure.axes)
    np.testing.assert_allclose(loss, [[1, 2], [2, 1]])
    np.testing.assert_allclose(accuracy, [[1, 60], [2, 60]])
    np.testing.assert_allclose(valid, [[4, 70]])
    both = figures_dominant.training_curves(
        runs(result(curve=curve, **more), result(curve=curve, **{**more, "method": "salience"}))
    )
    assert list(lines_of(both.axes[0])) == ["Dominant-1", "Salience-1"]


def scores(heads, ffn):
    return ImportanceScores(heads, ffn, 1)


def three_tasks():
    generator = np.random.default_rng(0)
    return task_shares({t: scores(generator.random((3, 4)), generator.random(3)) for t in ("RTE", "MRPC", "STS-B")})


def test_pies_have_areas_by_importance_and_angles_by_share():
    from matplotlib.patches import Wedge

    shares = three_tasks()
    wedges = [p for p in figures_shares.importance_pies(shares).axes[0].patches if isinstance(p, Wedge)]
    assert len(wedges) == 3 * (3 * 4 + 3)
    angles = [wedge.theta2 - wedge.theta1 for wedge in wedges[:3]]  # layer 0, head 0
    np.testing.assert_allclose(angles, 360 * shares.head_shares[:, 0, 0])
    areas = np.array([wedge.r**2 for wedge in wedges[: 3 * 12 : 3]])
    np.testing.assert_allclose(areas / areas.max(), (shares.head_importance / shares.head_importance.max()).ravel())


def test_map_marks_a_dominating_task():
    heads = np.ones((2, 3))
    odd = heads.copy()
    odd[1, 2] = 100
    shares = task_shares({"RTE": scores(heads, np.ones(2)), "CoLA": scores(heads, np.ones(2))})
    assert not figures_shares.importance_map(shares).axes[1].texts
    shares = task_shares({t: scores(odd if t == "CoLA" else heads, np.ones(2)) for t in ("A", "B", "C", "CoLA")})
    texts = figures_shares.importance_map(shares).axes[1].texts
    assert not [t for t in texts if t.get_position()[1] == 0]
    assert figures_shares._letters(["CoLA", "C", "MNLI", "MRPC"]) == {"CoLA": "C", "C": "A", "MNLI": "M", "MRPC": "R"}


def test_too_many_tasks_for_pies():
    shares = task_shares({str(i): scores(np.ones((2, 2)), np.ones(2)) for i in range(9)})
    with pytest.raises(UserError, match="at most 8 tasks apart, got 9"):
        figures_shares.importance_pies(shares)


@pytest.mark.parametrize("suffix", [".pdf", ".png"])
def test_same_input_same_bytes(tmp_path, suffix, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    figure_style.save(figures_super.phase_transition(runs(*level_runs())), tmp_path / f"a{suffix}", "runs=6")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    figure_style.save(figures_super.phase_transition(runs(*level_runs())), tmp_path / f"b{suffix}", "runs=6")
    content = (tmp_path / f"a{suffix}").read_bytes()
    assert content == (tmp_path / f"b{suffix}").read_bytes()
    assert b"runs=6" in content and b"CreationDate" not in content
    assert content.startswith(b"%PDF" if suffix == ".pdf" else b"\x89PNG")


def test_other_suffix(tmp_path):
    with pytest.raises(UserError, match=r"must end in \.pdf, \.png or \.svg"):
        figure_style.save(figures_shares.importance_pies(three_tasks()), tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"plots need matplotlib.*pip install 'fairseq_tickets\[plots\]'"):
        figure_style.new_figure(1, 1)


def is_whole(figure):
    """Whether all that is drawn, texts too, lies within the figure (to a fiftieth of an inch)."""
    figure.canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) > -0.02


@pytest.mark.parametrize("tasks", [("RTE",), ("RTE", "a-name-of-some-length-2024"), tuple("ABCDEF")])
def test_nothing_is_cut_from_the_heat_map(tasks):
    counts = {task: DimensionCounts(counts_of(skeleton_ticket(SMALL, 1), 1)) for task in tasks}
    figure = figures_dominant.out_weighted(counts)
    assert is_whole(figure)


def test_figures_say_what_bands_and_whiskers_are():
    found = runs(*single_task_runs(("RTE", "MRPC"), seeds=3), *single_task_runs(("SST-2",), seeds=2))
    phase, gain = figures_super.phase_transition(found), figures_super.gain(found)
    assert phase.get_supxlabel() == "lines: means of 2 to 3 seeds; bands: ± 1 standard deviation"
    assert gain.get_supxlabel() == "bars: means of 2 to 3 seeds; whiskers: ± 1 standard deviation"
    assert is_whole(phase) and is_whole(gain)


def test_svg_is_text_and_the_same_every_time(tmp_path):
    counts = {"RTE": DimensionCounts(counts_of(skeleton_ticket(SMALL, 1), 1))}
    for name in ("a.svg", "b.svg"):
        figure_style.save(figures_dominant.out_weighted(counts), tmp_path / name, "from here")
    written = (tmp_path / "a.svg").read_text()
    assert written == (tmp_path / "b.svg").read_text()
    assert "share beyond" in written and "from here" in written and "<dc:date>" not in written
