"""What must hold for a status whenever it is written: kstatus, a success that is final, a failure that is final until
it is corrected, attempts that only grow until then."""

from typing import Any

Body = dict[str, Any]
AS_OBSERVED = ("observedGeneration", "madeFrom", "conditions")
"""Fields of a status that tell which spec was seen, also after the end."""


def kstatus(body: Body) -> str:
    """What the kstatus library of cli-utils reads from an object with conditions."""
    status, metadata = body.get("status", {}), body["metadata"]
    true = {c["type"] for c in status.get("conditions", ()) if c["status"] == "True"}
    if "deletionTimestamp" in metadata:
        return "Terminating"
    if status.get("observedGeneration") != metadata["generation"] or "Reconciling" in true:
        return "InProgress"
    if "Stalled" in true:
        return "Failed"
    return "Current" if "Ready" in true else "InProgress"


def ended(status: Body) -> bool:
    """It is an end."""
    return status.get("phase") in ("Succeeded", "Failed")


def judge(body: Body, before: Body) -> None:
    """Judge a status that was written over another one.

    Raises:
        AssertionError: with the rule that it breaks.
    """
    status = body["status"]
    held = [c["type"] for c in status["conditions"] if c["status"] == "True"]
    assert len(held) == 1, f"{held} hold together"
    assert status["observedGeneration"] <= body["metadata"]["generation"]
    seen = body["metadata"] | {"generation": status["observedGeneration"]}
    expected = {"Succeeded": "Current", "Failed": "Failed"}.get(status["phase"], "InProgress")
    assert kstatus(body | {"metadata": seen}) in (expected, "Terminating"), status
    if status.get("restarts", 0) > before.get("restarts", 0):
        assert before.get("phase") != "Succeeded", f"a success starts again: {before} {status}"
        before = {}
    old, new = before.get("attempts", {}), status.get("attempts", {})
    for key in ("failed", "disrupted"):
        assert new.get(key, 0) >= old.get(key, 0), f"attempts shrank: {old} {new}"
    if ended(before):
        assert _of_the_end(status) == _of_the_end(before), "an end is final"
    assert ("artifact" in status) == (status["phase"] == "Succeeded"), status
    assert ("failure" in status) == (status["phase"] == "Failed"), status


def _of_the_end(status: Body) -> Body:
    kept = {key: value for key, value in status.items() if key not in AS_OBSERVED}
    conditions = [{k: v for k, v in c.items() if k != "observedGeneration"} for c in status["conditions"]]
    return kept | {"conditions": conditions}
