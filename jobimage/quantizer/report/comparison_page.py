"""Artifacts side by side as a page: the best first, what speaks against comparing, the table, and the pictures."""

from collections.abc import Sequence

from quantizer.report.comparison import (
    Compared,
    all_measures,
    best,
    cells,
    compared_measures,
    doubts,
    head,
)
from quantizer.report.gallery import trade_offs
from quantizer.report.page import figures, page, table, text
from quantizer.report.points import artifact_point


def comparison_page(artifacts: Sequence[Compared]) -> bytes:
    """The page; it needs nothing else to be shown."""
    shown = all_measures(artifacts)
    points = [artifact_point(item.manifest, item.number) for item in artifacts]
    pictures = trade_offs(points, compared_measures(artifacts))
    against = [f"<li>{text(doubt.sentence)}</li>" for doubt in doubts(artifacts)]
    rows = [[_cell(*cell) for cell in cells(item, shown)] for item in artifacts]
    body = (
        f'<p class="verdict">{text(best(artifacts))}</p>'
        f"{'<h2>Not comparable</h2><ul>' + ''.join(against) + '</ul>' if against else ''}"
        f"<h2>Side by side</h2>{table('Artifacts', head(shown), rows)}{figures(pictures)}"
        f"<h2>The artifacts</h2>{''.join(map(_facts, artifacts))}"
    )
    title = f"{len(artifacts)} artifacts compared"
    return page(title, title, body)


def _cell(value: str, below: str) -> str:
    return text(value) + (f"<small>{text(below)}</small>" if below else "")


def _facts(item: Compared) -> str:
    manifest = item.manifest
    facts = [
        (str(item.number), item.uri),
        ("input model", f"{manifest.input.model_path}, revision {manifest.input.revision}"),
        ("recipe", manifest.recipe),
        ("read by", ", ".join(manifest.readers) or "no known software"),
        ("made with", ", ".join(f"{name} {value}" for name, value in manifest.versions.items())),
        ("created", manifest.created),
    ]
    return f"<dl>{''.join(f'<dt>{text(key)}</dt><dd>{text(value)}</dd>' for key, value in facts)}</dl>"
