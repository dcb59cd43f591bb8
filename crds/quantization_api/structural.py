"""From the JSON schema that pydantic makes to the structural schema that the API server wants.

Kubernetes' structural schemas know no `$ref`, no `anyOf` of types, no `null` and no `const`, and want
exclusive bounds as booleans. Defaults go into the descriptions: a server-side default is drift for
GitOps tools.
"""

from typing import Any

Schema = dict[str, Any]

KEPT = (
    "type",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "minimum",
    "maximum",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
)


def structural(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """The structural form of one JSON schema node; `definitions` are its `$defs`."""
    schema = _resolved(schema, definitions)
    result: Schema = {}
    description = _description(schema)
    if description:
        result["description"] = description
    result.update({key: schema[key] for key in KEPT if key in schema})
    if schema.get("type") == "integer":
        result["format"] = "int64"
    if "const" in schema:
        result["enum"] = [schema["const"]]
    if "exclusiveMinimum" in schema:
        result |= {"minimum": schema["exclusiveMinimum"], "exclusiveMinimum": True}
    if "exclusiveMaximum" in schema:
        result |= {"maximum": schema["exclusiveMaximum"], "exclusiveMaximum": True}
    if schema.get("x-kubernetes-int-or-string"):
        result["x-kubernetes-int-or-string"] = True
    if schema.get("type") == "array":
        result["items"] = structural(schema["items"], definitions)
        key = schema.get("x-map-key")
        result["x-kubernetes-list-type"] = "map" if key else "atomic"
        if key:
            result["x-kubernetes-list-map-keys"] = [key]
    if schema.get("type") == "object":
        _object(schema, definitions, result)
    if "x-immutable" in schema:
        result["x-kubernetes-validations"] = [
            *result.get("x-kubernetes-validations", []),
            {"rule": "self == oldSelf", "message": schema["x-immutable"]},
        ]
    return result


def _object(schema: Schema, definitions: dict[str, Schema], result: Schema) -> None:
    properties = schema.get("properties", {})
    if properties:
        result["properties"] = {name: structural(item, definitions) for name, item in properties.items()}
    if schema.get("required"):
        result["required"] = schema["required"]
    values = schema.get("additionalProperties")
    if isinstance(values, dict) and values:
        result["additionalProperties"] = structural(values, definitions)


def _resolved(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """Follow `$ref` and take the only type of an optional; what stands beside the reference wins."""
    outer = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf", "title")}
    if "$ref" in schema:
        return _resolved(definitions[schema["$ref"].rsplit("/", 1)[1]] | outer, definitions)
    if "anyOf" in schema:
        options = [item for item in schema["anyOf"] if item.get("type") != "null"]
        if len(options) == 1:
            return _resolved(options[0] | outer, definitions)
        if {item.get("type") for item in options} == {"integer", "string"}:
            bounds = {key: item[key] for item in options for key in ("pattern", "maxLength") if key in item}
            return bounds | outer | {"x-kubernetes-int-or-string": True}
        raise ValueError(f"a field has several types: {options}")
    return schema


def _description(schema: Schema) -> str:
    text = " ".join(str(schema.get("description", "")).split())
    default = schema.get("default")
    if default in (None, [], {}, "") or isinstance(default, dict):
        return text
    shown = str(default).lower() if isinstance(default, bool) else repr(default).replace("'", '"')
    return f"{text} Default: {shown}.".strip()
