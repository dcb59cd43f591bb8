"""`quantizer verify` and `quantizer inspect`."""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table

from quantization_api.manifest import Manifest
from quantization_api.pod import StorageAccess
from quantizer.cli.ending import guarded
from quantizer.cli.execution import scratch_parent
from quantizer.cli.screen import facts_text, metrics_table, sizes
from quantizer.machine import choose_device
from quantizer.run.inspection import inspect
from quantizer.run.scratch import make_scratch
from quantizer.run.verification import verify

logger = logging.getLogger(__name__)


def verify_command(options: argparse.Namespace) -> int:
    """Verifies; exit code 0 means that the artifact is complete and runs."""

    def action(console: Console) -> None:
        device = choose_device(options.device)
        with make_scratch(scratch_parent(options.scratch)) as scratch, console.status("list") as status:
            verified = verify(
                options.uri,
                _access(options),
                device,
                Path(scratch),
                lambda stage, done, total: status.update(f"{stage} {100 * done // max(1, total)} %"),
            )
        Console().print(
            f"verified: {len(verified.manifest.objects)} objects, {verified.bytes / 1e6:,.1f} MB match the "
            f"manifest; the model loads and runs\n{verified.digest}",
            soft_wrap=True,
        )
        for key in verified.unlisted:
            Console().print(f"not part of the artifact: {key}", soft_wrap=True, markup=False)

    return guarded(action)


def inspect_command(options: argparse.Namespace) -> int:
    """Describes a model or an artifact."""

    def action(_: Console) -> None:
        described = inspect(options.uri, _access(options))
        if options.json:
            print(json.dumps(described, indent=2, ensure_ascii=False))
        elif described["kind"] == "artifact":
            Console().print(_artifact(described), soft_wrap=True)
        else:
            Console().print(_model(described), soft_wrap=True)

    return guarded(action)


def _access(options: argparse.Namespace) -> StorageAccess:
    return StorageAccess(endpoint=options.endpoint, region=options.region)


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
        ("group sizes", ", ".join(map(str, model["groupSizes"])) + " divide every linear"),
    ]
    table = Table("linear in a layer", box=None, pad_edge=False)
    table.add_column("outputs", justify="right")
    table.add_column("inputs", justify="right")
    for linear in model["linears"]:
        table.add_row(linear["name"], *map(str, linear["shape"]))
    return Group(facts_text(facts), "", table)


def _artifact(artifact: dict[str, Any]) -> RenderableType:
    manifest = Manifest.model_validate(artifact["manifest"])
    facts = [
        ("artifact", artifact["uri"]),
        ("manifest", artifact["manifestDigest"]),
        ("recipe", manifest.recipe),
        ("input", f"{manifest.input.model_path} ({manifest.input.architecture})"),
        ("revision", manifest.input.revision),
        ("passes", ", ".join(manifest.passes)),
        ("size", sizes(manifest)),
        ("read by", ", ".join(manifest.readers)),
        ("created", manifest.created),
    ]
    parts: list[RenderableType] = [facts_text(facts)]
    if manifest.metrics:
        parts += ["", metrics_table(manifest)]
    if manifest.modules:
        worst = sorted(manifest.modules, key=lambda module: -module.error)[:5]
        table = Table("linear with the largest error", box=None, pad_edge=False)
        table.add_column("error", justify="right")
        table.add_column("plain rounding", justify="right")
        for module in worst:
            table.add_row(module.name, f"{module.error:.3e}", f"{module.error_rtn:.3e}")
        parts += ["", table]
    return Group(*parts)
