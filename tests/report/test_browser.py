"""The report in a real browser: the system's Chromium, driven by Playwright; skipped where either is missing."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import pytest

from fairseq_tickets.analysis.overlap import blocks_of, jaccard
from fairseq_tickets.cli import main
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.super_ticket.pruning import super_ticket
from fairseq_tickets.tickets import load_super_ticket
from tests.report.material import HOSTILE, inputs

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need Playwright (extra: dev)")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the browser tests need Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = inputs(tmp_path_factory.mktemp("report"))
    assert main(["report", str(folder), "--output", str(folder / "report.html")]) == 0
    return folder


class Watched:
    """A page that records what it should never do: print to the console, fail, ask for anything."""

    def __init__(self, browser, path: Path, width: int = 1280, dark: bool = False) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", accept_downloads=True
        )
        self.page = self.context.new_page()
        self.told: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.told.append(message.text))
        self.page.on("pageerror", lambda error: self.told.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def draw_all(self) -> None:
        """Bring every chart into view and wait for it."""
        for figure in self.page.query_selector_all("figure.chart"):
            figure.scroll_into_view_if_needed()
            name = figure.get_attribute("data-chart")
            self.page.wait_for_selector(f'[data-chart="{name}"][data-ready] .plot svg')

    def close(self) -> None:
        """End, having seen nothing unwanted; data: and blob: addresses are the page's own."""
        self.context.close()
        assert self.told == []
        assert [url for url in self.asked[1:] if not url.startswith(("data:", "blob:"))] == []


@pytest.fixture
def page(browser, folder):
    watched = Watched(browser, folder / "report.html")
    yield watched.page
    watched.close()


def choose(page, side: str, text: str) -> None:
    labels = page.locator(f'select[data-side="{side}"] option').all_text_contents()
    page.select_option(f'select[data-side="{side}"]', index=next(i for i, label in enumerate(labels) if text in label))


def slide(page, selector: str, value: int) -> None:
    page.eval_on_selector(
        selector, f"e => {{ e.value = {value}; e.dispatchEvent(new Event('input', {{bubbles: true}})); }}"
    )


def states(page, kind: str) -> list[str]:
    return page.eval_on_selector_all(
        f'[data-explorer="supers"] g[data-kind="{kind}"]', "all => all.map(e => e.dataset.state)"
    )


def downloaded(page, click) -> bytes:
    with page.expect_download() as waiting:
        click()
    return Path(waiting.value.path()).read_bytes()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_opens_whole_and_quiet_in_every_view(browser, folder, width, dark):
    watched = Watched(browser, folder / "report.html", width, dark)
    watched.draw_all()
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    ground = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(15, 20, 25)") is dark
    assert watched.page.locator("main > section").count() == 8
    watched.close()


def test_the_slider_is_what_prune_does(page, folder):
    scores = ImportanceScores.load(folder / "s0.npz")
    choose(page, "A", "RTE seed 1: winning, by scores")
    for percent in (0, 25, 50, 99):
        slide(page, '[data-level="A"]', percent)
        drawn = {kind: [state != "pruned" for state in states(page, kind)] for kind in ("heads", "ffn")}
        if percent == 0:
            assert all(drawn["heads"]) and all(drawn["ffn"]) and states(page, "heads").count("next to go") == 1
            continue
        ticket = super_ticket(scores, f"{percent / 100:.2f}", f"{percent / 100:.2f}")
        assert drawn["heads"] == [bool(v) for row in ticket.heads for v in row]
        assert drawn["ffn"] == [bool(v) for v in ticket.ffn]


def test_compare_counts_and_jaccard(page, folder):
    a, b = load_super_ticket(folder / "a.json"), load_super_ticket(folder / "b.json")
    labels = page.locator('select[data-side="A"] option').all_text_contents()
    assert {"RTE seed 1", "MRPC seed 1"} <= set(labels)
    page.select_option('select[data-side="A"]', label="RTE seed 1")
    page.select_option('select[data-side="B"]', label="MRPC seed 1")
    expected = {name: jaccard(blocks_of(a, name), blocks_of(b, name), name) for name in ("kept heads", "kept FFNs")}
    # heads of a: 0 1 2 | 0 1 | 0; of b: 0 2 3 | 0 1 2 3 | 1 2 3: both 4, only a 2, only b 6
    text = page.locator('[data-explorer="supers"] .counts').text_content()
    assert text == (
        f"Heads: both 4, only A 2, only B 6, J = {expected['kept heads']:.3f}. "
        f"FFNs: both 1, only A 1, only B 1, J = {expected['kept FFNs']:.3f}."
    )
    assert [states(page, "heads").count(s) for s in ("both", "only A", "only B", "neither")] == [4, 2, 6, 0]


def test_levels_of_runs_by_keyboard(page):
    choose(page, "A", "RTE seed 1: winning, of the runs")
    slider = page.locator('[data-level="A"]')
    slider.focus()
    slide(page, '[data-level="A"]', 0)
    page.keyboard.press("ArrowRight")
    assert page.locator('[data-level-text="A"]').text_content() == "10 %"
    assert states(page, "heads").count("pruned") == round(0.1 * 12)


