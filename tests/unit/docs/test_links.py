"""Every link within the documents leads somewhere: to a file of the tree, and to a heading that it has."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.documented import FENCE, GENERATED, ROOT, documents

pytestmark = pytest.mark.unit

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
PAGES = [*documents(), ROOT / "CHANGELOG.md", *(ROOT / "docs" / name for name in GENERATED)]


def links(page: Path) -> Iterator[str]:
    """The links of a page to this repository."""
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in a link."""
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(page.read_text()))
    return {word.replace(" ", "-") for word in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(place), f"{target}: no such heading"


def test_every_page_of_the_documents_is_linked_from_another_one() -> None:
    linked = {(page.parent / target.partition("#")[0]).resolve() for page in PAGES for target in links(page)}
    folders = {place for place in linked if place.is_dir()}
    lonely = [
        page.name
        for page in (ROOT / "docs").rglob("*.md")
        if page.resolve() not in linked and page.parent.resolve() not in folders
    ]
    assert lonely == []
