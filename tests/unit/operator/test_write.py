"""Status patches say exactly the difference, and every write says who it is and leaves nothing out in silence."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.cluster_objects import child, quantization_job

from quantization_api.status import QuantizationJobStatus
from quantization_operator.decision import Event
from quantization_operator.snapshots import QuantizationJob
from quantization_operator.write import Writer, merge_patch

pytestmark = pytest.mark.unit

LEAF = st.one_of(st.integers(), st.text(max_size=3), st.booleans(), st.lists(st.integers(), max_size=2))
OBJECT = st.recursive(
    st.dictionaries(st.sampled_from("abc"), LEAF, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), st.one_of(LEAF, inner), max_size=3),
    max_leaves=12,
)


def apply(target: Any, patch: Any) -> Any:
    """MergePatch of RFC 7386, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = apply(result.get(key), value)
    return result


@given(OBJECT, OBJECT)
def test_a_patch_turns_one_object_into_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert apply(before, merge_patch(before, after)) == after


@given(OBJECT)
def test_equal_objects_need_no_patch(value: dict[str, Any]) -> None:
    assert merge_patch(value, value) == {}


class Asked:
    """In place of `Kube`: keeps the query of each write."""

    def __init__(self) -> None:
        self.queries: list[Mapping[str, str]] = []

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, **_: Any
    ) -> dict[str, Any]:
        self.queries.append(query or {})
        return child() if method == "POST" and path.endswith("/jobs") else quantization_job()


def test_every_write_has_the_operators_name_and_a_job_is_created_strictly() -> None:
    asked = Asked()
    qjob = QuantizationJob.of(quantization_job())
    assert qjob is not None

    async def write() -> None:
        writer = Writer(asked, "operator-1")  # type: ignore[arg-type]
        await writer.create_job(qjob, child())
        await writer.patch_finalizers(qjob, ())
        await writer.patch_status(qjob, {}, QuantizationJobStatus())
        await writer.post_event(qjob, Event("Normal", "Started", "it runs"), datetime.now(UTC))

    asyncio.run(write())
    assert [query.get("fieldManager") for query in asked.queries] == ["quantization-operator"] * 4
    assert asked.queries[0]["fieldValidation"] == "Strict"
