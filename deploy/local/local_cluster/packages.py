"""Installs the Debian packages that are missing, without starting or enabling any of their services."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from local_cluster.errors import ClusterError
from local_cluster.machine import IMAGE_PROGRAMS, PROGRAMS, missing_packages
from local_cluster.progress import Progress
from local_cluster.shell import run, which

_POLICY = Path("/usr/sbin/policy-rc.d")
_SERVICES = ("containerd", "docker-registry")
_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive"}


def install(
    progress: Progress,
    programs: Mapping[str, tuple[str, ...]] = MappingProxyType({**PROGRAMS, **IMAGE_PROGRAMS}),
) -> list[str]:
    """Install what is missing and return its names; packages that are there stay as they are.

    Args:
        progress: who is told.
        programs: the packages and what shows that one is there; by default what cluster and images need.

    Raises:
        ClusterError: not root, not Debian-like, or apt-get failed or would have to remove another package.
    """
    missing = missing_packages(programs)
    if not missing:
        return []
    if which("apt-get") is None:
        raise ClusterError(f"this machine has no apt-get; install by its own means: {', '.join(missing)}")
    if os.geteuid() != 0:
        raise ClusterError(f"installing {', '.join(missing)} needs root; run it with sudo")
    with progress.step("Reading the lists of packages"):
        run("apt-get", "update", "--quiet", "--quiet", env=_ENVIRONMENT, timeout=600)
    with progress.step(f"Installing {', '.join(missing)}"), _no_service_starts():
        # --no-remove: Docker's own containerd package, say, must not be replaced behind the user's back.
        options = ("install", "--yes", "--quiet", "--no-install-recommends", "--no-remove")
        run("apt-get", *options, *missing, env=_ENVIRONMENT, timeout=1800)
    _keep_disabled(missing)
    still = missing_packages(programs)
    if still:
        raise ClusterError(
            f"apt-get installed {', '.join(still)}, but their programs are not where they should be"
        )
    return missing


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """While packages are installed, deny them to start services (Debian's policy-rc.d); an own policy is put back."""
    saved = _POLICY.with_name(_POLICY.name + ".saved-by-local-cluster")
    if _POLICY.exists():
        _POLICY.rename(saved)
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)
        if saved.exists():
            saved.rename(_POLICY)


def _keep_disabled(installed: list[str]) -> None:
    """Debian enables a new service for the next start of the machine, where it would take the registry's port."""
    if which("systemctl") is None:
        return
    for service in _SERVICES:
        if service in installed:
            run("systemctl", "disable", "--quiet", f"{service}.service", check=False)
