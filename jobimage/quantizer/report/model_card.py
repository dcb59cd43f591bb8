"""README.md of an artifact: what it is, how good it is, who reads it, how to load it."""

from collections.abc import Sequence
from shlex import quote
from typing import TYPE_CHECKING, Any

import torch
import yaml

from quantization_api.manifest import REPORT_PREFIX, Manifest
from quantization_api.text import clean
from quantizer.checkpoint.data_types import from_word
from quantizer.decoder.beside import loading_class
from quantizer.evaluation.serving.software import PACKAGES
from quantizer.passes.making import recorded_pass
from quantizer.passes.weight_pass import WeightPass
from quantizer.passes.written import Written
from quantizer.report.experts import in_words
from quantizer.report.few_tokens import few_tokens
from quantizer.report.front_matter import front_matter, hub_id
from quantizer.report.markdown import block, code, plain
from quantizer.report.quality import measured_with, quality
from quantizer.report.readers import claims, knows, refusal, written_by
from quantizer.report.sizes import bits, nominal_bits, own_head, quantizes_weights, rounds_head, sizes

if TYPE_CHECKING:  # it brings matplotlib, which few commands need
    from quantizer.report.svg import Picture

DEVICE_MAP = ("accelerate",)
"""What device_map needs; optimum and gptqmodel bring it."""


def model_card(manifest: Manifest, uri: str, pictures: "Sequence[Picture]" = ()) -> str:
    """The card as Markdown, with the front matter that model hubs read.

    Args:
        manifest: of the artifact; its list of objects is not used (the card is one of them).
        uri: where the artifact will lie.
        pictures: that lie in its report/ as PNG.
    """
    chosen = recorded_pass(manifest.workflow["passes"])
    written = written_by(chosen, manifest.input.model_type or "", linears=manifest.modules)
    sections = [
        front_matter(manifest, chosen),
        f"# {plain(title(manifest))}",
        f"{plain(manifest.input.architecture)}, made from {code(manifest.input.model_path)} "
        f"(revision {code(manifest.input.revision)}). Recipe {code(manifest.recipe)}.",
        _remarks(manifest),
        _quality(manifest, chosen),
        _pictures(pictures),
        _calibration(manifest),
        _sizes(manifest),
        _recipe(manifest),
        _readers(manifest, written),
        _loading(manifest, uri, written),
        _onnx(manifest, uri),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def title(manifest: Manifest) -> str:
    """The input model's name, the method, and the bits that weights are stored in."""
    chosen = recorded_pass(manifest.workflow["passes"])
    path = manifest.input.model_path
    name = (hub_id(path) or path).rstrip("/").rpartition("/")[2]
    bits = f" {nominal_bits(manifest, chosen.written)} bits" if quantizes_weights(manifest) else ""
    return f"{name}, {' and '.join(chosen.methods)}{bits}"


def _remarks(manifest: Manifest) -> str:
    return "\n".join(f"- {plain(sentence)}" for sentence in manifest.input.remarks)


def _quality(manifest: Manifest, chosen: WeightPass[Any]) -> str:
    rows = quality(manifest)
    if not rows:
        return ""
    table = {
        "metric": [plain(row.name) for row in rows],
        "goal": [row.goal for row in rows],
        "input model": [row.before for row in rows],
        "this model": [row.after for row in rows],
        "change": [row.change for row in rows],
        "RTN": [row.rtn for row in rows],
    }
    columns = {head: cells for head, cells in table.items() if any(cells)}
    rule = ["---" if head in ("metric", "goal") else "---:" for head in columns]
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, rule, *zip(*columns.values(), strict=True))]
    told = f"\n\nRTN: rounding to nearest {chosen.rtn_in_words}." if any(row.rtn for row in rows) else ""
    served = measured_with(manifest)
    return "## Quality\n\n" + "\n".join(lines) + told + (f"\n\n{plain(served)}" if served else "")


def _pictures(pictures: "Sequence[Picture]") -> str:
    """The title below each is for whoever sees it, the words in its place for whoever does not."""
    return "\n\n".join(
        f"![{plain(one.told)}]({REPORT_PREFIX}{one.name}.png)\n\n{plain(one.title)}." for one in pictures
    )


def _calibration(manifest: Manifest) -> str:
    told = [*filter(None, (few_tokens(manifest.modules), in_words(manifest.modules)))]
    return "\n\n".join(["## Calibration", *told]) if told else ""


