"""What is wrong with an object of the contract, in sentences for people."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from quantization_api.text import clean

OURS = ("refused", "rule", "foreign", "duplicate", "either")
"""Types of errors whose message is already written for the user."""
MOST_FAULTS = 100
OF_A_KEY = ".[key]"
"""What pydantic puts behind the key of a map that is at fault."""

WORDS = {
    "missing": "field required",
    "union_tag_not_found": "type: field required",
    "literal_error": "must be {expected}",
    "union_tag_invalid": "type must be one of {expected_tags}",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be greater than or equal to {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be less than or equal to {le}",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
}
"""Sentences for pydantic's types of errors; the names in braces are in the error's context."""


def sentences(error: ValidationError, within: str | None = None) -> list[str]:
    """Each fault as "field: what is wrong", as kubectl prints them; at most MOST_FAULTS.

    within: the field that the validated object is the value of, where it is not the whole.
    """
    top = (within,) if within else ()
    return [
        clean(_sentence(field((*top, *item["loc"])), item))
        for item in error.errors(include_url=False, include_input=False)[:MOST_FAULTS]
    ]


def in_words(item: Mapping[str, Any]) -> str:
    """What is wrong, from one item of ValidationError.errors(), without the field's name."""
    kind, message = str(item["type"]), str(item["msg"])
    if kind in OURS:
        return message
    words = WORDS.get(kind)
    return words.format(**item.get("ctx", {})) if words else message[:1].lower() + message[1:]


def field(location: tuple[int | str, ...]) -> str:
    """Dotted path, without the tag that pydantic adds for the pass type."""
    text = ""
    for position, part in enumerate(location):
        if isinstance(part, int):
            text += f"[{part}]"
        elif position > 1 and isinstance(location[position - 1], int) and location[position - 2] == "passes":
            continue
        else:
            text += f".{part}" if text else part
    return text


def _sentence(where: str, item: Mapping[str, Any]) -> str:
    where = where or "manifest"
    if where.endswith(OF_A_KEY):
        return f"{where.removesuffix(OF_A_KEY)}: the key {in_words(item)}"
    if item["type"] == "extra_forbidden":
        return f'unknown field "{where}"'
    return f"{where}: {in_words(item)}"
