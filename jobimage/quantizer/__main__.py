"""`python -m quantizer`, and the console script `quantizer`."""

import logging
import os
import sys

from quantizer import cli


def main() -> None:
    """Runs the command line and ends the process with its code.

    Without the interpreter's own end: taking torch and transformers apart writes to 90 MB of pages that were only
    mapped till then, which would be the peak of a run's memory, in a pod that has done all its work.
    """
    try:
        code = cli.main()
    except SystemExit as error:  # argparse's
        code = error.code if isinstance(error.code, int) else 1
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
