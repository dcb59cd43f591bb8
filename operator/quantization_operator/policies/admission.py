"""Whether a stored spec is one that this release can run.

The API server refuses wrong manifests when they are applied, but not those that were stored before the
schema changed, or through a version of the CRD that knew other rules.
"""

import functools
import json

from pydantic import ValidationError

from quantization_api.failures import Category
from quantization_api.faults import sentences
from quantization_api.spec import QuantizationJobSpec
from quantization_api.status import Failure
from quantization_operator.diagnose import failure
from quantization_operator.policies.again import ANNOTATE

SMALLER = (
    "Delete the object and apply one whose spec has the fields of the reference, and no more than it needs."
)
NEWER_KIND = (
    "The kind knows this field; the operator is of an older release and does not. Upgrade the operator and start the "
    f"job again: {ANNOTATE}. Or delete the object and apply it without the field."
)
"""Of a field that is stored: the API server drops those that the kind does not know."""


@functools.lru_cache(maxsize=64)
def admit(spec: str, problem: str = "") -> QuantizationJobSpec | Failure:
    """The spec, or why it is refused: the first error of each field, as a path and a sentence.

    problem: why the stored spec was not even kept as text. The last few answers are kept, since each job's first
    decisions ask several times. They are not to be changed.
    """
    if problem or not spec:
        return failure(Category.INVALID_WORKFLOW, problem or "the stored spec cannot be read", hint=SMALLER)
    try:
        return QuantizationJobSpec.model_validate(json.loads(spec))
    except ValidationError as error:
        newer = any(item["type"] == "extra_forbidden" for item in error.errors(include_url=False))
        message = "; ".join(sentences(error, "spec")[:4])
        return failure(Category.INVALID_WORKFLOW, message, hint=NEWER_KIND if newer else "")
