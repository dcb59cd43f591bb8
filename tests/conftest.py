"""What holds for every test."""

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from tests.support import fault_table
from xdist.scheduler import LoadFileScheduling

CLUSTER = "tests/e2e/cluster/"

pytest.register_assert_rewrite("tests.support.decisions")

# read when torch is imported, here and in the processes that tests start: threads that spin stop the tests beside them
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A time limit for an example would assert the speed of the machine; pytest-timeout ends what hangs.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


class _OneForTheCluster(LoadFileScheduling):  # type: ignore[misc]
    """A file stays with one worker; the files that share the cluster share a worker too."""

    def _split_scope(self, nodeid: str) -> str:
        return CLUSTER if nodeid.startswith(CLUSTER) else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """How `-n N --dist loadfile` hands out tests; None: as xdist does."""
    return _OneForTheCluster(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make faults` runs what docs/faults.md names. Warnings are errors in unit tests.

    Elsewhere libraries talk to real servers, and a socket that one of them leaves to the garbage collector would fail
    whichever test runs when it is collected.
    """
    for item in items:
        if item.get_closest_marker("unit") is None:
            item.add_marker(pytest.mark.filterwarnings("default"))
        if fault_table.names(fault_table.file_of(item.path), item.name.partition("[")[0]):
            item.add_marker(pytest.mark.faults)


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
