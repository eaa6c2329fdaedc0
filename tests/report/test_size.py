"""Size and speed of pages, and the README's picture, in a real browser; skipped where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fairseq_tickets.cli import main
from tests.analysis.samples import SMALL, single_task_runs, super_ticket, write
from tests.report.test_browser import Watched, browser, pytestmark  # noqa: F401 - fixture and mark

ROOT = Path(__file__).resolve().parent.parent.parent
PICTURE = ROOT / "examples" / "report.png"
MB = 1 << 20


def opened(browser, path: Path) -> tuple[Watched, float]:  # noqa: F811
    """The page, and the seconds, by the browser's clock, until it was loaded and its explorers were drawn."""
    watched = Watched(browser, path)
    return watched, watched.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000


@pytest.mark.slow
def test_the_examples_as_one_page(browser, tmp_path):  # noqa: F811
    """At most 5 MB and 2 s. With UPDATE_PICTURE=1 its picture becomes the README's."""
    page = tmp_path / "report.html"
    inputs = [str(ROOT / "examples" / name / "results") for name in ("super_tickets", "dominant_ticket")]
    assert main(["report", *inputs, "--title", "Tickets of MiniLM-L6", "--output", str(page)]) == 0
    assert page.stat().st_size <= 5 * MB
    watched, seconds = opened(browser, page)
    print(f"{page.stat().st_size / MB:.2f} MB, opened in {seconds:.2f} s")
    assert 0 < seconds <= 2
    watched.draw_all()
    watched.page.set_viewport_size({"width": 1180, "height": 1010})
    watched.page.evaluate("document.getElementById('phases').scrollIntoView()")
    target = PICTURE if os.environ.get("UPDATE_PICTURE") else tmp_path / "report.png"
    watched.page.screenshot(path=target)
    assert 20_000 < target.stat().st_size < 400_000
    watched.close()


@pytest.mark.slow
def test_a_thousand_runs(browser, tmp_path):  # noqa: F811
    """At most 10 MB and 5 s."""
    runs = []
    for number in range(20):
        for run in single_task_runs(("RTE", "MRPC"), seeds=1):
            ticket = super_ticket(SMALL, [[1, 0, 1, 1]] * 3, [1, 1, 0]).to_json() if run["level"] else None
            runs.append({**run, "seed": number, "key": f"{number} {run['key']}", "ticket": ticket})
    assert len(runs) >= 1000
    write(tmp_path / "results", runs)
    page = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "results"), "--output", str(page)]) == 0
    assert page.stat().st_size <= 10 * MB
    watched, seconds = opened(browser, page)
    print(f"{len(runs)} runs: {page.stat().st_size / MB:.2f} MB, opened in {seconds:.2f} s")
    assert 0 < seconds <= 5
    assert watched.page.locator("#run-table tbody tr").count() == len(runs)
    watched.draw_all()
    watched.close()
