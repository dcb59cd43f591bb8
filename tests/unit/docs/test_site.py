"""The site is built of all pages and no other, and its links are those of the checkout; `make docs` builds it."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.support.documented import ROOT

from deploy.site.pages import INDEX, links_of_the_site

pytestmark = pytest.mark.unit

SCREEN_AND_A_HALF = 95
"""Lines."""


def pages(nav: list[Any]) -> Iterator[str]:
    """The files that a navigation names."""
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            if isinstance(value, list):
                yield from pages(value)
            else:
                yield value


def test_the_navigation_has_every_page_once() -> None:
    named = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert len(set(named)) == len(named)
    assert set(named) == there | {INDEX}


@pytest.mark.parametrize(
    ("place", "link", "shown"),
    [
        ("README.md", "[Jobs](docs/jobs.md#paused)", "[Jobs](jobs.md#paused)"),
        ("README.md", "![A picture](docs/architecture.svg)", "![A picture](architecture.svg)"),
        ("README.md", "[Contributing](CONTRIBUTING.md)", "Contributing (`CONTRIBUTING.md`)"),
        ("README.md", "[decisions](docs/adr)", "decisions (`docs/adr`)"),
        ("docs/jobs.md", "[a job](../README.md#a-job)", "[a job](index.md#a-job)"),
        ("docs/jobs.md", "[here](../deploy/base)", "here (`deploy/base`)"),
        ("docs/jobs.md", "[deploy/base](../deploy/base)", "deploy/base"),
        ("docs/adr/0001.md", "[a page](../scale.md)", "[a page](../scale.md)"),
        ("docs/adr/0001.md", "[home](../../README.md)", "[home](../index.md)"),
        ("docs/jobs.md", "[below](#paused)", "[below](#paused)"),
        ("docs/jobs.md", "[others](https://example.com)", "[others](https://example.com)"),
    ],
)
def test_a_link_leads_to_its_page_on_the_site_or_names_its_file(place: str, link: str, shown: str) -> None:
    assert links_of_the_site(f"See {link}.", place) == f"See {shown}."


def test_the_readme_is_a_screen_and_a_half() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= SCREEN_AND_A_HALF