def test_charts_step_by_keyboard_and_switch(page):
    figure = page.locator("figure.chart").first
    figure.scroll_into_view_if_needed()
    page.wait_for_selector("figure.chart[data-ready]")
    figure.focus()
    page.keyboard.press("ArrowRight")
    assert "weight remaining %" in figure.locator(".live").text_content()
    before = figure.locator(".plot").inner_html()
    figure.locator("select").nth(1).select_option("level")
    page.wait_for_function("before => document.querySelector('figure.chart .plot').innerHTML !== before", arg=before)
    assert "Pruned heads and FFNs" in figure.locator(".plot").inner_html()


def test_follow_a_dimension(page, folder):
    box = page.locator('[data-explorer="dominants"]')
    plot = box.locator(".plot")
    plot.focus()
    page.keyboard.press("ArrowDown")
    assert box.locator(".detail caption").text_content().startswith("Layer 1, W^Q")
    page.keyboard.press("Enter")
    assert "of 3 layers" in box.locator(".counts").text_content()
    assert box.locator('g[data-hit="true"]').count() >= 1
    assert "of 2" in box.locator(".detail td").nth(2).text_content()


def test_saliences_are_read_like_counts(page):
    box = page.locator('[data-explorer="dominants"]')
    box.locator("[data-ticket]").select_option(label="salience of RTE seed 1: gradient")
    assert "more salient its first dimension" in box.locator(".counts").text_content()
    box.locator(".plot").focus()
    page.keyboard.press("ArrowDown")
    assert box.locator(".detail th").nth(1).text_content() == "salience"
    told = [box.locator(".detail td:nth-child(2)").nth(place).text_content() for place in (0, 1)]
    assert told == ["0.00003; the matrix's largest is 0.00003", "0.00002; the matrix's largest is 0.00003"]
    assert "of 2" in box.locator(".detail td").nth(2).text_content()  # tickets that have it, counts aside


def test_the_time_to_find_a_ticket_is_told(page):
    figure = page.locator("#costs figure", has_text="RTE: time to find a ticket")
    figure.scroll_into_view_if_needed()
    name = figure.get_attribute("data-chart")
    page.wait_for_selector(f'[data-chart="{name}"][data-ready] .plot svg')
    assert figure.locator(".plot").text_content().count("salience (one pass)") >= 1
    figure.focus()
    page.keyboard.press("ArrowRight")
    assert "seconds, mean: 31" in figure.locator(".live").text_content()


@pytest.mark.parametrize("name", ["levels", "S1", "D2"])
def test_csv_is_that_of_the_table_command(page, folder, name, capsys):
    options = ["--experiment", "small", "--model", "minilm", "--format", "csv"]
    assert main(["table", name, str(folder / "results"), *options]) == 0
    printed = capsys.readouterr().out
    button = page.locator(f'#tables [data-csv][data-name="{name}"]')
    page.eval_on_selector_all("details", "all => all.forEach(e => { e.open = true; })")
    assert downloaded(page, button.click).decode() == printed
    assert len(list(csv.reader(io.StringIO(printed)))) > 3


def test_tables_sort_and_filter_and_numbers_lead_to_runs(page):
    table = page.locator("#run-table")
    scores = lambda: [float(t) for t in table.locator("tbody tr:not([hidden]) td:nth-child(11)").all_text_contents()]  # noqa: E731
    table.locator("th button", has_text="score").click()
    assert scores() == sorted(scores())
    table.locator("th button", has_text="score").press("Enter")
    assert scores() == sorted(scores(), reverse=True)
    page.fill("#run-filter", "bitfit")
    assert len(scores()) == 1
    link = page.locator("#overview td a").first
    wanted = link.get_attribute("data-runs").split()
    link.click()
    assert len(scores()) == len(wanted) == 2
    assert page.locator("#run-count").text_content().startswith("2 of ")


def test_pictures_are_saved(page):
    box = page.locator('[data-explorer="supers"]')
    assert b"<svg" in downloaded(page, box.locator('[data-save="svg"]').click)
    assert downloaded(page, box.locator('[data-save="png"]').click).startswith(b"\x89PNG")
    figure = page.locator("figure.chart").first
    figure.scroll_into_view_if_needed()
    page.wait_for_selector("figure.chart[data-ready]")
    assert downloaded(page, figure.locator('[data-save="png"]').click).startswith(b"\x89PNG")


def test_hostile_names_stay_text(browser, tmp_path, capsys):
    printable = HOSTILE.replace("\u2028", "")  # what a result's name may hold
    folder = inputs(tmp_path / "x", printable, printable)
    assert main(["report", str(folder), "--title", HOSTILE, "--output", str(tmp_path / "r.html")]) == 0
    watched = Watched(browser, tmp_path / "r.html")
    watched.draw_all()
    assert watched.page.evaluate("window.hacked") is None
    assert watched.page.locator("h1").text_content() == HOSTILE
    assert watched.page.locator("img").count() == 0
    assert printable in watched.page.locator('select[data-side="A"]').text_content()
    assert "{{7*7}}" in watched.page.content()
    watched.close()
