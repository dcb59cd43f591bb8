"""The command line of etcd, the same for the cluster and for an API server alone."""

from pathlib import Path


def etcd_command(program: Path, data: Path, client_url: str, peer_url: str) -> list[str]:
    """Return etcd's command line for one member that keeps its data in `data` and listens on the two URLs only.

    Writes are not forced to disk one by one: what a crash of the machine would lose can be made again by `up`.
    """
    return [
        str(program),
        f"--data-dir={data}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={client_url}",
        f"--advertise-client-urls={client_url}",
        f"--listen-peer-urls={peer_url}",
        f"--initial-advertise-peer-urls={peer_url}",
        f"--initial-cluster=default={peer_url}",
        "--log-level=warn",
    ]
