"""How the pages of the checkout become those of the site: a hook of mkdocs.

The README is the first page. A link out of docs/ leads to a file of the checkout, which the site does not have: it
becomes the path of the file.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
INDEX = "index.md"


def on_files(files: Any, config: Any) -> Any:
    """Adds the README as the first page."""
    from mkdocs.structure.files import File  # only where a site is built

    files.append(File.generated(config, INDEX, content=(ROOT / "README.md").read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns the links of a page into those of the site."""
    source = page.file.src_uri
    return links_of_the_site(markdown, "README.md" if source == INDEX else f"docs/{source}")


def links_of_the_site(markdown: str, place: str) -> str:
    """The text of a page of the checkout, with the links that it has on the site."""
    return LINK.sub(lambda found: _link(found, place), markdown)


def _link(found: re.Match[str], place: str) -> str:
    picture, text, target = found.groups()
    if re.match(r"[a-z]+:|#", target):
        return found[0]
    path, _, anchor = target.partition("#")
    there = posixpath.normpath(posixpath.join(posixpath.dirname(place), path))
    if there == "README.md":
        there = f"docs/{INDEX}"
    if not there.startswith("docs/") or not posixpath.splitext(there)[1]:
        return text if there in text else f"{text} (`{there}`)"
    own = "docs" if place == "README.md" else posixpath.dirname(place)
    return f"{picture}[{text}]({posixpath.relpath(there, own)}{'#' if anchor else ''}{anchor})"
