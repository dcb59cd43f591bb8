"""The cluster that a command works on: the local one, or the one that the user's kubeconfig names."""

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local_cluster.cluster import kubectl_for
from local_cluster.errors import ClusterError
from local_cluster.kubectl import Kubectl
from local_cluster.settings import Settings
from local_cluster.shell import run, which
from local_cluster.waiting import until


@dataclass(frozen=True, slots=True)
class Target:
    """A cluster, reached with nothing but kubectl."""

    kubectl: Kubectl
    kubeconfig: str
    """The value of KUBECONFIG."""

    @contextmanager
    def forwarded(self, namespace: str, target: str, port: int) -> Iterator[int]:
        """Reach a port inside the cluster (`svc/s3`, `pod/x`) at the yielded port of 127.0.0.1, inside the block.

        Raises:
            ClusterError: nothing is ready to answer there.
        """
        command = [str(self.kubectl.program), "--namespace", namespace, "port-forward", "--address=127.0.0.1"]
        with (
            tempfile.NamedTemporaryFile("w+") as said,
            subprocess.Popen(
                [*command, target, f":{port}"],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**os.environ, "KUBECONFIG": self.kubeconfig},
                start_new_session=True,  # an interrupt is ours to handle, after which this is ended
            ) as process,
        ):

            def forwarding() -> int | None:
                text = Path(said.name).read_text()
                found = re.search(r"Forwarding from 127\.0\.0\.1:(\d+)", text)
                if found:
                    return int(found.group(1))
                if process.poll() is not None:
                    raise ClusterError(f"{target} in namespace {namespace} cannot be reached: {text.strip()}")
                return None

            try:
                yield until(forwarding, f"kubectl to forward to {target}", limit=30)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()


def local(settings: Settings) -> Target:
    """The local cluster.

    Raises:
        ClusterError: it is not up, or no kubectl fits it.
    """
    if not settings.kubeconfig.exists():
        raise ClusterError("the local cluster is not up; `python -m local_cluster up` starts it")
    return Target(kubectl_for(settings), str(settings.kubeconfig))


def current(environ: Mapping[str, str] = os.environ) -> Target:
    """The cluster of the user's kubeconfig and its current context.

    Raises:
        ClusterError: there is no kubectl, or no such cluster answers.
    """
    kubeconfig = environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    program = which("kubectl")
    if not program:
        raise ClusterError(
            "kubectl is not installed; it is the only way by which your own cluster is reached"
        )
    done = run(program, "version", "--request-timeout=10s", env={"KUBECONFIG": kubeconfig}, check=False)
    if done.returncode != 0:
        raise ClusterError(
            f"no cluster answers through {kubeconfig}; set KUBECONFIG, or leave out --cluster current. "
            f"kubectl says: {done.stderr.strip()}"
        )
    return Target(Kubectl(program, Path(kubeconfig)), kubeconfig)
