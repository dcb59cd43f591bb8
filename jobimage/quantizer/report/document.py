"""report.html: one page with verdict, quality, sizes, pictures, and every linear's error beside that of RTN."""

import html
from collections.abc import Iterable, Mapping, Sequence

from quantization_api.manifest import LinearReport, Manifest
from quantization_api.text import clean
from quantizer.passes.making import recorded_pass
from quantizer.report.few_tokens import few_tokens
from quantizer.report.kinds import Kind, by_kind, rounds_to_nearest
from quantizer.report.model_card import title
from quantizer.report.pictures import error_by_layer, time_by_stage
from quantizer.report.quality import Row, quality, verdict
from quantizer.report.sizes import bits, own_head, sizes
from quantizer.report.svg import Picture

LONGEST = 4096
STYLE = """
:root { color-scheme: light dark; --line: #ddd; --soft: #595959; --good: #17663a }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem }
body { color: #222; background: #fff }
h1 { font-size: 1.6rem; line-height: 1.2; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem }
.verdict { font-size: 1.15rem; border-left: .3rem solid var(--line); padding: .25rem 0 .25rem .75rem }
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
.figures { display: grid; gap: 1.5rem; align-items: start }
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


def report_files(manifest: Manifest, seconds: Mapping[str, float]) -> dict[str, bytes]:
    """The files of report/: the page, which needs nothing else to be shown, and its pictures by themselves."""
    pictures = [time_by_stage(seconds)]
    if manifest.modules:
        pictures.insert(0, error_by_layer(manifest.modules))
    files = {f"{picture.name}.svg": picture.file() for picture in pictures}
    return {**files, "report.html": _page(manifest, pictures).encode()}


def _page(manifest: Manifest, pictures: Sequence[Picture]) -> str:
    name = _text(title(manifest))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}: quantization report</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{name}</h1>{_verdict(manifest)}"
        f"{_quality(manifest)}"
        f'<div class="figures">{"".join(map(_figure, pictures))}</div>'
        f"{_linears(manifest)}"
        f"<h2>About this artifact</h2>{_facts(manifest)}</main></body></html>\n"
    )


def _verdict(manifest: Manifest) -> str:
    met = " met" if any(row.goal for row in quality(manifest)) else ""
    return f'<p class="verdict{met}">{_text(verdict(manifest))}</p>'


def _quality(manifest: Manifest) -> str:
    rows = quality(manifest)
    if not rows:
        return ""
    with_rtn = any(row.rtn for row in rows)
    head = ["metric", "input model", "this model", "change", *(["RTN"] if with_rtn else [])]
    rtn_in_words = recorded_pass(manifest.workflow["passes"]).rtn_in_words
    told = f"<p><small>RTN: rounding to nearest {_text(rtn_in_words)}.</small></p>" if with_rtn else ""
    return f"<h2>Quality</h2>{_table('Quality', head, [_metric(row, with_rtn) for row in rows])}{told}"


def _metric(row: Row, with_rtn: bool) -> list[str]:
    goal = f"<small>goal: {_text(row.goal)}</small>" if row.goal else ""
    cells = [row.before, row.after, row.change or "-", *([row.rtn or "-"] if with_rtn else [])]
    return [_text(row.name) + goal, *map(_text, cells)]


def _figure(picture: Picture) -> str:
    return f"<figure>{picture.drawn}<figcaption>{_text(picture.title)}</figcaption></figure>"


def _linears(manifest: Manifest) -> str:
    """A line for each kind, and every linear of a kind where it is unfolded: a model may have thousands."""
    modules = manifest.modules
    if not modules:
        return ""
    kinds, own = by_kind(modules), rounds_to_nearest(modules)
    chosen = recorded_pass(manifest.workflow["passes"])
    measured = "outputs on the calibration text" if chosen.needs_text else "weights"
    compared = (
        f"RTN: rounding to nearest {chosen.rtn_of_linears_in_words}; a ratio below 1 is better than that."
    )
    told = [
        f"Errors are squared changes of a linear's {measured}, relative to their squares; a row gives the median.",
        "" if own else compared,
        few_tokens(modules) or "",
    ]
    head = ["kind", "linears", *_comparison(own), "largest error"]
    return (
        f"<h2>Linears</h2><p>{_text(' '.join(filter(None, told)))}</p>"
        f"{_table('Linears by kind', head, [_kind(kind, own) for kind in kinds])}"
        f"{''.join(_every(kind, own) for kind in kinds)}"
    )


def _comparison(own: bool) -> list[str]:
    """The heads of the columns about errors; own: the pass is RTN, so that nothing else is there to compare."""
    return ["error"] if own else ["error", "RTN", "ratio"]


def _kind(kind: Kind, own: bool) -> list[str]:
    worst = f"{kind.worst.error:#.3g}<small>{_text(kind.worst.name)}</small>"
    errors = [f"{kind.error:#.3g}", f"{kind.error_rtn:#.3g}", _ratio(kind.error, kind.error_rtn)]
    return [_text(kind.name), f"{len(kind.members):,}", *errors[: len(_comparison(own))], worst]


def _every(kind: Kind, own: bool) -> str:
    chosen = any(module.bits for module in kind.members)
    head = (
        "linear",
        "shape",
        *(("bits", "group size") if chosen else ()),
        *_comparison(own),
        "damping",
        "tokens",
    )
    table = _table(f"Every {kind.name}", head, [_linear(module, own) for module in kind.members])
    return f"<details><summary>{_text(kind.name)}: every linear</summary>{table}</details>"


def _linear(module: LinearReport, own: bool) -> list[str]:
    errors = [f"{module.error:.3e}", f"{module.error_rtn:.3e}", _ratio(module.error, module.error_rtn)]
    return [
        _text(module.name),
        " × ".join(map(str, module.shape)),
        *([f"{module.bits}", f"{module.group_size}"] if module.bits else []),
        *errors[: len(_comparison(own))],
        f"{module.damping:g}",
        "-" if module.tokens is None else f"{module.tokens:,}",
    ]


def _ratio(error: float, error_rtn: float) -> str:
    return f"{error / error_rtn:.2f}" if error_rtn else "-"


def _facts(manifest: Manifest) -> str:
    source = manifest.input
    licence = source.licence
    facts = [
        ("input model", source.model_path),
        ("revision", source.revision),
        ("architecture", source.architecture),
        ("licence of the input", ", ".join(licence.names) if licence else "its card says nothing"),
        ("passes", ", ".join(manifest.passes)),
        ("recipe", manifest.recipe),
        ("size", " ".join(filter(None, (f"{sizes(manifest)}; {bits(manifest)}.", own_head(manifest))))),
        ("read by", ", ".join(manifest.readers) or "no known software"),
        ("made with", ", ".join(f"{name} {value}" for name, value in manifest.versions.items())),
        ("created", manifest.created),
    ]
    return f"<dl>{''.join(f'<dt>{_text(key)}</dt><dd>{_text(value)}</dd>' for key, value in facts)}</dl>"


def _table(name: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells that are HTML already; a table that is too wide is scrolled by itself, also with the keyboard."""
    cells = "".join(f'<th scope="col">{_text(item)}</th>' for item in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{item}</td>" for item in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{_text(name)}">'
        f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _text(value: str) -> str:
    """Text from outside, which shows and does nothing else."""
    return html.escape(clean(value, LONGEST))
