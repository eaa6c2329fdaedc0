"""Sizes by hand, and subsets that are nested."""

from __future__ import annotations

import pytest

from fairseq_tickets.data.subset import nested_subset, subset_size
from fairseq_tickets.errors import UserError


@pytest.mark.parametrize(
    ("text", "total", "size"),
    [
        ("500", 2490, 500),
        ("1", 10, 1),
        ("1.0", 10, 10),
        ("0.001", 23596, 23),  # floor(23.596)
        ("0.1%", 23596, 23),
        ("10 %", 23596, 2359),
        ("100%", 23596, 23596),
        ("0.29", 100, 29),  # 0.29 * 100 is 28.999... in floating point
        ("0.001", 10, 1),  # never none
    ],
)
def test_sizes(text: str, total: int, size: int) -> None:
    assert subset_size(text, total) == size


@pytest.mark.parametrize("text", ["0", "11", "0.0", "1.5", "0%", "101%", "-1", "half", "", "1e-3", "nan"])
def test_impossible_sizes(text: str) -> None:
    with pytest.raises(UserError, match="--subset"):
        subset_size(text, 10)


def test_subsets_are_nested_and_in_file_order() -> None:
    lines = list(range(2, 502))
    parts = [nested_subset(lines, size, seed=3) for size in (1, 5, 50, 500)]
    assert [len(part) for part in parts] == [1, 5, 50, 500] and parts[-1] == list(range(500))
    for small, large in zip(parts, parts[1:]):
        assert set(small) < set(large) and small == sorted(small)


def test_seeds_differ_and_rejected_lines_change_nothing_else() -> None:
    lines = list(range(2, 502))
    assert nested_subset(lines, 50, 1) == nested_subset(lines, 50, 1) != nested_subset(lines, 50, 2)
    chosen = {lines[position] for position in nested_subset(lines, 50, 1)}
    fewer = [line for line in lines if line % 7]
    kept = {fewer[position] for position in nested_subset(fewer, 50, 1)}
    assert {line for line in chosen if line % 7} <= kept


def test_every_line_is_about_as_likely() -> None:
    counts = [0] * 20
    for seed in range(400):
        for position in nested_subset(range(20), 5, seed):
            counts[position] += 1
    assert sum(counts) == 2000 and min(counts) > 60 and max(counts) < 140  # 100 expected, standard deviation 8.7
