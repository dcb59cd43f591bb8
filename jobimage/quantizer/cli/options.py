"""Options that several commands take."""

import argparse
from pathlib import Path

from quantization_api import ENGINE_VERSION
from quantization_api.constants import MOST_PATIENCE_SECONDS, PATIENCE_SECONDS
from quantizer.cli.short_form import METHODS

PLACE = "s3://BUCKET/PREFIX, file:///PATH or a path"


def short_form(command: argparse.ArgumentParser) -> None:
    """A model, and what is done to it without a manifest."""
    command.add_argument("model", metavar="MODEL", help=PLACE)
    command.add_argument(
        "-o", "--output", required=True, metavar="URI", help=f"where the artifact goes: {PLACE}"
    )
    command.add_argument("--pass", dest="method", choices=METHODS, help="default: gptq with --data, else rtn")
    command.add_argument("--bits", type=int, default=4, metavar="N", help="bits of a weight (default: 4)")
    command.add_argument(
        "--group-size",
        type=int,
        metavar="N",
        help="weights that share a scale (default: the largest up to 128 that fits the model)",
    )
    command.add_argument("--data", metavar="URI", help="text to calibrate with (.txt, .jsonl, .json, .csv)")
    command.add_argument("--evaluate", metavar="URI", help="held-out text to measure the result on")


def seconds(text: str) -> int:
    """How long, as argparse reads it."""
    if not text.isdecimal() or int(text) > MOST_PATIENCE_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {MOST_PATIENCE_SECONDS}")
    return int(text)


def version(command: argparse.ArgumentParser) -> None:
    """The version of the engine."""
    command.add_argument("--version", action="version", version=f"quantizer {ENGINE_VERSION}")


def storage(command: argparse.ArgumentParser) -> None:
    """How a storage is reached."""
    command.add_argument("--endpoint", metavar="URL", help="S3 server (default: the manifest's, else AWS)")
    command.add_argument("--region", metavar="NAME", help="region of the buckets")
    command.add_argument(
        "--patience",
        type=seconds,
        metavar="SECONDS",
        help=f"how long to wait for storage that does not answer (default: the manifest's, else {PATIENCE_SECONDS})",
    )


def machine(command: argparse.ArgumentParser) -> None:
    """Where is computed."""
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    command.add_argument("--scratch", type=Path, metavar="DIR", help="directory for temporary files")


def listen(command: argparse.ArgumentParser) -> None:
    """Where progress is served."""
    command.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="serve /progress, /metrics and /healthz at this address (default: 0.0.0.0:8080 in a pod, else off)",
    )
