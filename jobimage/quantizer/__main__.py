"""`python -m quantizer`, and the console script `quantizer`."""

import _signal  # type: ignore[import-not-found]  # the module signal makes enums, which takes longer than the rest
import os
import sys

SETTINGS = {"OMP_WAIT_POLICY": "PASSIVE", "LRU_CACHE_CAPACITY": "64", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
"""Environment that libraries read when torch is imported; what the user has set stays."""
INTERRUPTED = 130  # ExitCode.INTERRUPTED, which takes longer to import than a person to press Ctrl-C


def _leave(*_: object) -> None:
    """Ends the process with one line, where nothing was begun yet; see cli.signals for what follows."""
    try:
        os.write(2, b"Interrupted.\n")
    finally:  # standard error may be closed
        os._exit(INTERRUPTED)


def main() -> None:
    """Runs the command line and ends the process with its code.

    Waiting threads of torch sleep. By default they spin:
    on a node with another busy process a run then takes several times as long (137 s instead of 30 s, two runs side
    by side on two cores). Waking costs a run whose batches go one by one (decoder.batchwise) 10 to 25 % where it has
    the processors to itself; OMP_WAIT_POLICY=ACTIVE gives that back. With small batches sleeping is the faster way
    there too (19 s, spinning 23 s).

    oneDNN keeps the kernels of 64 shapes, and torch's layer above it as many. By default both keep 1,024: a mixture of
    experts, where each expert has another number of tokens in each batch, thus grows by 570 MB (1,000 shapes of
    [tokens, 512] x [512, 1408]; with 64 by 35 MB, in the same time).

    Python's collector of cycles runs after 20,000 new objects, not after 700: while torch and transformers are imported
    it finds nothing and takes a fifth of the time (3.0 instead of 3.7 s).

    Ctrl-C in the interpreter's own start, its first 20 ms, is answered by the interpreter, with a traceback: nothing of
    ours runs then.

    Skips the interpreter's shutdown: taking torch and transformers apart writes to 90 MB of pages that were only
    mapped till then, which would be the peak of a run's memory, in a pod that has done all its work.
    """
    if _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:  # as under nohup
        _signal.signal(_signal.SIGINT, _leave)  # first of all: what is imported next takes a while
    import contextlib
    import gc
    import logging

    gc.set_threshold(20_000)
    from quantizer.cli import parser

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        code = parser.main()
    except SystemExit as error:  # argparse's
        code = error.code if isinstance(error.code, int) else 1
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed by the parent process
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
