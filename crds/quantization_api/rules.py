"""Rules that a JSON schema cannot say, each written once for the API server and once for Python.

A rule's two faces lie side by side: a CEL expression that the API server evaluates, and a Python
check for manifests that are run without a cluster. A test applies the same manifests to both and
compares the sentences.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError


@dataclass(frozen=True)
class Rule:
    """One cross-field rule of a model."""

    cel: str
    """Expression over `self` that is true when the object is valid (CEL of Kubernetes 1.29+)."""
    message: str
    """The sentence shown; a CEL string expression when `dynamic`."""
    check: Callable[[Any], str | None] | None
    """Returns the same sentence for a model that breaks the rule, else None; what only Python can add, such as the
    nearest name, stands behind it. None: only the API server checks it."""
    dynamic: bool = False
    field: str | None = None
    """The property that the error is reported at."""

    @property
    def expression(self) -> str:
        """The message as a CEL expression."""
        return self.message if self.dynamic else literal(self.message)

    def as_validation(self) -> dict[str, str]:
        """The rule as an item of `x-kubernetes-validations`."""
        item = {"rule": self.cel, ("messageExpression" if self.dynamic else "message"): self.message}
        if self.field:
            item["fieldPath"] = f".{self.field}"
        return item


def joined(rules: Sequence[Rule], *, unless: str = "false", field: str | None = None) -> Rule:
    """Many rules as one, whose message has a sentence for each that is broken; none is looked at where `unless` holds.

    The API server builds the schemas of all properties of an object anew for each rule, and for each field that a
    rule looks at: of two rules the second costs as much as the first.
    """

    def check(model: Any) -> str | None:
        return next((said for rule in rules if rule.check and (said := rule.check(model))), None)

    held = " && ".join(f"({rule.cel})" for rule in rules)
    said = " + ".join(f'(({rule.cel}) ? "" : {rule.expression} + ". ")' for rule in rules)
    return Rule(f"{unless} || ({held})", said, check, dynamic=True, field=field)


def exactly_one(beginning: str, *names: str) -> Rule:
    """The rule that a model has one of the fields, and no two. names: as users write them, told after the beginning."""
    message = f"{beginning} {', '.join(names[:-1])} and {names[-1]}"
    given = ", ".join(f"has(self.{name})" for name in names)

    def check(model: Any) -> str | None:
        fields = [name for name, info in type(model).model_fields.items() if info.alias in names]
        return None if sum(getattr(model, field) is not None for field in fields) == 1 else message

    return Rule(f"[{given}].filter(given, given).size() == 1", message, check)


def literal(value: object) -> str:
    """A string, list or mapping as CEL writes it, which is how JSON does."""
    return json.dumps(value, ensure_ascii=False)


class ContractModel(BaseModel):
    """Base of every model of the contract: unknown fields are errors, refused ones say why.

    REFUSED names fields that a user may bring from elsewhere and that are never accepted, with the
    reason. RULES are the cross-field rules.
    """

    model_config = ConfigDict(extra="forbid")
    REFUSED: ClassVar[dict[str, str]] = {}
    RULES: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        """The cross-field rules that hold in this release."""
        return cls.RULES

    @model_validator(mode="before")
    @classmethod
    def _refuse_by_name(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name, reason in cls.REFUSED.items():
                if name in data:
                    raise PydanticCustomError("refused", "{sentence}", {"sentence": f"{name}: {reason}"})
        return data

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for field, key in _lists_of_names(type(self)):
            names = [getattr(item, key) for item in getattr(self, field)]
            for name in names:
                if names.count(name) > 1:
                    sentence = f"two {field} are named {name}"
                    raise PydanticCustomError("duplicate", "{sentence}", {"sentence": sentence})
        return self

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        for rule in _rules_of(type(self)):
            sentence = rule.check(self) if rule.check else None
            if sentence is not None:
                raise PydanticCustomError("rule", "{sentence}", {"sentence": sentence})
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        validations = [rule.as_validation() for rule in cls.rules()]
        for name, reason in cls.REFUSED.items():
            schema.setdefault("properties", {})[name] = _refused(name, reason)
        if validations:
            schema["x-kubernetes-validations"] = validations
        return schema


@cache
def _rules_of(model: type[ContractModel]) -> tuple[Rule, ...]:
    """The rules, made once: to write their CEL takes longer than to check a model."""
    return model.rules()


@cache
def _lists_of_names(model: type[BaseModel]) -> tuple[tuple[str, str], ...]:
    """The fields that are maps written as lists, each with the key of its items."""
    extras = {field: info.json_schema_extra for field, info in model.model_fields.items()}
    found = {field: extra.get("x-map-key") for field, extra in extras.items() if isinstance(extra, dict)}
    return tuple((field, key) for field, key in found.items() if isinstance(key, str))


def _refused(name: str, reason: str) -> JsonSchemaValue:
    """The schema of a field that is never accepted. The rule is its own: it costs nothing where the field is not."""
    return _kind_of(name) | {
        "description": f"Refused: {reason}",
        "x-kubernetes-validations": [{"rule": "false", "message": f"{name}: {reason}"}],
    }


def _kind_of(name: str) -> JsonSchemaValue:
    """What a refused field holds where it comes from: of another kind, its user would read of that and not of the
    reason.
    """
    anything = {"x-kubernetes-preserve-unknown-fields": True}
    if name in OBJECTS:
        return {"type": "object", **anything}
    if name in LISTS:
        return {"type": "array", "maxItems": 64, "items": {"type": "object", **anything}}
    if name in WORDS:
        return {"type": "array", "maxItems": 64, "items": {"type": "string", "maxLength": 1024}}
    if name in FLAGS:
        return {"type": "boolean"}
    if name in NUMBERS:
        return {"type": "integer"}
    return {"type": "string", "maxLength": 1024}


OBJECTS = frozenset(
    {
        *("systems", "engine", "azureml_client", "packaging_config", "io_config", "load_kwargs"),
        *("metadata", "spec", "hostPath", "nfs", "ephemeral", "downwardAPI", "serviceAccountToken"),
        *("seccompProfile", "appArmorProfile", "capabilities", "windowsOptions", "clusterTrustBundle"),
        *("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"),
    }
)
LISTS = frozenset({"containers", "initContainers", "volumeMounts", "ports", "sysctls"})
WORDS = frozenset({"command", "args"})
FLAGS = frozenset(
    {
        *("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "automountServiceAccountToken"),
        *("privileged", "allowPrivilegeEscalation", "runAsNonRoot", "readOnlyRootFilesystem"),
        "embeds",
    }
)
NUMBERS = frozenset({"activeDeadlineSeconds"})
"""Refused fields by what they hold in Olive's files and in Kubernetes' manifests; the others hold a string."""


class KubernetesModel(ContractModel):
    """Where and how: Kubernetes' words, camelCase on the wire."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)

    @classmethod
    def as_told(cls, message: str | bytes) -> Self:
        """What a process of another release says, as JSON: fields that this release does not know are left out.

        Only for what is reported (docs/releases.md). Of what is asked for, an unknown field could change the result.

        Raises:
            ValidationError: of fields that this release knows.
        """
        return cls.model_validate_json(message, extra="ignore")
