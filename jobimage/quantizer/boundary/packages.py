"""Packages that the image of the stock packages lacks: what needs one is refused there in a sentence."""

import contextlib
from collections.abc import Iterator

from quantization_api.failures import Category, QuantizationError


@contextlib.contextmanager
def brings(package: str, what: str, instead: str) -> Iterator[None]:
    """Imports that bring `package`, which only `what` needs.

    Raises:
        QuantizationError: InvalidWorkflow where it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != package:
            raise
        raise QuantizationError(
            Category.INVALID_WORKFLOW, f"{what} needs {package}, which is not installed here", instead
        ) from error
