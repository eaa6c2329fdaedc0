"""Rank correlation and AUC against SciPy, and what `explain` says of made-up counts."""

from __future__ import annotations

import numpy as np
import pytest

from fairseq_tickets.analysis.explain import correlations, mean_auc, mean_rank_correlation
from fairseq_tickets.cli import main
from fairseq_tickets.counts import DimensionCounts
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES
from fairseq_tickets.saliences import GAINS, DimensionSalience

LAYERS, EMBED, FFN = 3, 40, 70


def made(seed: int = 0, follows: str = "v_proj") -> tuple[DimensionCounts, DimensionSalience]:
    """Random inputs; in `follows` the counts grow with the input, elsewhere 5 random dimensions moved."""
    random = np.random.default_rng(seed)
    widths = {name: (FFN if name == "fc2" else EMBED) + 1 for name in MATRICES}
    scores = {name: random.lognormal(size=(LAYERS, width)) for name, width in widths.items()}
    counts = {name: np.zeros((LAYERS, width), dtype=np.int64) for name, width in widths.items()}
    for name, table in counts.items():
        for layer in range(LAYERS):
            table[layer, random.choice(widths[name] - 1, 5, replace=False)] = random.integers(1, 9, 5)
    ranks = scores[follows].argsort(1).argsort(1)
    counts[follows] = np.maximum(0, ranks - 20).astype(np.int64)
    gains = {name: random.random((LAYERS, EMBED)) for name in GAINS}
    return DimensionCounts(counts), DimensionSalience(scores, gains, {"metric": "activation"})


def test_statistics_are_scipys() -> None:
    from scipy.stats import mannwhitneyu, spearmanr

    counts, salience = made()
    x, y = salience.scores["fc1"][:, :-1], counts.counts["fc1"][:, :-1].astype(float)
    rho = np.mean([spearmanr(a, b).statistic for a, b in zip(x, y)])
    assert mean_rank_correlation(x, y) == pytest.approx(rho, abs=1e-12)
    u = [mannwhitneyu(a[b > 0], a[b == 0]).statistic / ((b > 0).sum() * (b == 0).sum()) for a, b in zip(x, y)]
    assert mean_auc(x, y) == pytest.approx(np.mean(u), abs=1e-12)


def test_a_draw_is_the_statistic_of_what_was_drawn() -> None:
    counts, salience = made()
    x, y = salience.scores["fc1"][:, :-1].round(1), counts.counts["fc1"][:, :-1].astype(float)
    part = np.random.default_rng(3).integers(EMBED, size=EMBED)
    times = np.bincount(part, minlength=EMBED)[None].astype(float)
    for statistic in (mean_rank_correlation, mean_auc):
        assert statistic(x, y, times) == pytest.approx(statistic(x[:, part], y[:, part]), abs=1e-12)


def test_a_matrix_that_follows_its_input_stands_out() -> None:
    rows = {(c.matrix, c.predictor): c for c in correlations(*made())}
    assert set(rows) == {
        *((m, "input") for m in MATRICES),
        *((m, "gain") for m in MATRICES if m[:2] not in ("ou", "fc")),
    } | {("fc1", "gain")}
    follows, other = rows["v_proj", "input"], rows["fc2", "input"]
    assert follows.auc == 1.0 and follows.rho > 0.9 and follows.found in (2, 3)  # the bias may be the first of a layer
    assert other.auc_interval[0] < 0.5 < other.auc_interval[1]
    for row in rows.values():
        assert row.layers == LAYERS and 0 <= row.auc <= 1 and row.auc_interval[0] <= row.auc_interval[1]


def test_layers_where_nothing_moved_are_left_out() -> None:
    counts, salience = made()
    counts.counts["q_proj"][:] = 0
    counts.counts["k_proj"][1:] = 0
    rows = {(c.matrix, c.predictor): c for c in correlations(counts, salience)}
    assert rows["q_proj", "input"].layers == 0 and np.isnan(rows["q_proj", "input"].auc)
    assert rows["k_proj", "gain"].layers == 1


def test_the_command_prints_and_draws(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: no plots")
    counts, salience = made()
    counts.save(tmp_path / "c.npz")
    salience.save(tmp_path / "s.npz")
    words = ["explain", str(tmp_path / "c.npz"), str(tmp_path / "s.npz"), "--plot", str(tmp_path / "f.png")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "| W^V    | rms of the input" in printed and "1.00 [1.00, 1.00]" in printed
    assert (tmp_path / "f.png").stat().st_size > 10_000


def test_bad_pairs() -> None:
    counts, salience = made()
    salience.provenance["metric"] = "gradient"
    with pytest.raises(UserError, match="needs a salience file of --metric activation"):
        correlations(counts, salience)
    salience.provenance["metric"] = "activation"
    wide = {name: np.pad(table, ((0, 1), (0, 0))) for name, table in counts.counts.items()}
    with pytest.raises(UserError, match="models of different sizes"):
        correlations(DimensionCounts(wide), salience)
    with pytest.raises(UserError, match="v_proj has the shape"):
        DimensionSalience({**salience.scores, "v_proj": np.ones((2, 2))}, salience.gains)
    with pytest.raises(UserError, match="negative or not finite"):
        DimensionSalience({**salience.scores, "v_proj": -salience.scores["v_proj"]}, salience.gains)
