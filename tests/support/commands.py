"""The quantizer's command in processes of their own that need not import torch first: seconds for each."""

import multiprocessing
import os
from multiprocessing.process import BaseProcess

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    ["quantizer.cli.execution", "quantizer.report.document", "transformers.models.llama.modeling_llama"]
)


def command(*arguments: str) -> BaseProcess:
    """Starts `quantizer ARGUMENTS`; its exit code is the command's."""
    process = _forks.Process(target=_run, args=(arguments,), daemon=True)
    process.start()
    return process


def _run(arguments: tuple[str, ...]) -> None:
    from quantizer.cli import parser

    os._exit(parser.main(list(arguments)))
