"""`python -m kubectl_quantization`, as kubectl runs it."""

import sys

from kubectl_quantization.parser import main

if __name__ == "__main__":
    sys.exit(main())
