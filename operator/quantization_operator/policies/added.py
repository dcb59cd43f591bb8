"""Containers that something added to the pod, such as a mesh or a log agent: the quantizer's alone says how a run went.

A pod ends when all of its containers have. One that goes on when the quantizer has ended is given a while; then the
Job is ended in its place, with a word. One that fails beside a quantizer that succeeded takes nothing from its result.
A native sidecar (an init container with restartPolicy Always) is ended by the kubelet and needs none of this.
"""

from datetime import datetime, timedelta

from quantization_operator.pods import ChildPod

LINGER_SECONDS = 30.0
"""How long others may go on after the quantizer: time to send the last lines of a log."""


def outlives(pod: ChildPod) -> bool:
    """Whether another container goes on after the quantizer, and nothing ends the pod."""
    ended = pod.exit_code is not None and pod.phase not in ("Failed", "Succeeded")
    return ended and bool(pod.still_runs) and not pod.deleting


def left(pod: ChildPod, now: datetime) -> float:
    """Seconds that it may go on; 0: no more."""
    until = (pod.ended_at or pod.created) + timedelta(seconds=LINGER_SECONDS)
    return max(0.0, (until - now).total_seconds())


def spoiled(pod: ChildPod) -> bool:
    """Whether the quantizer succeeded in a pod that another container let fail: its Job would try again for nothing."""
    return pod.phase == "Failed" and pod.exit_code == 0 and not pod.disruption


def word(pod: ChildPod) -> str:
    """What became of the others, where the run is told to have succeeded."""
    if outlives(pod):
        return f"the Job was ended, since container {pod.still_runs} of its pod did not end"
    return (
        f"container {pod.failed_container} of its pod failed, which changes nothing" if spoiled(pod) else ""
    )


def untried(pod: ChildPod) -> str:
    """Why a run that failed is not tried again: the Job makes no other pod while this one goes on."""
    return (
        f"container {pod.still_runs}, which something added to the pod, did not end, so the Job could not try again; "
        "make it a native sidecar (an init container with restartPolicy Always), or keep it out of the pod"
    )
