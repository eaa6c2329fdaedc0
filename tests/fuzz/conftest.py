"""Time for the fuzz tests: FUZZ_SECONDS, shared out evenly among those collected."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .mutate import SECONDS

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = [item for item in items if HERE in item.path.parents]
    if tests and "FUZZ_SECONDS" in os.environ:
        os.environ[SECONDS] = str(float(os.environ["FUZZ_SECONDS"]) / len(tests))
