"""The report in a real browser: no console errors, no outside requests, readable on a phone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browser import PHONE, READABLE, Browser, opened
from support.synthetic import write_run

from analysis.report.build import write

pytestmark = [pytest.mark.slow, pytest.mark.drawn]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    yield from opened(tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sound report."""
    run = write_run(tmp_path_factory.mktemp("study") / "run", confirmed=False)
    write(run)
    return (run / "report.html").read_text()


LONG = ("a_residual_net_with_a_rather_long_name", "its_grouped_rival_of_equal_complexity")


@pytest.mark.parametrize(
    "study",
    [
        {"arms": LONG, "slice_runs": 12},
        {"arms": ("a", "b", "c"), "default": (0.9,) * 3, "tuned": (0.90, 0.93, 0.91), "slice_runs": 12},
        {"runs": 3, "tuned": (0.92, 0.921), "failed": 1},
        {"confirmed": False},
    ],
    ids=["long names", "three arms", "undecided with failures", "unfinished"],
)
def test_the_report_opens_on_a_phone(browser: Browser, tmp_path: Path, study: dict[str, Any]) -> None:
    run = write_run(tmp_path / "run", **study)
    report = write(run)
    if "failed" in study:
        assert {a.word for a in report.answers} == {"open"}
    visit = browser.visit(run / "report.html")
    assert visit.errors == []
    assert visit.asked == []
    assert visit.width <= PHONE["width"]
    assert visit.smallest >= READABLE


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("<script>console.error('broken')</script>", "errors"),
        ("<script>nothing.of.this.name()</script>", "errors"),
        ("<img src='missing.png' alt=''>", "errors"),
        ("<img src='https://example.org/pixel.png' alt=''>", "asked"),
        ("<style>@import url('http://example.org/fonts.css');</style>", "asked"),
        ("<p style='width: 900px'>wide</p>", "width"),
        ("<p style='font-size: 7px'>small</p>", "smallest"),
    ],
)
def test_the_browser_check_detects_faults(
    browser: Browser, unfinished: str, tmp_path: Path, fault: str, seen: str
) -> None:
    page = tmp_path / "report.html"
    page.write_text(unfinished.replace("</body>", f"{fault}</body>"))
    visit = browser.visit(page)
    assert {
        "errors": visit.errors != [],
        "asked": visit.asked != [],
        "width": visit.width > PHONE["width"],
        "smallest": visit.smallest < READABLE,
    }[seen]
