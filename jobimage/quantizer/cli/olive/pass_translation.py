"""The passes of a run config, as those of a workflow."""

from collections.abc import Callable, Sequence
from typing import Any

from quantization_api.passes import PassBase, foreign_parameter, owners
from quantization_api.text import did_you_mean
from quantizer.cli.olive import others
from quantizer.cli.olive.accelerators import CPU, CUDA
from quantizer.cli.olive.fields import PASS
from quantizer.cli.olive.notes import Notes, Object, not_a_field
from quantizer.cli.olive.parts import checked
from quantizer.cli.olive.search_translation import Searched, dimension, is_searchable, support
from quantizer.cli.olive.spellings import SPELLINGS, Spelling

DEFAULT = "DEFAULT_VALUE"
NO_PASSES = "there is no pass to run; write a GptqQuantizer, an AutoAWQQuantizer or a QuaRot"
HEAD_AND_EMBEDDINGS = (
    "Rtn rounds what the pass before it left, the head or the embeddings; they keep their own data type here"
)
_BY_NAME = {name.lower(): (name, spelling) for name, spelling in SPELLINGS.items()}
NOT_BUILT_FOR = "is not available: a graph is built for cpu or cuda, where it can be checked"
ROUNDING = ("GptqQuantizer", "AutoAWQQuantizer")


def passes(given: Any, flows: Any, provider: str, notes: Notes, searched: Searched) -> list[Object]:
    """The passes that are ours, in their order, with Olive's parameters as ours.

    Args:
        given: `passes`. flows: `pass_flows`, in releases that had it.
        provider: the execution provider that a ModelBuilder's graph is for.
        searched: takes what is left to a search.
    """
    if not isinstance(given, dict):
        notes.refuse("passes", "must be a map from names to passes", droppable=False)
        return []
    found: list[Object] = []
    for name in _order(given, flows, notes):
        path = f"passes.{name}"
        if notes.is_dropped(path, name):
            continue
        names: list[str] = []
        for own, place, one in _alternatives(str(name), given[name], path):
            item = _folded(one, place, notes)
            if item is not None and (made := _pass(own, item, place, provider, found, notes, searched)):
                found.append(made)
                names.append(own)
        if names:
            searched.alternatives.append(names)
    if not found:
        notes.refuse("passes", NO_PASSES, droppable=False)
    return found


def checked_passes(items: Sequence[Object], notes: Notes) -> list[PassBase]:
    """The passes as the contract takes them, faults noted."""
    found = [checked(SPELLINGS[item["type"]].model, item, f"passes.{item['name']}", notes) for item in items]
    return [item for item in found if item is not None]


def _order(given: Object, flows: Any, notes: Notes) -> list[Any]:
    if flows is None:
        return list(given)
    flow = flows[0] if isinstance(flows, list) and len(flows) == 1 else None
    if isinstance(flow, list) and sorted(map(str, flow)) == sorted(map(str, given)):
        return flow
    notes.refuse(
        "pass_flows",
        "only one flow with every pass is possible; split other flows into jobs",
        droppable=False,
    )
    return list(given)


def _alternatives(name: str, item: Any, path: str) -> list[tuple[str, str, Any]]:
    """The passes of a name, each with a name and a place of its own; Olive also takes a list of alternatives."""
    if not isinstance(item, list) or len(item) == 1:
        return [(name, path, item[0] if isinstance(item, list) else item)]
    return [(f"{name}-{number}", f"{path}.{number}", one) for number, one in enumerate(item, start=1)]


def _folded(item: Any, path: str, notes: Notes) -> Object | None:
    if item == {}:
        notes.refuse(path, "type: field required")
    return notes.folded(item, "config", path) or None


def _pass(
    name: str,
    item: Object,
    path: str,
    provider: str,
    before: list[Object],
    notes: Notes,
    searched: Searched,
) -> Object | None:
    kind = str(item.get("type", ""))
    known = _BY_NAME.get(kind.lower())
    if known is None:
        _note_other(kind, path, before, notes)
        return None
    label, spelling = known
    if label == "Rtn" and _rounds_the_rest(item, before):
        notes.refuse(path, HEAD_AND_EMBEDDINGS)
        return None
    several = {
        key: value
        for key, value in item.items()
        if is_searchable(value) and not notes.is_dropped(f"{path}.{key}", key)
    }
    values = {key: support(value, f"{path}.{key}", notes) for key, value in several.items()}
    item = {**item, **{key: tried[0] for key, tried in values.items() if tried}}
    item = {key: value for key, value in item.items() if values.get(key) != []}
    parameters = _parameters(label, spelling, item, path, notes)
    for key, tried in values.items():
        ways = [_parameters(label, spelling, {**item, key: value}, path, Notes()) for value in tried]
        if found := dimension(name, ways, f"{path}.{key}", notes):
            searched.dimensions.append(found)
    if label == "ModelBuilder" and provider != CPU:
        parameters = {**_built_for(provider, path, notes), **parameters}
    return {"name": name, "type": spelling.model.__name__, **parameters}


def _built_for(provider: str, path: str, notes: Notes) -> Object:
    if provider == CUDA:
        return {"execution_provider": "cuda"}
    notes.refuse(path, f"{provider}, which systems asks for, {NOT_BUILT_FOR}", drop="systems")
    return {}


def _rounds_the_rest(rtn: Object, before: list[Object]) -> bool:
    rounded = any(item["type"] in ROUNDING for item in before)
    return rounded and (rtn.get("lm_head") is True or rtn.get("embeds") is True)


def _note_other(kind: str, path: str, before: list[Object], notes: Notes) -> None:
    built = any(item["type"] == "ModelBuilder" for item in before)
    if others.comes_after_the_job(kind) and (built or kind.lower() == "capturesplitinfo"):
        notes.leave_for_later(path, kind)
    elif others.comes_after_the_job(kind):
        notes.refuse(path, f"{kind} changes a finished ONNX graph, and no ModelBuilder before it makes one")
    else:
        notes.refuse(path, _no_such_pass(kind))


def _no_such_pass(kind: str) -> str:
    near = did_you_mean(kind, SPELLINGS)
    if kind and others.why_not(kind) == others.UNKNOWN and near:
        return f"{kind} is not a pass{near}"
    return f"{kind} {others.why_not(kind)}" if kind else "type: field required"


def _parameters(label: str, spelling: Spelling, item: Object, path: str, notes: Notes) -> Object:
    """Our parameters of a pass."""
    given = {key: value for key, value in item.items() if key != "type" and value != DEFAULT}
    nested = given.pop("extra_options", None) if label == "ModelBuilder" else None
    given = {**given, **nested} if isinstance(nested, dict) else given
    fields = {**PASS, **spelling.fields}
    kept = notes.sifted(fields, given, f"{path}.", spelling.known, _unknown(label, spelling))
    kept = {spelling.renamed.get(key, key): value for key, value in {**spelling.defaults, **kept}.items()}
    return {**spelling.fixed, **spelling.finish(kept)}


def _unknown(label: str, spelling: Spelling) -> Callable[[str], str]:
    plain = not_a_field(label, spelling.known)

    def sentence(name: str) -> str:
        return foreign_parameter(name, spelling.model.__name__) if owners(name) else plain(name)

    return sentence
