"""From the last release to this checkout and back, with a hundred live jobs, on a real API server: none is lost.

The operators are those of their releases, each with the manifests that it came with, and what goes between them are the
commands of docs/operations.md.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support import releases
from tests.support.documented import commands
from tests.support.fleet import COUNTS, Fleet
from tests.support.operator_cluster import Cluster, place
from tests.support.operator_process import Operator, until
from tests.support.progress_page import progress_page
from tests.support.releases import Release
from tests.support.witness import Witness

from local_cluster.control_plane import ApiServer
from local_cluster.installed import DEFINITION
from quantization_api.status import QuantizationJobStatus
from quantization_operator.workload import job_name

pytestmark = [pytest.mark.integration, pytest.mark.nightly]

ADDRESS = f"127.83.{os.getpid() % 250}.6"
"""Of this process: it may run more than once on a machine."""
KIND, OPERATOR = "crd.yaml", "operator.yaml"
Between = Callable[[str], Cluster]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return releases.last(tmp_path_factory.mktemp("release"))


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer(controllers=True) as server:
        yield server


def documented(file: str, dist: Path) -> list[str]:
    """How docs/operations.md upgrades with a file of dist/."""
    (words,) = {
        command.words
        for command in commands()
        if command.place == "docs/operations.md"
        and {"--force-conflicts", f"dist/{file}"} <= set(command.words)
    }
    return [str(dist / file) if word == f"dist/{file}" else word for word in words]


def apply(api: ApiServer, release: Release, dist: Path, *files: str) -> None:
    """Go to a release by the documented commands."""
    release.write(api, dist / release.name)
    for file in files:
        program, *words = documented(file, dist / release.name)
        assert program == "kubectl"
        api.kubectl(*words)
    api.kubectl("wait", "--for=condition=Established", f"crd/{DEFINITION}", "--timeout=30s")


def operator_of(release: Release, cluster: Cluster) -> Operator:
    return Operator(cluster.kubeconfig, cluster.log, code=release.code)


def test_a_hundred_jobs_and_the_code_of_the_release(released: Release, tmp_path: Path) -> None:
    assert sum(COUNTS.values()) == 100
    operator = Operator(tmp_path / "none", tmp_path / "log", code=released.code)
    where = "import quantization_operator as o, quantization_api as a; print(o.__file__, a.__file__)"
    said = subprocess.run(
        [sys.executable, "-c", where], env=operator.environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert [Path(file).is_relative_to(released.root) for file in said] == [True, True]


@pytest.mark.parametrize(
    ("back", "files", "stop"),
    [
        (False, (KIND, OPERATOR), signal.SIGTERM),
        (False, (KIND, OPERATOR), signal.SIGKILL),
        (True, (OPERATOR,), signal.SIGTERM),
        (True, (OPERATOR, KIND), signal.SIGKILL),
    ],
    ids=["up", "up-killed", "down", "down-killed-with-the-older-kind"],
)
def test_a_hundred_jobs_go_over_to_another_release(
    api: ApiServer,
    released: Release,
    tmp_path: Path,
    back: bool,
    files: tuple[str, ...],
    stop: signal.Signals,
) -> None:
    first, second = (releases.today(), released) if back else (released, releases.today())

    def install(api: ApiServer) -> None:
        apply(api, first, tmp_path, KIND, OPERATOR)

    cluster = Cluster(api, tmp_path, install)
    witness = Witness(cluster.client, place("job"), place("qj"))
    with progress_page(ADDRESS) as page:
        fleet = Fleet(cluster, ADDRESS)
        leave(fleet, operator_of(first, cluster), stop)
        apply(api, second, tmp_path, *files)
        page["percent"] = 60
        with operator_of(second, cluster) as operator:
            take_up(fleet, operator)
            until("the witness has seen the end", lambda: sees(witness, fleet))
    resumed = {job_name(name, fleet.uids[name]) for name in fleet.names("paused")}
    assert witness.twice(resumed) == {}
    assert witness.wrong == []


def sees(witness: Witness, fleet: Fleet) -> bool:
    """Whether it has missed nothing that is there."""
    return all(witness.statuses.get(fleet.uids[name]) == told for name, told in fleet.statuses().items())


def leave(fleet: Fleet, operator: Operator, stop: signal.Signals) -> None:
    """Bring all jobs into their states and end the operator among jobs that it is about to take up."""
    late = fleet.names("late")
    with operator:
        fleet.bring()
        say(fleet, 40, fleet.names("running", "retried"))
        fleet.submit(*late[::2])
        operator.process.send_signal(stop)
        fleet.submit(*late[1::2])
        assert operator.process.wait(30) == (0 if stop == signal.SIGTERM else -stop)
    fleet.each(fleet.ends_well, *ended_meanwhile(fleet))
    assert len(fleet.uids) == sum(COUNTS.values())


def ended_meanwhile(fleet: Fleet) -> list[str]:
    """What succeeds while no operator looks."""
    return fleet.names("running")[:3]


def say(fleet: Fleet, percent: int, names: list[str]) -> None:
    """Wait until the progress of what runs is told."""
    for name in names:
        told = lambda name=name: fleet.cluster.status(name).get("progress", {}).get("percent") == percent  # noqa: E731
        until(f"{name} is at {percent} %", told, 60)


def take_up(fleet: Fleet, operator: Operator) -> None:
    """What another operator makes of them: what ended stays, what lives ends well, and nothing is lost."""
    before = fleet.statuses()
    assert set(before) == set(fleet.uids)
    ended = fleet.names("succeeded", "failed", "kept")
    meanwhile = ended_meanwhile(fleet)
    lives = [name for name in fleet.names("running", "retried") if name not in meanwhile]
    fleet.each(fleet.is_pending, *fleet.names("late", "queued"))
    fleet.each(lambda name: fleet.phase(name, "Succeeded"), *meanwhile)
    say(fleet, 60, lives)
    assert [fleet.attempts(name) for name in fleet.names("retried")] == [1] * COUNTS["retried"]
    assert {fleet.cluster.status(name)["phase"] for name in fleet.names("paused")} == {"Suspended"}
    fleet.each(fleet.goes_on, *fleet.names("paused"))
    fleet.each(fleet.succeeds, *lives, *fleet.names("queued", "late", "paused"))
    fleet.each(fleet.is_gone, *fleet.names("leaving"))
    after = fleet.statuses()
    assert set(after) == set(fleet.uids) - set(fleet.names("leaving"))
    assert {name: after[name] for name in ended} == {name: before[name] for name in ended}
    assert {after[name]["attempts"]["failed"] for name in fleet.names("retried")} == {1}
    for name, status in after.items():
        QuantizationJobStatus.model_validate(status)
        assert status["phase"] == ("Failed" if name in fleet.names("failed") else "Succeeded"), name
    assert operator.metric(r'quantization_api_requests_total\{.*code="403"') == 0
    assert not [line for line in operator.log if line["level"] == "error"]
