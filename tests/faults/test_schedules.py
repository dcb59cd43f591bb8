"""Random fault schedules: every job gets to its right end, whatever happens between the operator and the API server.

A schedule is a number. It says how one job lives (`tests/support/stories.py`) and which of the operator's requests
for it are delayed, cut, repeated or refused, and where the operator is killed (`tests/support/fault_plan.py`). Many
run side by side, one operator for each batch.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.fault_plan import CLIENT_TIMEOUT_SECONDS, kinds
from tests.support.fault_proxy import FaultProxy
from tests.support.operator_process import Operator, install, make_namespace, service_account_kubeconfig
from tests.support.schedules import Batch, Watchman, play, subject

from local_cluster.control_plane import ApiServer

SMALL = list(range(20))
WHOLE = [list(range(first, first + 40)) for first in range(20, 500, 40)]
LIMIT_SECONDS = 240


class Stage:
    """The API server, with the operator's permissions."""

    def __init__(self, api: ApiServer, directory: Path) -> None:
        self.api, self.directory = api, directory
        install(api)
        self.operator = service_account_kubeconfig(api, directory / "operator.kubeconfig")

    def play(self, seeds: list[int], *, silences: bool) -> dict[str, list[str]]:
        """Play some schedules; what was wrong. Every kind of fault must really have been there.

        silences: watches fall silent, which takes the operator a quarter of a minute to see.
        """
        namespace = f"schedules-{seeds[0]}"
        directory = self.directory / namespace
        directory.mkdir()
        make_namespace(self.api, namespace)
        started = time.monotonic()
        batch = Batch(self.api.kubeconfig, namespace, seeds)
        settings = {
            "namespaces": f'["{namespace}"]',
            "api_timeout_seconds": CLIENT_TIMEOUT_SECONDS,
            "sweep_interval_seconds": 5,
        }
        log = directory / "operator.log"
        watchman = Watchman(lambda: Operator(proxy.kubeconfig, log, **settings))
        with FaultProxy(self.operator, directory, str(seeds[0]), subject, watchman.kill, silences) as proxy:
            wrong = play(batch, proxy, watchman, LIMIT_SECONDS)
        hits = ", ".join(f"{kind} {count}" for kind, count in sorted(proxy.hits.items()))
        print(
            f"schedules {seeds[0]} to {seeds[-1]}: {len(wrong)} wrong in {time.monotonic() - started:.0f} s; "
            f"operator started {watchman.starts} times, killed {watchman.killed} times, "
            f"unwell {len(watchman.unwell)} times; {sum(proxy.hits.values())} faults: {hits}"
        )
        for name, why in wrong.items():
            print(f"  {name}: {'; '.join(why)}")
        met = {re.sub(r" \d+$", "", kind) for kind in proxy.hits}
        assert met >= kinds(silences), f"these faults were not there: {sorted(kinds(silences) - met)}"
        assert watchman.killed >= 2, "the operator was hardly ever killed"
        assert watchman.starts > 2
        assert "Read timed out" in log.read_text(), "no request took longer than the client's patience"
        return wrong


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ApiServer(controllers=True) as api:
        yield Stage(api, tmp_path_factory.mktemp("schedules"))


@pytest.mark.integration
@pytest.mark.faults
def test_twenty_schedules_end_well(stage: Stage) -> None:
    assert stage.play(SMALL, silences=False) == {}


@pytest.mark.faults
@pytest.mark.parametrize("seeds", WHOLE, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_schedules_end_well(stage: Stage, seeds: list[int]) -> None:
    assert stage.play(seeds, silences=True) == {}
