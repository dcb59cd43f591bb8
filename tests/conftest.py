"""What holds for every test."""

import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# A time limit for an example would assert the speed of the machine; pytest-timeout ends what hangs.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def default_products() -> Iterator[None]:
    """Products as torch makes them by default: a run in the test's process chooses for all that follows.

    Sums in another order round an activation of few bits to the other side now and then, which no tolerance covers.
    """
    _reset_products()
    yield
    _reset_products()


def _reset_products() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.backends.mkldnn.matmul.fp32_precision = "none"
