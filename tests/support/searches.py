"""Searches that must be refused, and the parts of which tests make searches."""

from typing import Any

from tests.support.invalid import Invalid, bad
from tests.support.manifests import PASS, REMOVED

NAMED_PASS = (f"{PASS}.name", "q")


def dimension(parameter: str, *values: Any, of: str = "q") -> dict[str, Any]:
    """The values of a parameter that a search tries."""
    return {"pass": of, "parameter": parameter, "values": list(values)}


def search(*dimensions: dict[str, Any], **fields: Any) -> tuple[str, Any]:
    """The change that adds a search."""
    return ("workflow.search_strategy", {"search_space": list(dimensions), **fields})


BITS = dimension("bits", 4, 8)


ALTERNATIVES: tuple[tuple[str, Any], ...] = (
    (
        "workflow.passes",
        [
            {"name": "gptq", "type": "GptqQuantizer", "data_config": "train"},
            {"name": "awq", "type": "AutoAWQQuantizer", "data_config": "train"},
            {"name": "quarot", "type": "QuaRot"},
        ],
    ),
)


SEARCHES: tuple[Invalid, ...] = (
    Invalid("a search of nothing", (search(),), "nothing is searched"),
    Invalid(
        "a parameter twice",
        (NAMED_PASS, search(BITS, BITS)),
        "search_space names a parameter of a pass twice",
    ),
    Invalid(
        "a search without a metric",
        (
            NAMED_PASS,
            search(BITS),
            ("workflow.evaluators.0.metrics", [{"name": "size", "type": "size_on_disk"}]),
        ),
        "a search needs figures to compare",
    ),
    Invalid(
        "a search without an evaluator",
        (
            NAMED_PASS,
            search(BITS),
            ("workflow.evaluators", REMOVED),
            ("workflow.evaluator", REMOVED),
        ),
        "a search needs figures to compare",
    ),
    Invalid(
        "a search over no pass",
        (NAMED_PASS, search(dimension("bits", 4, of="r"))),
        "search_strategy names a pass that no pass, or more than one, has as its name",
    ),
    Invalid(
        "a chain of no pass",
        (*ALTERNATIVES, search(chains=[["gptq"], ["awk"]])),
        "search_strategy names a pass that no pass, or more than one, has as its name",
        "has as its name (gptq, awq, quarot); did you mean awq?",
    ),
    Invalid(
        "a search over another type's parameter",
        (NAMED_PASS, search(dimension("w_bit", 4))),
        "search_space names a parameter that its pass does not have",
        "w_bit is not a parameter of GptqQuantizer; it belongs to AutoAWQQuantizer; did you mean bits?",
    ),
    Invalid(
        "a search over the type",
        (NAMED_PASS, search(dimension("type", "QuaRot"))),
        "search_space names a parameter that its pass does not have",
        "to try passes of several types, name each in passes and write chains",
    ),
    Invalid(
        "a value that is a float",
        (NAMED_PASS, search(dimension("damp_percent", 0.01))),
        "Invalid value",
        'write other values as texts, such as "0.01" and "true"',
    ),
    Invalid(
        "workers without a search", (("parallelism", 2),), "parallelism is the number of workers of a search"
    ),
    Invalid("no worker", (NAMED_PASS, search(BITS), ("parallelism", 0)), "greater than or equal to 1"),
    bad("trials nowhere", "output.trialsUri", "s3://trials", "output.trialsUri must be s3://BUCKET/PREFIX"),
    bad("trials that vanish", "output.trialsUri", "file:///tmp/t", "a file:// trialsUri must be on", None),
)
"""Searches that both judges refuse."""


IMPOSSIBLE_SEARCHES: tuple[Invalid, ...] = (
    Invalid(
        "a grid without an end",
        (
            NAMED_PASS,
            search(
                dimension("group_size", *(16 * size for size in range(1, 17))),
                dimension("damp_percent", *(f"0.{size:02}" for size in range(1, 17))),
                dimension("desc_act", "true", "false"),
                dimension("static_groups", "true", "false"),
                dimension("sym", "true", "false"),
            ),
        ),
        "",
        "the grid has 2,048 points; write max_samples (at most 1,024), or fewer values",
    ),
    Invalid(
        "bits that there are not",
        (NAMED_PASS, search(dimension("bits", 4, 5))),
        "",
        "q.bits cannot be 5: bits must be 2, 3, 4 or 8",
    ),
    Invalid(
        "a value of another type",
        (NAMED_PASS, search(dimension("desc_act", "perhaps"))),
        "",
        "q.desc_act cannot be perhaps: ",
    ),
    Invalid(
        "a chain that is no sequence",
        (*ALTERNATIVES, search(chains=[["gptq"], ["awq"], ["gptq", "quarot"]])),
        "",
        "the chain gptq, quarot: QuaRot rotates the float model; put it before the GptqQuantizer",
    ),
    Invalid(
        "a pass that no chain has",
        (*ALTERNATIVES, search(chains=[["gptq"], ["awq"]])),
        "",
        "no chain has the pass quarot",
    ),
)
"""Searches that only Python refuses."""
