"""What a Job was made from, part by part: a short text that lies on the Job and in the status.

    generation=3,template=1f0e3dad,backoffLimit=98f13708,retry=6b86b273

The Job is never changed after its creation, so a later change of one of these parts waits for the next Job. Which parts
have changed is seen by comparing two such texts; what they were is not kept. Pure.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from quantization_api.constants import RETRY_ANNOTATION as RETRY_ANNOTATION
from quantization_operator import parsing

RETRY = "retry"
CORRECTIONS = ("template", "resourceClass", "storage", "backoffLimit", "activeDeadlineSeconds")
"""Fields of the spec by which a failed job is corrected: a change of one of them starts it again."""
FIELDS = (*CORRECTIONS, "parallelism", "reuse")
"""Fields of the spec that a Job is made from and that may be changed."""
UNKNOWN = ("spec",)
"""In place of the fields: the Job was made by a release that did not say from what."""


def told(spec: Mapping[str, Any], annotations: Mapping[str, Any], generation: int) -> str:
    """The text for a QuantizationJob as it is stored."""
    values = {field: spec[field] for field in FIELDS if field in spec}
    if asked := parsing.word(annotations.get(RETRY_ANNOTATION)):
        values[RETRY] = asked
    return ",".join(
        [f"generation={generation}", *(f"{name}={_digest(value)}" for name, value in values.items())]
    )


def changed(made_from: str, now: str, observed: int) -> tuple[str, ...]:
    """The fields, and perhaps RETRY, that a Job was made from and that are different now.

    observed: the generation that the status is about, for where the Job does not say for which it was made.

    A schema that forgets a field changes what is read and not the generation: that is nobody's correction. An
    annotation has no generation; one that was taken away asks for nothing.
    """
    was, new = _parts(made_from), _parts(now)
    retry = (RETRY,) if RETRY in new and new[RETRY] != was.get(RETRY) else ()
    made_for = parsing.integer(was.get("generation")) if was else observed
    if parsing.integer(new.get("generation")) <= made_for:
        return retry
    fields = tuple(field for field in FIELDS if was.get(field) != new.get(field)) if was else UNKNOWN
    return fields + retry


def _parts(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(",") if part)
    return {name: value for name, _, value in pairs}


def _digest(value: Any) -> str:
    """Of what is nested too deeply to be written nobody needs to see a change: it is refused."""
    try:
        said = json.dumps(value, sort_keys=True)
    except (RecursionError, TypeError, ValueError):
        said = ""
    return hashlib.sha256(said.encode()).hexdigest()[:8]
