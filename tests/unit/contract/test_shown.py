"""What kubectl shows: `explain` and `describe` without empty lines, `get` with what a person looks for."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.cluster_objects import child, failed_result, quantization_job, running, terminated
from tests.support.decisions import RUNS, Case, decide

from quantization_api.crd import COLUMNS, custom_resource_definition
from quantization_api.pod import RunProgress
from quantization_api.text import full_stop

pytestmark = pytest.mark.unit


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of a schema, and what it says."""
    for name, item in schema.get("properties", {}).items():
        yield f"{path}.{name}", item
        yield from fields(item.get("items", item), f"{path}.{name}")


def test_every_field_says_what_it_is() -> None:
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    silent = [
        path
        for part in ("spec", "status")
        for path, item in fields(schema["properties"][part], part)
        if not item.get("description")
    ]
    assert silent == []


def test_get_shows_the_failure_and_no_digest_before_the_artifact() -> None:
    names = [name for name, *_ in COLUMNS]
    always = [name for name, _, _, priority in COLUMNS if priority == 0]
    assert "Failure" in always
    assert names.index("Recipe") > names.index("Artifact")


def test_progress_is_shown_in_percent() -> None:
    more = {"progress": RunProgress(percent=62, stage="quantize")}
    case = Case(qjob=quantization_job(status=RUNS), child=child(), pods=[running()], more=more)
    status = decide(case).status
    assert status is not None
    assert status.progress is not None
    assert status.progress.shown == "62 %"
    written = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert decide(Case(**{**_plain(case), "qjob": quantization_job(status=written)})).status is None


def _plain(case: Case) -> dict[str, Any]:
    return {"child": case.child, "pods": case.pods, "more": case.more}


def test_no_message_is_empty_and_each_ends_in_a_full_stop() -> None:
    ends = terminated(137, failed_result("ModelNotFound", "s3://models/x is empty"), reason="OOMKilled")
    for pods in ([running()], [ends]):
        status = decide(Case(qjob=quantization_job(status=RUNS), child=child(), pods=pods)).status
        assert status is not None
        messages = [condition.message for condition in status.conditions]
        messages += [status.failure.message, status.failure.hint] if status.failure else []
        assert [said for said in messages if not said.endswith(".")] == []


@pytest.mark.parametrize(
    ("said", "shown"), [("it is gone", "it is gone."), ("why?", "why?"), ("", ""), ("x" * 1024, "x" * 1024)]
)
def test_a_full_stop_is_put_where_there_is_none(said: str, shown: str) -> None:
    assert full_stop(said) == shown
