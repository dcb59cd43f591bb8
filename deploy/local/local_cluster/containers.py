"""Builds and pushes container images with buildah and skopeo, in a storage of the cluster's own."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from local_cluster.errors import ClusterError
from local_cluster.settings import Settings
from local_cluster.shell import CommandError, run

_LINES_SHOWN = 20
# Without this option the storage driver leaves a bind mount of its directory on itself behind.
_STORAGE_OPTION = "overlay.skip_mount_home=true"


class Containers:
    """The image storage below the state directory; the user's own storage is neither read nor written."""

    def __init__(self, settings: Settings) -> None:
        self._root = settings.state / "containers"
        self._runroot = settings.state / "containers-run"
        self._temporary = settings.state / "containers-tmp"
        self._logs = settings.logs
        for directory in (self._root, self._runroot, self._temporary, self._logs):
            directory.mkdir(parents=True, exist_ok=True)

    @property
    def _buildah(self) -> list[str]:
        return [
            "buildah",
            f"--root={self._root}",
            f"--runroot={self._runroot}",
            "--storage-driver=overlay",
            f"--storage-opt={_STORAGE_OPTION}",
        ]

    @property
    def _environment(self) -> dict[str, str]:
        # Layers are put together here before they are stored: as large as the image, so not in /tmp or /var/tmp.
        return {"TMPDIR": str(self._temporary)}

    def has(self, name: str) -> bool:
        """Whether an image of this name is in the storage."""
        return run(*self._buildah, "inspect", "--type=image", name, check=False).returncode == 0

    def build(
        self,
        name: str,
        containerfile: Path,
        context: Path,
        options: Sequence[str] = (),
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        """Build an image; steps whose input is unchanged are taken from the storage.

        Raises:
            ClusterError: a step failed; the message carries the end of the log and where all of it is.
        """
        log_path = self._logs / f"image-{name.rpartition('/')[2].partition(':')[0]}.log"
        command = [
            *self._buildah,
            "bud",
            "--isolation=chroot",
            "--network=host",
            "--layers",
            "--format=oci",
            f"--file={containerfile}",
            f"--tag={name}",
            *options,
            str(context),
        ]
        said: list[str] = []
        with (
            log_path.open("w") as log,
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, **self._environment},
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                said.append(line.rstrip())
                if on_line:
                    on_line(line.rstrip())
        if process.returncode != 0:
            tail = "\n".join(said[-_LINES_SHOWN:])
            raise ClusterError(f"the image {name} was not built (the whole log is {log_path}):\n{tail}")

    def push(self, name: str, destination: str) -> str:
        """Copy an image to a registry on this machine, layers as they are, and return its digest (`sha256:...`).

        Layers that the registry has already are not sent again.

        Raises:
            ClusterError: the copy failed.
        """
        source = f"containers-storage:[overlay@{self._root}+{self._runroot}:{_STORAGE_OPTION}]{name}"
        with tempfile.TemporaryDirectory() as directory:
            digest = Path(directory) / "digest"
            run(
                "skopeo",
                "copy",
                "--quiet",
                "--insecure-policy",
                "--preserve-digests",
                "--dest-tls-verify=false",
                f"--digestfile={digest}",
                source,
                f"docker://{destination}",
                env=self._environment,
            )
            return digest.read_text().strip()

    def remove_unused(self) -> None:
        """Remove images that no name refers to and no named image stands on, which older builds leave.

        A build that failed leaves a container, which would keep its image.
        """
        run(*self._buildah, "rm", "--all")
        try:
            run(*self._buildah, "rmi", "--prune")
        except CommandError as error:
            if "not found" not in error.said:
                raise
