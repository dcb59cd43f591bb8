"""Whose the machine-wide things are: bridges, rules and control groups have one name each, so one cluster owns them."""

from pathlib import Path

from local_cluster.errors import ClusterError
from local_cluster.processes import marked_processes
from local_cluster.settings import Settings

_OWNER = Path(
    "/run/quantization-local.owner"
)  # /run is empty after a restart of the machine, as the things are gone


def owner() -> Path | None:
    """The state directory of the cluster that was started last and not taken down since."""
    try:
        return Path(_OWNER.read_text().strip())
    except FileNotFoundError:
        return None


def claim(settings: Settings) -> None:
    """Note that the machine-wide things are this cluster's.

    Raises:
        ClusterError: another cluster is up.
    """
    other = owner()
    if other is not None and other != settings.state:
        state = "is up" if marked_processes(Settings(state=other)) else "was not taken down"
        raise ClusterError(
            f"another local cluster, with its state in {other}, {state}; "
            f"run QUANTIZATION_LOCAL_DIR={other} python -m local_cluster down"
        )
    _OWNER.write_text(f"{settings.state}\n")


def owns(settings: Settings) -> bool:
    """Whether the machine-wide things, if there are any, may be taken away with this cluster."""
    return owner() in (None, settings.state)


def release() -> None:
    """Forget the owner."""
    _OWNER.unlink(missing_ok=True)
