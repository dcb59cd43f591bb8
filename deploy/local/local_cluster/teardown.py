"""Takes the cluster off the machine, in an order in which nothing brings back what was removed."""

import contextlib
import os
import shutil
import signal

from local_cluster import cgroups, network, ownership, processes, traces
from local_cluster.errors import ClusterError
from local_cluster.progress import Progress
from local_cluster.runtime import Containerd
from local_cluster.servers import DEPENDENTS, FOUNDATION, MONITORING
from local_cluster.settings import Settings
from local_cluster.shell import run
from local_cluster.waiting import until


def down(settings: Settings, progress: Progress, wipe: bool = False) -> None:
    """Stop everything and remove every trace; with `wipe` also the state directory.

    It can be called at any time: after a crash, after a restart of the machine, after an `up` that was interrupted, or
    when nothing runs.

    Raises:
        ClusterError: something is left; the message names it.
    """
    machine_wide = ownership.owns(settings)
    with progress.step("Stopping the servers and the pods"):
        processes.stop(settings, [MONITORING, *DEPENDENTS])
        if processes.running(settings, "containerd") and Containerd(settings).answers():
            Containerd(settings).remove_containers()
        # It would wait for requests that watch for changes; whatever it has accepted is in etcd already.
        processes.stop(settings, ["kube-apiserver"], limit=0.5)
        processes.stop(settings, FOUNDATION)
    with progress.step("Removing mounts, interfaces, rules and control groups"):
        sweep(settings, machine_wide)
        if machine_wide:
            network.take_down(settings)
    left = traces.find(settings, machine_wide).sentences()
    if left:
        raise ClusterError("the cluster is down, but not without a trace:\n  " + "\n  ".join(left))
    if machine_wide:
        ownership.release()
    if wipe and settings.state.exists():
        with progress.step("Removing the state"):
            shutil.rmtree(settings.state)


def sweep(settings: Settings, machine_wide: bool) -> None:
    """Remove what dead servers have left behind. Only for when no server of the cluster runs any more.

    Namespaces are looked for before the mounts go, since a namespace is itself a mount.
    """
    found = traces.find(settings, machine_wide)
    for pid in found.processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if machine_wide:
        cgroups.kill()
    until(lambda: not traces.find(settings, machine_wide).processes, "killed processes to end", limit=10)
    for path in found.namespaces:
        run("ip", "netns", "delete", path.name, check=False)
    # Several things may be mounted on one point, and a lazy unmount shows one at a time.
    for _ in range(5):
        mounts = traces.mounts_below(traces.mount_table(), settings.state)
        if not mounts:
            break
        run("umount", "--lazy", *mounts, check=False)
    # What containerd knows of running containers is about those just killed.
    shutil.rmtree(settings.state / "ctd" / "run", ignore_errors=True)
    shutil.rmtree(settings.state / "ctd" / "runc", ignore_errors=True)
    shutil.rmtree(settings.state / "cni-addresses", ignore_errors=True)
    if not machine_wide:
        return
    for path in (*found.files, *traces.shim_sockets()):
        path.unlink(missing_ok=True)
    for directory in traces.emptied_directories():
        with contextlib.suppress(OSError):  # not there, or in use by others
            directory.rmdir()
    until(_cgroups_removed, "the pods' control groups to become empty", limit=10)


def _cgroups_removed() -> bool:
    cgroups.remove()
    return not cgroups.existing()
