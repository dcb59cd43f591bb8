"""The CustomResourceDefinition, generated from the models.

`python -m quantization_api crd` prints it; a test fails when `crds/quantizationjobs.yaml` is stale.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from quantization_api import ENGINE_VERSION, GROUP, KIND, PLURAL, SHORT_NAME, VERSION
from quantization_api.passes import PASS_TYPES, PassBase, foreign_parameter
from quantization_api.rules import Rule, joined, literal
from quantization_api.spec import QuantizationJobSpec
from quantization_api.status import QuantizationJobStatus
from quantization_api.structural import Schema, structural

COLUMNS: tuple[tuple[str, str, str, int], ...] = (
    ("Phase", "string", ".status.phase", 0),
    ("Failure", "string", ".status.failure.category", 0),
    ("Progress", "string", ".status.progress.shown", 0),
    ("Trials", "string", ".status.search.shown", 0),
    ("Passes", "string", ".status.passes", 0),
    ("Model", "string", ".spec.workflow.input_model.model_path", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', 1),
    ("Ratio", "number", ".status.artifact.compressionRatio", 1),
    ("Best", "string", ".status.search.best", 1),
    ("Artifact", "string", ".status.artifact.uri", 1),
    ("Recipe", "string", ".status.recipe", 1),
)


def flat_pass_schema() -> Schema:
    """One object for all pass types, with rules that give each parameter back to its type.

    Kubernetes' structural schemas have no unions. So every parameter of every type is a property, and two
    rules say which of them each type has, with what to write instead of others, and what must hold of
    their values. The API server builds the schemas of all properties anew for each rule and for each field that a rule
    looks at, so one rule for each sentence, 117 of them, made validation two thirds of the cost of creating an object
    and of every status write, and two rules for each type still a quarter.

    At a status write the rules still run: of a value that did not change only the errors are dropped (KEP-4008). With
    `optionalOldSelf` a rule could pass at once where there was a value before, but not below this list, whose items
    have no key, nor where `self == oldSelf` holds the workflow still. Measured: 1 to 2 ms of 16, and a CRD that needs
    Kubernetes 1.30.
    """
    properties: dict[str, Schema] = {}
    for cls in PASS_TYPES:
        schema = cls.model_json_schema(by_alias=True)
        for name, item in structural(schema, schema.get("$defs", {}))["properties"].items():
            if name != "type" and name not in PassBase.REFUSED:
                _merge(properties, name, item, cls.__name__)
    refused = structural(PassBase.model_json_schema(), {})["properties"]
    properties |= {name: refused[name] for name in PassBase.REFUSED}
    return {
        "type": "object",
        "description": "One pass: its type and the parameters of that type.",
        "required": ["type"],
        "properties": {
            "type": {
                "type": "string",
                "enum": [cls.__name__ for cls in PASS_TYPES],
                "description": "Olive's name of the pass.",
            },
            **properties,
        },
        "x-kubernetes-validations": [_ownership(properties), _values().as_validation()],
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


def _ownership(properties: Iterable[str]) -> dict[str, str]:
    """The rule that a pass has no parameter of other types; its message has a sentence for each that it has.

    An object has no list of its names in CEL, but as `dyn` it is a map from them: so it is in the API server's code,
    not in its documentation. Every refused manifest of the tests goes to a real one (tests/integration/test_crd.py).
    """
    own = {cls: [*cls.model_fields, *PassBase.REFUSED] for cls in PASS_TYPES}
    mine = {cls: f"name in {literal(names)}" for cls, names in own.items()}
    why = {
        cls: literal(
            {name: foreign_parameter(name, cls.__name__) for name in properties if name not in own[cls]}
        )
        for cls in PASS_TYPES
    }
    said = {
        cls: f'dyn(self).filter(name, !({mine[cls]})).map(name, {why[cls]}[name]).join("; ")'
        for cls in PASS_TYPES
    }
    return {
        "rule": f"[self.type].all(kind, dyn(self).all(name, {_by_type(mine)}))",  # the type is looked up once
        "messageExpression": f"[self.type].map(kind, {_by_type(said)})[0]",
    }


def _values() -> Rule:
    """The rule for the values of parameters; its message has a sentence for each condition that is broken."""
    types = {cls: joined(_conditions(cls)) for cls in PASS_TYPES}
    held = _by_type({cls: rule.cel for cls, rule in types.items()})
    said = _by_type({cls: rule.message for cls, rule in types.items()})
    return Rule(f"[self.type].all(kind, {held})", f"[self.type].map(kind, {said})[0]", None, dynamic=True)


def _conditions(cls: type[PassBase]) -> list[Rule]:
    required = [name for name in cls.model_json_schema().get("required", []) if name != "type"]
    there = [Rule(f"has(self.{name})", f"{cls.__name__} needs {name}", None) for name in required]
    return [*there, *cls.rules()]


def _by_type(expressions: Mapping[type[PassBase], str]) -> str:
    """The expression of the pass type that `kind` names."""
    *others, (_, last) = expressions.items()
    cases = (f"kind == '{cls.__name__}' ? ({expression}) : " for cls, expression in others)
    return "".join(cases) + f"({last})"


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
        "metadata": {
            "name": f"{PLURAL}.{GROUP}",
            "labels": {
                "app.kubernetes.io/part-of": "quantization",
                "app.kubernetes.io/version": ENGINE_VERSION,
            },
        },
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
