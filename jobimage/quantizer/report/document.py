"""report.html: one page with verdict, quality, sizes, pictures, and every linear's error beside that of RTN."""

from collections.abc import Sequence

from quantization_api.manifest import LinearReport, Manifest
from quantizer.passes.making import recorded_pass
from quantizer.report.experts import experts_by_layer, in_words
from quantizer.report.few_tokens import few_tokens
from quantizer.report.gallery import for_the_card, of_search
from quantizer.report.kinds import Kind, by_kind, rounds_to_nearest
from quantizer.report.model_card import title
from quantizer.report.page import figures, folded, page, table, text
from quantizer.report.quality import Row, measured_with, quality, verdict
from quantizer.report.search import search_section, search_verdict
from quantizer.report.sizes import bits, own_head, sizes
from quantizer.report.svg import Picture


def report_files(manifest: Manifest, pictures: Sequence[Picture]) -> dict[str, bytes]:
    """The files of report/: the page, which needs nothing else to be shown, and its pictures by themselves.

    pictures: those of quantizer.report.gallery.
    """
    files = {f"{picture.name}.svg": picture.file() for picture in pictures}
    pixels = {f"{picture.name}.png": picture.png() for picture in for_the_card(pictures)}
    return {**files, **pixels, "report.html": _page(manifest, pictures)}


def _page(manifest: Manifest, pictures: Sequence[Picture]) -> bytes:
    name, settings = title(manifest), of_search(pictures)
    others = [picture for picture in pictures if picture not in settings]
    body = (
        f"{_verdict(manifest)}{search_section(manifest)}{figures(settings)}{_quality(manifest)}"
        f"{figures(others)}{_remarks(manifest)}{_linears(manifest)}"
        f"<h2>About this artifact</h2>{_facts(manifest)}"
    )
    return page(f"{name}: quantization report", name, body)


def _verdict(manifest: Manifest) -> str:
    met = " met" if any(row.goal for row in quality(manifest)) else ""
    first, *rest = filter(None, (search_verdict(manifest), verdict(manifest)))
    return f'<p class="verdict{met}">{text(first)}</p>' + "".join(f"<p>{text(one)}</p>" for one in rest)


def _remarks(manifest: Manifest) -> str:
    """What of the input was not taken, and what calibration did not cover."""
    told = [*manifest.input.remarks, *filter(None, [few_tokens(manifest.modules)])]
    if not told:
        return ""
    return f"<h2>Remarks</h2><ul>{''.join(f'<li>{text(sentence)}</li>' for sentence in told)}</ul>"


def _quality(manifest: Manifest) -> str:
    rows = quality(manifest)
    if not rows:
        return ""
    with_rtn = any(row.rtn for row in rows)
    head = ["metric", "input model", "this model", "change", *(["RTN"] if with_rtn else [])]
    rtn_in_words = recorded_pass(manifest.workflow["passes"]).rtn_in_words
    told = f"<p><small>RTN: rounding to nearest {text(rtn_in_words)}.</small></p>" if with_rtn else ""
    served = measured_with(manifest)
    told += f"<p><small>{text(served)}</small></p>" if served else ""
    return f"<h2>Quality</h2>{table('Quality', head, [_metric(row, with_rtn) for row in rows])}{told}"


def _metric(row: Row, with_rtn: bool) -> list[str]:
    goal = f"<small>goal: {text(row.goal)}</small>" if row.goal else ""
    cells = [row.before, row.after, row.change or "-", *([row.rtn or "-"] if with_rtn else [])]
    return [text(row.name) + goal, *map(text, cells)]


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
    ]
    head = ["kind", "linears", *_comparison(own), "largest error"]
    return (
        f"<h2>Linears</h2><p>{text(' '.join(filter(None, told)))}</p>"
        f"{table('Linears by kind', head, [_kind(kind, own) for kind in kinds])}"
        f"{''.join(_every(kind, own) for kind in kinds)}{_experts(modules)}"
    )


def _experts(modules: Sequence[LinearReport]) -> str:
    """How many calibration tokens the routers sent to the experts of each layer."""
    layers = experts_by_layer(modules)
    if not layers:
        return ""
    head = ["layer", "experts", "fewest tokens", "median", "most", "rounded to nearest"]
    rows = [[text(one.layer), f"{len(one.tokens):,}", *one.counts, f"{one.nearest:,}"] for one in layers]
    each = [[text(one.layer), ", ".join(f"{count:,}" for count in one.tokens)] for one in layers]
    return (
        f"<h2>Experts</h2><p>{text(in_words(modules) or '')}</p>{table('Tokens of the experts', head, rows)}"
        f"{folded('every expert, the first one first', table('Every expert', ['layer', 'tokens'], each))}"
    )


def _comparison(own: bool) -> list[str]:
    """The heads of the columns about errors; own: the pass is RTN, so that nothing else is there to compare."""
    return ["error"] if own else ["error", "RTN", "ratio"]


def _kind(kind: Kind, own: bool) -> list[str]:
    worst = f"{kind.worst.error:#.3g}<small>{text(kind.worst.name)}</small>"
    errors = [f"{kind.error:#.3g}", f"{kind.error_rtn:#.3g}", _ratio(kind.error, kind.error_rtn)]
    return [text(kind.name), f"{len(kind.members):,}", *errors[: len(_comparison(own))], worst]


def _every(kind: Kind, own: bool) -> str:
    chosen = any(module.bits for module in kind.members)
    widths = ("bits", "group size") if chosen else ()
    head = ("linear", "shape", *widths, *_comparison(own), "damping", "tokens")
    every = table(f"Every {kind.name}", head, [_linear(module, own) for module in kind.members])
    return folded(f"{kind.name}: every linear", every)


def _linear(module: LinearReport, own: bool) -> list[str]:
    errors = [f"{module.error:.3e}", f"{module.error_rtn:.3e}", _ratio(module.error, module.error_rtn)]
    return [
        text(module.name),
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
    return f"<dl>{''.join(f'<dt>{text(key)}</dt><dd>{text(value)}</dd>' for key, value in facts)}</dl>"