def _sizes(manifest: Manifest) -> str:
    head = own_head(manifest)
    told = f"{sizes(manifest)}; {bits(manifest)}." + (f" {head}" if head else "")
    return f"## Size\n\n{told}" + _data_type(manifest)


def _data_type(manifest: Manifest) -> str:
    """What is not quantized, and whether its type holds what the model computes; "" where that is not recorded."""
    if manifest.dtype is None:
        return ""
    kept = manifest.input.dtype in (None, manifest.dtype)
    others = "Embeddings and norms" if rounds_head(manifest) else "Embeddings, norms and head"
    sentence = f" {others} {'stay' if kept else 'are stored'} in {manifest.dtype}"
    sentence += "." if kept else f"; the input model's are in {manifest.input.dtype}."
    if manifest.largest_activation and (dtype := from_word(manifest.dtype)):
        limit = torch.finfo(dtype).max
        holds = f"{limit:,.0f}" if limit < 1e6 else f"{limit:.1e}"
        sentence += (
            f" Activations between decoder layers reached {manifest.largest_activation:,.4g} in calibration; "
            f"{manifest.dtype} holds up to {holds}."
        )
    return sentence


def _recipe(manifest: Manifest) -> str:
    workflow = yaml.safe_dump({"workflow": manifest.workflow}, sort_keys=False)
    versions = ", ".join(f"{name} {value}" for name, value in manifest.versions.items())
    return f"## Recipe\n\n{block(workflow, 'yaml')}\n\nMade with {versions}."


def _readers(manifest: Manifest, written: Written) -> str:
    rests_on = claims(written)
    lines = [
        f"- {reader}: {rests_on[reader]}" if reader in rests_on else f"- {reader}"
        for reader in manifest.readers
    ]
    if not lines:
        lines = [f"No software was seen to read {written.model_type} models in this format."]
    refused = refusal(written)
    parallel = [refused] if refused else []
    if manifest.tensor_parallel and manifest.readers:
        counts = ", ".join(map(str, manifest.tensor_parallel))
        parallel.append(f"Degrees of tensor parallelism that its shapes and groups allow: {counts}")
    return "## Read by\n\n" + "\n".join(lines) + "".join(f"\n\n{sentence}." for sentence in parallel)


def _loading(manifest: Manifest, uri: str, written: Written) -> str:
    if uri.startswith("s3://"):
        fetch = f"aws s3 cp --recursive {quote(f'{clean(uri)}/model')} ./model"
    else:
        fetch = f"cp -r {quote(clean(uri).removeprefix('file://') + '/model')} ./model"
    if not any(reader.startswith("transformers") for reader in manifest.readers):
        kind = f"{written.model_type} models in this format"
        said = (
            f"transformers does not load {kind}, though it may not say so; what does is listed above."
            if knows(written.model_type)
            else f"Whether transformers loads {kind} was not tried."
        )
        return f"## Use\n\n{block(fetch + chr(10), 'sh')}\n\n{said}"
    found = manifest.input
    loader = loading_class(found.model_type or "", found.architecture)
    names, options, tokenizer = f"{loader}, AutoTokenizer", "", ""
    if written.layout == "quarot":
        options = tokenizer = ", trust_remote_code=True"  # the tokenizer's class is found by the config
    elif (
        written.layout == "compressed-tensors" and not written.symmetric
    ):  # its default load wants other zeros
        names += ", CompressedTensorsConfig"
        options = ", quantization_config=CompressedTensorsConfig(dequantize=True)"
    packages = " ".join(PACKAGES[written.layout.partition(" ")[0]] or DEVICE_MAP)
    commands = f"{fetch}\npip install transformers {packages}\n"
    return f"""## Use

{block(commands, "sh")}

```python
import torch
from transformers import {names}

device = "auto" if torch.cuda.is_available() else "cpu"
tokenizer = AutoTokenizer.from_pretrained("./model"{tokenizer})
model = {loader}.from_pretrained("./model", device_map=device{options})
inputs = tokenizer("Once upon a time", return_tensors="pt").to(model.device)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=50)[0], skip_special_tokens=True))
```"""


def _onnx(manifest: Manifest, uri: str) -> str:
    if manifest.export is None:
        return ""
    found = manifest.export
    return (
        "## ONNX\n\n"
        f"{code(f'{uri}/onnx')} holds the same weights as a graph for onnxruntime-genai ({found.precision}, "
        f"{found.execution_provider}, {found.size_bytes / 1e6:,.1f} MB). Over {found.tokens} tokens its most likely "
        f"next token is that of this model for {found.top1_agreement:.2%}, and KL to it is {found.kl_divergence:.1e}."
    )
