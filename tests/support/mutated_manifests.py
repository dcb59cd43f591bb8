"""Manifests that nobody would write on purpose, seeded: a valid one with one to three things in it broken."""

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.manifests import AFFINITY, VALID, claimed, configured, nested
from tests.support.pod_templates import WHOLE

Path = tuple[str | int, ...]

ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63 - 1,
    -(2**63),
    10**30,
    0.1,
    1e308,
    "",
    " ",
    "0",
    "1e3",
    "a" * 64,
    "a" * 1025,
    "b" * 100_000,
    "x\ny",
    "x\x00y",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe",
    "🤗" * 300,
    "../../etc/passwd",
    "s3://b/../c",
    "file:///scratch/x",
    "$(AWS_SECRET_ACCESS_KEY)",
    "{{ .Values.x }}",
    "'; DROP TABLE jobs; --",
    "<script>alert(1)</script>",
    "http://169.254.169.254/latest",
    [],
    {},
    [[]],
    [None],
    ["a"] * 200,
    [{}] * 20,
    {"a": {"b": {"c": 1}}},
    {str(number): number for number in range(1000)},
    nested(90),
)
ODD_NAMES = (
    "",
    " ",
    "bits ",
    "Bits",
    "workflow",
    "a" * 300,
    "x\ny",
    "__proto__",
    "spec",
    "$ref",
    "0",
    "q" * 70_000,
)


def mutated_manifests(seed: int, count: int, namespace: str) -> Iterator[dict[str, Any]]:
    """`count` manifests of QuantizationJobs with names of their own."""
    chance = random.Random(seed)
    for number in range(count):
        body = _whole(chance)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            chance.choice(MUTATIONS)(body, chance)
        metadata = body.get("metadata")
        kept = metadata if isinstance(metadata, dict) else {}
        yield body | {"metadata": kept | {"name": f"m{seed}-{number}", "namespace": namespace}}


def _whole(chance: random.Random) -> dict[str, Any]:
    """A valid manifest with more fields than most have."""
    body = copy.deepcopy(VALID)
    body["spec"] |= {
        "backoffLimit": 2,
        "activeDeadlineSeconds": 600,
        "template": {
            "image": "registry.example/quantizer:1",
            "resources": {"limits": {"memory": "2Gi", "nvidia.com/gpu": 1}, "requests": {"cpu": "500m"}},
            "nodeSelector": {"gpu": "h200"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": copy.deepcopy(AFFINITY),
            "volumes": [claimed("/models"), configured("/text")],
            **copy.deepcopy(
                {field: WHOLE[field] for field in WHOLE if field not in ("resources", "volumes")}
            ),
        },
    }
    body["metadata"] |= {"labels": {"team": "a"}, "annotations": {"note": "x"}}
    if chance.random() < 0.3:
        body["spec"]["suspend"] = True
    return body


def _places(value: Any, path: Path = ()) -> Iterator[Path]:
    """The paths of all values in a document, but its own."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from _places(inner, (*path, key))


def _somewhere(body: dict[str, Any], chance: random.Random) -> tuple[Any, Any]:
    """A container in the document, and a key in it."""
    path = chance.choice(
        [place for place in _places(body) if place != ("kind",) and place != ("apiVersion",)]
    )
    holder: Any = body
    for key in path[:-1]:
        holder = holder[key]
    return holder, path[-1]


def _replace(body: dict[str, Any], chance: random.Random) -> None:
    holder, key = _somewhere(body, chance)
    holder[key] = copy.deepcopy(chance.choice(ODD_VALUES))


def _remove(body: dict[str, Any], chance: random.Random) -> None:
    holder, key = _somewhere(body, chance)
    del holder[key]


def _add(body: dict[str, Any], chance: random.Random) -> None:
    holder, _ = _somewhere(body, chance)
    value = copy.deepcopy(chance.choice(ODD_VALUES))
    if isinstance(holder, dict):
        holder[chance.choice(ODD_NAMES)] = value
    else:
        holder.append(value)


def _rename(body: dict[str, Any], chance: random.Random) -> None:
    holder, key = _somewhere(body, chance)
    if isinstance(holder, dict):
        holder[chance.choice((str(key).upper(), f"{key}x", str(key)[:-1], *ODD_NAMES))] = holder.pop(key)


def _repeat(body: dict[str, Any], chance: random.Random) -> None:
    holder, key = _somewhere(body, chance)
    if isinstance(holder, list):
        holder.extend(copy.deepcopy(holder[int(key)]) for _ in range(chance.choice((1, 7, 40))))
    else:
        holder[key] = [copy.deepcopy(holder[key])]


def _move(body: dict[str, Any], chance: random.Random) -> None:
    """A value that is right elsewhere."""
    here, key = _somewhere(body, chance)
    there, other = _somewhere(body, chance)
    here[key] = copy.deepcopy(there[other])


MUTATIONS: tuple[Callable[[dict[str, Any], random.Random], None], ...] = (
    _replace,
    _replace,
    _replace,
    _remove,
    _add,
    _rename,
    _repeat,
    _move,
)
