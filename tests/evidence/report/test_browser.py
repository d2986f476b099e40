"""The page in a browser: the slider works, the console is empty, the page fits its window."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_report import add_strengths, make_run

from unflow.evidence.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MOVE = """<script>
const slider = document.querySelector("[type=range]");
slider.value = 1;
slider.dispatchEvent(new Event("input"));
</script>"""

# `make test` skips these tests if no browser is installed; `.ci/run` installs one and does not skip.
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="no chromium here; CI has one"
)


def opened(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    line = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *options]
    return subprocess.run([*line, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)


def stops(dom: str) -> list[bool]:
    """Return whether each strength is hidden."""
    return ["hidden" in tag for tag in re.findall(r"<figure data-stop[^>]*>", dom)]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(add_strengths(make_run(tmp_path_factory.mktemp("browser") / "run")))


def test_one_strength_is_shown_and_moving_the_slider_shows_another(page: Path) -> None:
    first = opened(page, "--dump-dom")
    assert stops(first.stdout) == [True, True, False]
    assert "2.00: 1.0 % judged" in first.stdout.split("<output")[1].split("</output>")[0]
    moved = page.with_name("moved.html")
    moved.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{MOVE}</body>"), encoding="utf-8")
    second = opened(moved, "--dump-dom")
    assert stops(second.stdout) == [True, False, True]
    assert "1.00: 5.0 % judged" in second.stdout.split("<output")[1].split("</output>")[0]


def test_nothing_is_logged_to_the_console(page: Path) -> None:
    assert "CONSOLE" not in opened(page, "--dump-dom").stderr


@pytest.mark.parametrize("width", [360, 1280])
def test_no_page_is_wider_than_its_window(width: int, page: Path) -> None:
    """Only tables and strips of pictures scroll sideways, inside their frames."""
    probe = page.with_name(f"probe-{width}.html")
    script = "<script>document.title = document.documentElement.scrollWidth;</script></body>"
    probe.write_text(page.read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    dom = opened(probe, "--dump-dom", f"--window-size={width},800").stdout
    title = re.search(r"<title>(\d+)</title>", dom)
    assert title is not None
    assert int(title[1]) <= max(width, 500)  # headless chromium has no narrower window than 500
