"""What the pages of the report are built of: HTML that needs nothing else, for every width, light and dark."""

import html
from collections.abc import Iterable, Sequence

from quantization_api.text import clean
from quantizer.report.svg import Picture

LONGEST = 4096
STYLE = """
:root { color-scheme: light dark; --line: #ddd; --soft: #595959; --good: #17663a }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem }
body { color: #222; background: #fff }
h1 { font-size: 1.6rem; line-height: 1.2; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem }
.verdict { font-size: 1.15rem; border-left: .3rem solid var(--line); padding: .25rem 0 .25rem .75rem }
.verdict { overflow-wrap: anywhere }
.met { border-color: var(--good) }
.wide { overflow-x: auto; position: relative }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: right; vertical-align: top }
th { font-weight: normal }
td { white-space: nowrap }
thead th { font-weight: 600; vertical-align: bottom }
th:first-child { text-align: left; padding-left: 0 }
small, figcaption { color: var(--soft) }
small { display: block }
.figures { display: grid; gap: 1.5rem; align-items: start; margin-top: 1.5rem }
.figures { grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)) }
figure { margin: 0 }
svg { display: block; width: 100%; max-width: 36rem; height: auto }
summary { cursor: pointer; padding: .3rem 0; overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1rem }
dt { color: var(--soft) }
dd { margin: 0; overflow-wrap: anywhere }
@media (max-width: 40rem) {
  table { font-size: .87rem }
  td, th { padding: .3rem .25rem }
  dl { display: block }
  dd { margin-bottom: .5rem }
}
@media (prefers-color-scheme: dark) {
  :root { --line: #444; --soft: #a8a8a8; --good: #58b982 }
  body { color: #ddd; background: #181818 }
}
"""


def page(title: str, head: str, body: str) -> bytes:
    """A document. title: of the window; head: its heading; body: HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{text(head)}</h1>{body}</main></body></html>\n"
    ).encode()


def figures(pictures: Iterable[Picture]) -> str:
    """Pictures with their titles, beside each other where there is room; "" without any."""
    drawn = [f"<figure>{one.drawn}<figcaption>{text(one.title)}</figcaption></figure>" for one in pictures]
    return f'<div class="figures">{"".join(drawn)}</div>' if drawn else ""


def table(name: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells that are HTML already; a table that is too wide is scrolled by itself, also with the keyboard."""
    cells = "".join(f'<th scope="col">{text(item)}</th>' for item in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{item}</td>" for item in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{text(name)}">'
        f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def folded(summary: str, body: str) -> str:
    """What is shown when it is asked for; body: HTML already."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def text(value: str) -> str:
    """Text from outside, which shows and does nothing else."""
    return html.escape(clean(value, LONGEST))
