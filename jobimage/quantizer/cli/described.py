"""What `quantizer inspect` prints of a model or an artifact."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from quantization_api.manifest import Manifest
from quantizer.cli.screen import facts_text, metrics_table, speed_facts
from quantizer.report.sizes import bits, sizes


def in_rows(described: dict[str, Any]) -> RenderableType:
    """A description, as run.inspection.inspect gives it, for people."""
    return _artifact(described) if described["kind"] == "artifact" else _model(described)


def _model(model: dict[str, Any]) -> RenderableType:
    dtypes = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in model["dtypes"].items())
    facts = [
        ("model", model["uri"]),
        ("revision", model["revision"]),
        ("architecture", f"{model['architecture']} (model_type {model['modelType']})"),
        (
            "shape",
            f"{model['layers']} layers, hidden size {model['hiddenSize']}, "
            f"vocabulary {model['vocabulary']:,}, at most {model['maxPositions']:,} tokens",
        ),
        ("size", f"{model['sizeBytes'] / 1e6:,.1f} MB ({dtypes})"),
        *_quantization(model["quantization"]),
        *_beside(model["beside"]),
        ("group sizes", ", ".join(map(str, model["groupSizes"])) + " divide every linear"),
    ]
    table = Table("linear in a layer", box=None, pad_edge=False)
    table.add_column("outputs", justify="right")
    table.add_column("inputs", justify="right")
    for linear in model["linears"]:
        table.add_row(linear["name"], *map(str, linear["shape"]))
    return Group(
        facts_text(facts), "", table, *(part for kind in model["structure"] for part in _layers(kind))
    )


def _layers(kind: dict[str, Any]) -> list[RenderableType]:
    """Layers that are built alike: a row for each stage, then what folds and what is left alone."""
    table = Table(
        "stage", f"linears of {_numbers(kind['layers'])}, by the input they read", box=None, pad_edge=False
    )
    for number, inputs in enumerate(kind["stages"], 1):
        table.add_row(str(number), " | ".join(", ".join(names) for names in inputs))
    folds = "; ".join(f"{fold['source']} into {', '.join(fold['readers'])}" for fold in kind["folds"])
    facts = [
        ("AWQ will try" if kind["tried"] else "scales fold from", folds or "nowhere"),
        *([("experts", str(kind["experts"]))] if kind["experts"] else []),
        *([("left as they are", ", ".join(kind["left"]))] if kind["left"] else []),
    ]
    return ["", table, facts_text(facts)]


def _numbers(layers: list[int]) -> str:
    """Numbers of layers, runs of them in short: "layers 0 to 3, 5"."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    told = (str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
    return ("layer " if len(layers) == 1 else "layers ") + ", ".join(told)


def _quantization(found: dict[str, str] | None) -> list[tuple[str, str]]:
    return [] if found is None else [("quantized", f"{found['method']}; read as {found['readAs']}")]


def _beside(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    named = ", ".join(f"{one['name']} {one['sizeBytes'] / 1e6:,.1f} MB" for one in found)
    return [("beside the text", f"{named}; copied as stored")] if found else []


def _artifact(artifact: dict[str, Any]) -> RenderableType:
    manifest = Manifest.model_validate(artifact["manifest"])
    facts = [
        ("artifact", artifact["uri"]),
        ("manifest", artifact["manifestDigest"]),
        ("recipe", manifest.recipe),
        ("input", f"{manifest.input.model_path} ({manifest.input.architecture})"),
        ("revision", manifest.input.revision),
        ("passes", ", ".join(manifest.passes)),
        ("size", f"{sizes(manifest)}; {bits(manifest)}"),
        ("read by", ", ".join(manifest.readers)),
        ("created", manifest.created),
        *speed_facts(manifest),
    ]
    parts: list[RenderableType] = [facts_text(facts)]
    if manifest.metrics:
        parts += ["", metrics_table(manifest)]
    if manifest.modules:
        worst = sorted(manifest.modules, key=lambda module: -module.error)[:5]
        table = Table("linear with the largest error", box=None, pad_edge=False)
        table.add_column("error", justify="right")
        table.add_column("RTN", justify="right")
        for module in worst:
            table.add_row(module.name, f"{module.error:.3e}", f"{module.error_rtn:.3e}")
        parts += ["", table]
    return Group(*parts)
