"""`python -m quantizer`, and the console script `quantizer`."""

import sys

from quantizer import cli


def main() -> None:
    """Runs the command line and exits with its code."""
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
