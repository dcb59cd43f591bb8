"""The cluster's own containerd: whether it answers, the images given to it, and taking its containers away."""

import hashlib
import tempfile
from pathlib import Path

from local_cluster.archive import write_archive
from local_cluster.settings import Settings
from local_cluster.shell import run
from local_cluster.waiting import until

_NAMESPACE = "k8s.io"


class Containerd:
    """ctr, bound to the cluster's socket and to the kubelet's namespace."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def _ctr(self, *arguments: str, check: bool = True) -> list[str]:
        socket = str(self._settings.containerd_socket)
        done = run(
            "ctr", "--address", socket, "--namespace", _NAMESPACE, *arguments, check=check, timeout=120
        )
        return done.stdout.splitlines() if done.returncode == 0 else []

    def answers(self) -> bool:
        """Whether containerd is there and serves requests."""
        return self._settings.containerd_socket.is_socket() and bool(self._ctr("version", check=False))

    def image_of(self, program: Path) -> str:
        """The name of the image made from a program: it changes with the program, so that none is ever stale."""
        with program.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return f"localhost/{program.name}:{digest[:12]}"

    def supply(self, program: Path) -> str:
        """Make an image of a static program, unless containerd has it already, and return its name."""
        reference = self.image_of(program)
        if reference not in self._ctr("images", "list", "--quiet"):
            with tempfile.TemporaryDirectory(dir=self._settings.state) as directory:
                archive = Path(directory) / f"{program.name}.tar"
                write_archive(archive, reference, program)
                self._ctr("images", "import", str(archive))
        return reference

    def remove_containers(self) -> None:
        """Kill what runs in every container and remove the containers; images stay."""
        for task in self._ctr("tasks", "list", "--quiet", check=False):
            self._ctr("tasks", "kill", "--all", "--signal", "SIGKILL", task, check=False)
        until(self._none_runs, "containers to end", limit=15)
        for kind in ("tasks", "containers"):
            names = self._ctr(kind, "list", "--quiet", check=False)
            if names:
                self._ctr(kind, "remove", *names, check=False)

    def _none_runs(self) -> bool:
        return not any(line.split()[-1:] == ["RUNNING"] for line in self._ctr("tasks", "list", check=False))
