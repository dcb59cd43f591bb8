"""The front matter of a model card: what model hubs read. Only what is known stands in it."""

import re
from collections.abc import Collection
from typing import Any
from urllib.parse import quote

import yaml

from quantization_api.manifest import MODEL_PREFIX, Licence, Manifest
from quantization_api.text import clean
from quantizer.boundary.yaml_file import MAX_FILE_BYTES, yaml_documents
from quantizer.passes.weight_pass import WeightPass
from quantizer.passes.written import schemes_of
from quantizer.report.sizes import quantizes_weights

FENCE = "---\n"
WORD = re.compile(r"[\w.+-][\w .+-]{,63}")
"""What a licence may be called; whatever else stands there is no name."""
PLAIN = "/:@+~=,%"
"""Characters of a URI, beside letters and digits, that stand as they are."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_CACHE = re.compile(r"/models--([\w.-]+?)--([\w.-]+)(?:/|$)")
"""Where a hub's client keeps a model: models--OWNER--NAME/snapshots/REVISION."""
NO_HUB_ID = (
    "# a hub takes ids of its own only: put them in the place of these paths before you upload the card\n"
)


TAKES_MORE = "ForConditionalGeneration"
"""In names of classes that take more than text; a hub finds out by itself what."""


def front_matter(manifest: Manifest, chosen: WeightPass[Any]) -> str:
    """The front matter with its fences."""
    path = manifest.input.model_path
    base, datasets = hub_id(path) or _uri(path), _datasets(manifest.workflow, chosen.data_config)
    fields = {
        **_licence(manifest.input.licence),
        "library_name": "transformers",
        **({} if TAKES_MORE in manifest.input.architecture else {"pipeline_tag": "text-generation"}),
        "base_model": base,
        "base_model_relation": "quantized",
        **({"datasets": datasets} if datasets else {}),
        "tags": _tags(manifest, chosen),
    }
    note = "" if all(HUB_ID.fullmatch(name) for name in (base, *datasets)) else NO_HUB_ID
    return f"{FENCE}{note}{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}{FENCE.rstrip()}"


def hub_id(path: str) -> str | None:
    """OWNER/NAME of a model that lies in a hub's cache; None elsewhere, where nothing but the place is known."""
    found = HUB_CACHE.search(path)
    return f"{found[1]}/{found[2]}" if found else None


def stated_licence(card: bytes, copied: Collection[str] = ()) -> Licence | None:
    """What the front matter of the input model's card says of its licence; None where it says nothing readable.

    copied: names of the input's files that the artifact has under model/; a link to another file of the input is left
    out, since it would lead nowhere.
    """
    fields = _fields(card)
    names = fields.get("license")
    known = [_word(name) for name in (names if isinstance(names, list) else [names])]
    found = [name for name in known if name]
    if not found:
        return None
    return Licence(
        names=found,
        custom_name=_word(fields.get("license_name")),
        link=_link(fields.get("license_link"), copied),
    )


def _link(value: object, copied: Collection[str]) -> str | None:
    if not isinstance(value, str):
        return None
    if value.startswith(("https://", "http://")):
        return _uri(value)
    return MODEL_PREFIX + _uri(value) if value in copied else None


def _fields(card: bytes) -> dict[str, Any]:
    text = card[:MAX_FILE_BYTES].decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
    head, fence, _ = text.removeprefix(FENCE).partition(f"\n{FENCE}")
    if not (text.startswith(FENCE) and fence):
        return {}
    try:
        found = next(yaml_documents(head.encode()), None)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and WORD.fullmatch(value) else None


def _uri(value: str) -> str:
    """A place as one word that no reader of the card takes for anything else."""
    return quote(clean(value), safe=PLAIN)


def _licence(found: Licence | None) -> dict[str, Any]:
    """In the hubs' spelling."""
    if found is None:
        return {}
    names = found.names[0] if len(found.names) == 1 else found.names
    fields = {"license": names, "license_name": found.custom_name, "license_link": found.link}
    return {name: value for name, value in fields.items() if value}


def _datasets(workflow: dict[str, Any], data_config: str | None) -> list[str]:
    """The text that the pass calibrated with, where the workflow names it."""
    return [
        _uri(config["load_dataset_config"]["data_name"])
        for config in workflow.get("data_configs", [])
        if config["name"] == data_config
    ]


def _tags(manifest: Manifest, chosen: WeightPass[Any]) -> list[str]:
    quantized = ["quantized"] if chosen.written.layout != "float" else []
    schemes = set(schemes_of(manifest.modules).values())
    widths = sorted({scheme.bits for scheme in schemes} or {chosen.written.bits})
    bits = [f"{width}-bit" for width in widths] if quantizes_weights(manifest) else []
    return [*map(str.lower, chosen.methods), *bits, *quantized]
