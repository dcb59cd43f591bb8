"""The report in a real browser: no network, nothing in the console, and no page that is wider than the screen."""

import html
import json
import os
import re
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest
from tests.support.choice import mostly_nightly
from tests.support.searched import mixed_linears, rotated_ranges, searched
from tests.unit.quantizer.report.test_report import a_manifest

from quantizer.report.comparison import numbered
from quantizer.report.comparison_page import comparison_page
from quantizer.report.document import report_files
from quantizer.report.gallery import pictures

pytestmark = pytest.mark.integration

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (390, 1280)
PAGES = ("report", "compare")
EVERY_TIME = (("report", True), ("compare", False))
LOOK = """
<script>
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument, root = page.documentElement;
    const style = frame.contentWindow.getComputedStyle(page.body);
    const wide = [...page.querySelectorAll("svg, p, h1, h2, dd, summary, .wide")].filter(
      (one) => one.getBoundingClientRect().right > frame.clientWidth + 1);
    return {width: frame.clientWidth, scrolled: root.scrollWidth, wide: wide.map((one) => one.outerHTML.slice(0, 99)),
      loaded: frame.contentWindow.performance.getEntriesByType("resource").map((one) => one.name),
      pictures: page.querySelectorAll("svg").length, ink: style.color, ground: style.backgroundColor};
  });
  document.body.dataset.found = JSON.stringify(found);
});
</script>
"""


def seen(page: bytes, folder: Path, *, dark: bool) -> list[dict[str, object]]:
    """What a browser sees of the page at each width; it fails where the console says anything."""
    assert BROWSER is not None
    inside = html.escape(page.decode())
    frames = "".join(f'<iframe width="{width}" height="900" srcdoc="{inside}"></iframe>' for width in WIDTHS)
    outer = folder / "outer.html"
    outer.write_text(f"<!doctype html><meta charset=utf-8><body>{LOOK}{frames}")
    ended = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--window-size=1400,1000",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            "--dump-dom",
            outer.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
    assert not said
    found = re.search(r'data-found="([^"]*)"', ended.stdout)
    assert found, ended.stderr[-2000:]
    return list(json.loads(html.unescape(found[1])))


@pytest.fixture(scope="module")
def pages() -> dict[str, bytes]:
    """The report of a search, and a comparison."""
    manifest = searched(a_manifest()).model_copy(
        update={"modules": mixed_linears(12), "ranges": rotated_ranges(12)}
    )
    plain = searched(a_manifest(group_size=32))
    return {
        "report": report_files(manifest, pictures(manifest))["report.html"],
        "compare": comparison_page(numbered([("s3://a/one", manifest), (f"s3://a/{99 * 'long'}", plain)])),
    }


@pytest.mark.skipif(
    BROWSER is None and os.geteuid() != 0, reason="needs chromium; as root, make integration installs it"
)
@pytest.mark.parametrize(
    ("name", "dark"),
    mostly_nightly(product(PAGES, (False, True)), EVERY_TIME),
)
def test_a_page_needs_no_network_and_fits(
    name: str, dark: bool, pages: dict[str, bytes], tmp_path: Path
) -> None:
    found = seen(pages[name], tmp_path, dark=dark)
    assert [one["width"] for one in found] == list(WIDTHS)
    for one in found:
        assert one["loaded"] == []
        assert one["wide"] == []
        assert one["scrolled"] == one["width"]
        assert one["pictures"] == {"report": 7, "compare": 2}[name]
        assert one["ground"] == ("rgb(24, 24, 24)" if dark else "rgb(255, 255, 255)")
