"""Print what is generated from the models: `python -m quantization_api crd|api|failures`."""

import sys

from quantization_api import ENGINE_VERSION, crd, reference

DOCUMENTS = {"crd": crd.render, "api": reference.api_page, "failures": reference.failures_page}


def main(arguments: list[str]) -> int:
    """Print one generated document; exit code 64 with the list of names for anything else."""
    if arguments == ["--version"]:
        print(f"quantization_api {ENGINE_VERSION}")
        return 0
    if len(arguments) != 1 or arguments[0] not in DOCUMENTS:
        print(f"usage: python -m quantization_api {{{','.join(DOCUMENTS)}}}", file=sys.stderr)
        return 64
    sys.stdout.write(DOCUMENTS[arguments[0]]())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
