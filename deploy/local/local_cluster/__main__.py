"""The command line: `python -m local_cluster COMMAND`."""

import argparse
import importlib
import sys
from collections.abc import Sequence

import local_cluster
from local_cluster.errors import ClusterError
from quantization_api import ENGINE_VERSION

_COMMANDS = ("commands", "images", "s3", "kueue", "monitoring", "demo", "uninstall")
"""Modules with `add_parser(subparsers)`; each parser sets `run`, a function from parsed arguments to an exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an error that a person can act on ends as one message and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m local_cluster", description=local_cluster.__doc__)
    parser.add_argument("--version", action="version", version=f"local_cluster {ENGINE_VERSION}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in _COMMANDS:
        importlib.import_module(f"local_cluster.{name}").add_parser(subparsers)
    arguments = parser.parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted; run the same command again to go on, or `python -m local_cluster down`",
            file=sys.stderr,
        )
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
