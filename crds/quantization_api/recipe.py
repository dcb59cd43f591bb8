"""The recipe digest: the identity of a result.

Two jobs with the same recipe give bit-identical artifacts, however they run, on machines of one kind: processors
that sum in another order, or that calibration_dtype: auto chooses another type for, round a few weights otherwise.
"""

import hashlib
import json
from collections.abc import Mapping

from quantization_api import ENGINE_VERSION
from quantization_api.workflow import Workflow, canonical


def canonical_workflow(workflow: Workflow) -> str:
    """The workflow as canonical JSON: defaults written out, keys sorted, nothing unset, no white space.

    A list of data configs or evaluators has names, so its order carries no meaning and is sorted away;
    the order of the passes does.
    """
    data = workflow.model_dump(mode="json", by_alias=True)
    for key in ("data_configs", "evaluators"):
        data[key] = sorted(data[key], key=lambda item: item["name"])
    return json.dumps(canonical(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def recipe_digest(
    workflow: Workflow,
    input_revision: str,
    engine_version: str = ENGINE_VERSION,
    data_revisions: Mapping[str, str] | None = None,
) -> str:
    """`sha256:<hex>` over the canonical workflow, the input model's revision and the engine's version.

    data_revisions: digest of the text of each data config by its name. A text that was replaced at the
    same address calibrates another model, so it makes another recipe.
    """
    parts: list[object] = [canonical_workflow(workflow), input_revision, engine_version]
    if data_revisions:
        parts.append(dict(sorted(data_revisions.items())))
    return "sha256:" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()
