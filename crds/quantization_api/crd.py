"""The CustomResourceDefinition, generated from the models.

`python -m quantization_api crd` prints it; a test fails when `crds/quantizationjobs.yaml` is stale.
"""

from typing import Any

import yaml

from quantization_api import GROUP, KIND, PLURAL, SHORT_NAME, VERSION
from quantization_api.passes import PASS_TYPES, SYNONYMS, PassBase, owners
from quantization_api.spec import QuantizationJobSpec
from quantization_api.status import QuantizationJobStatus
from quantization_api.structural import Schema, structural

COLUMNS: tuple[tuple[str, str, str, int], ...] = (
    ("Phase", "string", ".status.phase", 0),
    ("Progress", "integer", ".status.progress.percent", 0),
    ("Passes", "string", ".status.passes", 0),
    ("Model", "string", ".spec.workflow.input_model.model_path", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Recipe", "string", ".status.recipe", 1),
    ("Ratio", "number", ".status.artifact.compressionRatio", 1),
    ("Artifact", "string", ".status.artifact.uri", 1),
    ("Reason", "string", ".status.failure.category", 1),
)


def flat_pass_schema() -> Schema:
    """One object for all pass types, with rules that give each parameter back to its type.

    Kubernetes' structural schemas have no unions. So every parameter of every type is a property, and a
    rule for each refuses it where it does not belong, naming its owner and what to write instead.
    """
    properties: dict[str, Schema] = {}
    rules: list[dict[str, str]] = []
    for cls in PASS_TYPES:
        schema = cls.model_json_schema(by_alias=True)
        for name, item in structural(schema, schema.get("$defs", {}))["properties"].items():
            if name == "type" or name in PassBase.REFUSED:
                continue
            _merge(properties, name, item, cls.__name__)
        for name in schema.get("required", []):
            if name != "type":
                rules.append(
                    {
                        "rule": f"self.type != '{cls.__name__}' || has(self.{name})",
                        "message": f"{cls.__name__} needs {name}",
                    }
                )
        for rule in cls.rules():
            item = rule.as_validation()
            rules.append(item | {"rule": f"self.type != '{cls.__name__}' || {item['rule']}"})
    base = PassBase.model_json_schema()
    refused = structural(base, {})
    properties |= {name: refused["properties"][name] for name in PassBase.REFUSED}
    names = [cls.__name__ for cls in PASS_TYPES]
    rules = [
        _ownership(name) for name in properties if name not in PassBase.model_fields and owners(name)
    ] + rules
    return {
        "type": "object",
        "description": "One pass: its type, and the parameters that the type has.",
        "required": ["type"],
        "properties": {
            "type": {"type": "string", "enum": names, "description": "Olive's name of the pass."},
            **properties,
        },
        "x-kubernetes-validations": [*refused["x-kubernetes-validations"], *rules],
    }


def _merge(properties: dict[str, Schema], name: str, item: Schema, owner: str) -> None:
    text = item.get("description", "")
    said = text if name in PassBase.model_fields else f"{owner}: {text}"
    if name not in properties:
        properties[name] = {"description": said} | {k: v for k, v in item.items() if k != "description"}
        return
    known = properties[name]
    if {k: v for k, v in known.items() if k != "description"} != {
        k: v for k, v in item.items() if k != "description"
    }:
        raise ValueError(f"pass parameter {name} has two schemas; a flat object needs one")
    if said not in known["description"]:
        known["description"] += f" {said}"


def _ownership(name: str) -> dict[str, str]:
    belongs = owners(name)
    sentence = f'"{name} is not a parameter of " + self.type + "; it belongs to {" and ".join(belongs)}"'
    hints = {pass_type: words[name] for pass_type, words in SYNONYMS.items() if name in words}
    tail = '""'
    for pass_type, instead in hints.items():
        tail = f"(self.type == '{pass_type}' ? \"; did you mean {instead}?\" : {tail})"
    return {
        "rule": f"!has(self.{name}) || self.type in {belongs}",
        "messageExpression": sentence if tail == '""' else f"{sentence} + {tail}",
        "fieldPath": f".{name}",
    }


def custom_resource_definition() -> dict[str, Any]:
    """The whole CRD as a plain object."""
    spec = QuantizationJobSpec.model_json_schema(by_alias=True)
    status = QuantizationJobStatus.model_json_schema(by_alias=True)
    definitions = spec["$defs"]
    definitions["Workflow"]["properties"]["passes"]["items"] = {"$ref": "#/$defs/Pass"}
    definitions["Pass"] = {"type": "object", "x-flat": True}
    spec_schema = structural(spec, definitions)
    spec_schema["properties"]["workflow"]["properties"]["passes"]["items"] = flat_pass_schema()
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": [SHORT_NAME],
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": n, "type": t, "jsonPath": p} | ({"priority": prio} if prio else {})
                        for n, t, p, prio in COLUMNS
                    ],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": "A language model to quantize, verify and store.",
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": spec_schema,
                                "status": structural(status, status.get("$defs", {})),
                            },
                        }
                    },
                }
            ],
        },
    }


def render() -> str:
    """The CRD as YAML, with a line that says where it comes from."""
    text = yaml.safe_dump(custom_resource_definition(), sort_keys=False, width=110, allow_unicode=True)
    return "# Generated from crds/quantization_api by `make generate`; do not edit.\n" + text
