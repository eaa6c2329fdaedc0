"""The claims of Gong et al. 2022, "Finding the Dominant Winning Ticket in Pre-Trained Language Models", and of salience
tickets, which are this package's own."""

from __future__ import annotations

from functools import partial

from fairseq_tickets.analysis.claims import structure
from fairseq_tickets.analysis.claims.claim import ABOVE, BELOW, NO_LOSS, STRONG, Claim, Finding, Setting
from fairseq_tickets.analysis.claims.pairs import SPLIT, difference, finding, scores
from fairseq_tickets.analysis.results import Result
from fairseq_tickets.analysis.statistics import spread
from fairseq_tickets.analysis.tables_dominant import single_score

Side = tuple[str, "int | None"]  # method and number of dimensions


def _points(run: Result) -> float:
    """The one metric of the paper's tables."""
    return 100 * single_score(run, SPLIT)


def _versus(treated: Side, control: Side, setting: Setting) -> Finding | None:
    return finding(setting.name, difference(*(scores(setting, *side, of=_points) for side in (treated, control))))


def _early_loss(run: Result) -> float:
    """Mean training loss over the first half of the updates; NaN where the result has no curve."""
    losses = [point["train_loss"] for point in run.curve if "train_loss" in point]
    half = losses[: (len(losses) + 1) // 2]
    return spread(half).mean if half else float("nan")


def _faster(top_k: int, setting: Setting) -> Finding | None:
    sides = [scores(setting, method, top_k, _early_loss) for method in ("dominant", "random_dimensions")]
    both = {place: 100 * (value / sides[1][place] - 1) for place, value in sides[0].items() if place in sides[1]}
    return finding(setting.name, {place: value for place, value in both.items() if value == value})


def _first_epoch(run: Result) -> float:
    """Validation score after the first epoch of several, in points; NaN where there is one only."""
    valid = run.epochs[0].get("valid", {}) if len(run.epochs) > 1 else {}
    value = valid.get("score_report", valid.get("accuracy_report"))
    return 100 * value if isinstance(value, (int, float)) else float("nan")


def _sooner(top_k: int, setting: Setting) -> Finding | None:
    sides = [scores(setting, method, top_k, _first_epoch) for method in ("dominant", "random_dimensions")]
    return finding(setting.name, {place: v for place, v in difference(*sides).items() if v == v})


def _against(name: str, key: str, says: str, treated: Side, control: Side, rule: str, table: str = "D2") -> Claim:
    return Claim(key, says, f"{name}, points", rule, f"table {table}", 1, partial(_versus, treated, control))


CLAIMS = (
    _against(
        "Dominant-1 less full model",
        "D (a), k = 1",
        "Training the dominant ticket alone, at most one dimension a matrix, is comparable with training all weights.",
        ("dominant", 1),
        ("full", None),
        NO_LOSS,
    ),
    _against(
        "Dominant-3 less full model",
        "D (a), k = 3",
        "... and so is it with three.",
        ("dominant", 3),
        ("full", None),
        NO_LOSS,
    ),
    _against(
        "Dominant-1 less Random-1",
        "D 4.2, k = 1",
        "Random dimensions of the same number are much worse (RTE 68.5 against 87.7).",
        ("dominant", 1),
        ("random_dimensions", 1),
        ABOVE,
    ),
    _against(
        "Dominant-3 less Random-3",
        "D 4.2, k = 3",
        "... less so with three dimensions (RTE 72.2 against 86.6, elsewhere 0 to 1 points).",
        ("dominant", 3),
        ("random_dimensions", 3),
        ABOVE,
    ),
    Claim(
        "D (b), tasks",
        "The ticket is much the same from task to task (Jaccard 0.67, random tickets nearly 0).",
        "Jaccard of the dimensions of two tasks' tickets of one seed, less that of random tickets",
        ABOVE,
        "jaccard --group tasks",
        2,
        structure.across_tasks,
    ),
    Claim(
        "D (b), seeds",
        "... and from seed to seed (0.69).",
        "Jaccard of the dimensions of two seeds' tickets of one task, less that of random tickets",
        ABOVE,
        "jaccard --group seeds",
        2,
        structure.across_seeds,
    ),
    Claim(
        "D observation 1",
        "The places of out-weighted parameters are strongly correlated between tasks.",
        "correlation over all dimensions of the numbers of out-weighted parameters of two tasks",
        STRONG,
        "plot out-weighted",
        2,
        structure.correlated,
    ),
    Claim(
        "D observation 2, few",
        "Out-weighted parameters lie in a few dimensions of each matrix.",
        "share of them in the first 3 dimensions of their matrix, less that of as many strewn at random",
        ABOVE,
        "plot out-weighted",
        2,
        structure.concentrated,
    ),
    Claim(
        "D (c), observation 2",
        "Some dimensions dominate many layers: the ticket is a skeleton.",
        "share of the W^Q, W^K, W^V, W^FC1 that have the commonest dimension, less that in random tickets",
        ABOVE,
        "dimensions --recurrence",
        2,
        structure.recurs,
    ),
    Claim(
        "D 4.2, training loss, k = 1",
        "The dominant ticket converges faster than random ones and gets lower training losses.",
        "training loss over the first half of the updates, Dominant-1 against Random-1, percent",
        BELOW,
        "plot curves",
        1,
        partial(_faster, 1),
    ),
    Claim(
        "D 4.2, training loss, k = 3",
        "... also where both end alike.",
        "the same, Dominant-3 against Random-3, percent",
        BELOW,
        "plot curves",
        1,
        partial(_faster, 3),
    ),
    Claim(
        "D 4.2, first epoch",
        "It is best after the first epochs, where random tickets still warm up.",
        "validation score after the first epoch of several, Dominant-1 less Random-1, points",
        ABOVE,
        "plot curves",
        1,
        partial(_sooner, 1),
    ),
    _against(
        "random elements less full model",
        "D 5.1",
        "5 % of the elements of each matrix, drawn at random, do as well as all weights.",
        ("random_elements", None),
        ("full", None),
        NO_LOSS,
        "D3",
    ),
    Claim(
        "D 5.3, overlap",
        "The bias is among the dominant dimensions of W^O and W^FC2 a lot.",
        "share of the W^O and W^FC2 that have it, less that in random tickets",
        ABOVE,
        "dimensions --bias",
        2,
        partial(structure.bias_in, ("out_proj", "fc2")),
    ),
    _against(
        "BitFit less Random-1",
        "D 5.3, BitFit",
        "BitFit is much better than random dimensions of the same number.",
        ("bitfit", None),
        ("random_dimensions", 1),
        ABOVE,
    ),
)

OWN = (
    _against(
        "Salience-1 less Dominant-1",
        "salience, k = 1",
        "A ticket from one pass over 512 examples trains as well as one from an L1 run.",
        ("salience", 1),
        ("dominant", 1),
        NO_LOSS,
    ),
    _against(
        "Salience-3 less Dominant-3",
        "salience, k = 3",
        "... also with three dimensions.",
        ("salience", 3),
        ("dominant", 3),
        NO_LOSS,
    ),
    Claim(
        "salience, overlap",
        "... and has much the same dimensions.",
        "Jaccard of a salience ticket and the L1 run's of the same task, seed and sizes, less that of random tickets",
        ABOVE,
        "jaccard",
        2,
        structure.like_salience,
    ),
)
