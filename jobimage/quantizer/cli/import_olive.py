"""`quantizer import`: an Olive run config as a manifest."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from quantization_api.failures import ExitCode
from quantization_api.text import clean
from quantizer.cli.manifest_file import must_be_there
from quantizer.cli.olive.message import lines
from quantizer.cli.olive.run_config import import_config, load_config, render
from quantizer.cli.termination import categorize, must_end

LONGEST = 8192
"""Characters of a line: the options that would let an import succeed stand on one."""


def import_command(options: argparse.Namespace) -> int:
    """Writes the manifest, or prints every problem to standard error."""
    try:
        must_be_there(options.config)
        imported = import_config(
            load_config(options.config),
            strict=options.strict,
            name=options.name or _dns_name(options.config.stem),
            output_uri=options.output_uri,
            model_path=options.model_path,
            data_names=dict(_pair(text) for text in options.data),
            drop=options.drop,
        )
        text = render(imported, options.config.name)
        if options.output is None:
            sys.stdout.write(text)
        else:
            Path(options.output).write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"{options.output} cannot be written: {error.strerror}", file=sys.stderr)
        return int(ExitCode.CANNOT_CREATE_OUTPUT)
    except BaseException as error:
        if not must_end(error):
            raise
        known = categorize(error)
        _print([*f"{known.category}: {known.message}".splitlines(), known.hint])
        return int(known.exit_code)
    _print(lines(imported.notes))
    return int(ExitCode.DONE)


def _print(text: Iterable[str]) -> None:
    """To standard error, what comes from the file made printable; the manifest has standard output to itself."""
    for line in text:
        print(f"{line[: len(line) - len(line.lstrip())]}{clean(line, LONGEST)}", file=sys.stderr)


def _pair(text: str) -> tuple[str, str]:
    name, equals, uri = text.partition("=")
    if not (name and equals and uri):
        print(f"quantizer import: --data {text} is not NAME=URI", file=sys.stderr)
        raise SystemExit(int(ExitCode.USAGE))
    return name, uri


def _dns_name(text: str) -> str:
    """A valid Kubernetes name made from a file name."""
    cleaned = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in text.lower())
    return cleaned.strip("-")[:63].rstrip("-") or "imported"
