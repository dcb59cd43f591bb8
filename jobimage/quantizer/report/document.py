"""report.html: one page with quality, sizes, pictures, and every linear's error beside that of RTN."""

import html
from collections.abc import Iterable, Mapping, Sequence

from quantization_api.manifest import LinearReport, Manifest
from quantization_api.text import clean
from quantizer.report.model_card import format_value
from quantizer.report.pictures import error_by_layer, time_by_stage

LONGEST = 4096
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .75rem; text-align: left }
td + td, th + th { text-align: right }
code { background: #f4f4f4; padding: .1rem .25rem; overflow-wrap: anywhere }
svg { max-width: 100%; height: auto }
"""


def report_files(manifest: Manifest, seconds: Mapping[str, float]) -> dict[str, bytes]:
    """The files of report/: the page, which needs nothing else to be shown, and its pictures by themselves."""
    pictures = {
        "error-by-layer.svg": error_by_layer(manifest.modules),
        "time-by-stage.svg": time_by_stage(seconds),
    }
    return {**pictures, "report.html": _page(manifest, pictures.values()).encode()}


def _page(manifest: Manifest, pictures: Iterable[bytes]) -> str:
    source = manifest.input
    facts = [
        ("input model", source.model_path),
        ("revision", source.revision),
        ("architecture", source.architecture),
        ("passes", ", ".join(manifest.passes)),
        ("recipe", manifest.recipe),
        ("size", f"{source.size_bytes / 1e6:,.1f} MB, {manifest.compression_ratio:.2f} times smaller now"),
        ("bits a weight", f"{manifest.bits_per_weight:.3f}, scales and zero points included"),
        ("read by", ", ".join(manifest.readers)),
        ("made with", ", ".join(f"{name} {value}" for name, value in manifest.versions.items())),
        ("created", manifest.created),
    ]
    rows = "".join(
        f"<tr><th>{_text(key)}</th><td style='text-align:left'>{_text(value)}</td></tr>"
        for key, value in facts
    )
    metrics = _table(
        ("metric", "input model", "this model"),
        [(item.name, format_value(item.input), format_value(item.output)) for item in manifest.metrics],
    )
    figures = "".join(_inline(picture) for picture in pictures)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Quantization report</title>"
        f"<style>{STYLE}</style></head><body><h1>Quantization report</h1><table>{rows}</table>"
        "<h2>Quality</h2><p>Metrics that begin with <code>rtn_</code> are those of RTN "
        f"(round to nearest) on the same grid.</p>{metrics}{figures}"
        f"<h2>Linears</h2>{_modules(manifest.modules)}</body></html>\n"
    )


def _modules(modules: Sequence[LinearReport]) -> str:
    return _table(
        ("linear", "shape", "error", "RTN", "ratio", "damping", "tokens"),
        [
            (
                module.name,
                " × ".join(map(str, module.shape)),
                f"{module.error:.3e}",
                f"{module.error_rtn:.3e}",
                f"{module.error / module.error_rtn:.2f}" if module.error_rtn else "-",
                f"{module.damping:g}",
                "-" if module.tokens is None else f"{module.tokens:,}",
            )
            for module in modules
        ],
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th>{_text(item)}</th>" for item in head)
    body = "".join("<tr>" + "".join(f"<td>{_text(item)}</td>" for item in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def _text(value: str) -> str:
    """Text from outside, which shows and does nothing else."""
    return html.escape(clean(value, LONGEST))


def _inline(picture: bytes) -> str:
    """An SVG document as an element of a page."""
    text = picture.decode()
    return f"<figure>{text[text.index('<svg') :]}</figure>"
