"""The metrics that each known task is judged by, in the order of the papers' tables (S Tables 1 to 3 and 9)."""

from __future__ import annotations

from collections.abc import Mapping

TASK_METRICS: Mapping[str, tuple[str, ...]] = {
    "RTE": ("accuracy",),
    "MRPC": ("accuracy", "f1"),
    "CoLA": ("mcc",),
    "SST-2": ("accuracy",),
    "STS-B": ("pearson", "spearman"),
    "QNLI": ("accuracy",),
    "QQP": ("accuracy", "f1"),
    "MNLI": ("accuracy",),
    "WNLI": ("accuracy",),  # these tables leave out the rest
    "SNLI": ("accuracy",),
    "SciTail": ("accuracy",),
}
