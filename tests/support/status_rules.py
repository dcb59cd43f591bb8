"""What must hold for a status whenever it is written: kstatus, ends that are final, attempts that only grow."""

from typing import Any

Body = dict[str, Any]


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
    old, new = before.get("attempts", {}), status.get("attempts", {})
    for key in ("failed", "disrupted"):
        assert new.get(key, 0) >= old.get(key, 0), f"attempts shrank: {old} {new}"
    if ended(before):
        assert _without_generation(status) == _without_generation(before), "an end is final"
    assert ("artifact" in status) == (status["phase"] == "Succeeded"), status
    assert ("failure" in status) == (status["phase"] == "Failed"), status


def _without_generation(status: Body) -> Body:
    kept = {key: value for key, value in status.items() if key not in ("observedGeneration", "conditions")}
    conditions = [{k: v for k, v in c.items() if k != "observedGeneration"} for c in status["conditions"]]
    return kept | {"conditions": conditions}
