"""A model that takes images or sound: its decoder of text is quantized, and all else is carried through."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.causal_types import small_fields, small_model
from tests.support.choice import mostly_nightly
from tests.support.engine import awq_pass, files, make_pass, random_batches, run_layers
from tests.support.quantized_models import as_float, transformers_logits
from tests.support.quantizer_requests import Ended, Request, run_here
from tests.support.tokens import save_byte_tokenizer
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoModelForMultimodalLM
from transformers.quantizers.quantizers_utils import should_convert_module

from quantization_api.failures import Category
from quantization_api.pod import StorageAccess
from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout
from quantizer.run.finished_layers import FinishedLayers
from quantizer.run.inspection import inspect
from quantizer.store.directory import DirectoryStore
from quantizer.store.interface import OUTPUT

pytestmark = [pytest.mark.unit, pytest.mark.filterwarnings("ignore")]  # classes of transformers warn

PROCESSOR = {"preprocessor_config.json": '{"image_mean": [0.5]}\n', "chat_template.jinja": "{{ messages }}\n"}
CHANGED: dict[str, dict[str, Any]] = {"llama4": {"moe_layers": []}}
"""Llama 4 without experts, which transformers reads from one tensor only."""
GPTQ_8 = {"bits": 8, "group_size": 16}
AWQ = {"type": "AutoAWQQuantizer", "data_config": "calibration", "w_bit": 4, "q_group_size": 16}
COMPRESSED = {**GPTQ_8, "checkpoint_format": "compressed-tensors"}
ROTATED = {"type": "QuaRot", "input_model_dtype": "fp32"}


def saved(folder: Path, model_type: str) -> Path:
    """A tiny random model in float32 and two shards, with a tokenizer and processor files."""
    tokens = save_byte_tokenizer(folder)
    text = {**small_fields(model_type)["text_config"], "vocab_size": tokens, **CHANGED.get(model_type, {})}
    whole = small_model(model_type, auto=AutoModelForMultimodalLM, text_config=text)
    total = sum(parameter.nbytes for parameter in whole.parameters())
    whole.save_pretrained(folder, max_shard_size=total * 2 // 3)
    for name, content in PROCESSOR.items():
        (folder / name).write_text(content)
    return folder


def run(folder: Path, **request: Any) -> Ended:
    """A run of the model; the artifact is in `out` beside it."""
    uri = f"file://{folder.parent / 'out'}"
    return run_here(Request(uri, f"file://{folder}", **request), folder.parent / "scratch")


def tensors(folder: Path) -> dict[str, Tensor]:
    return {
        name: value
        for path in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def beside(folder: Path) -> tuple[str, ...]:
    return DecoderLayout.open(DirectorySource(folder)).check_tensors().beside


KINDS = [
    ("gemma3", GPTQ_8),
    ("qwen2_5_vl", GPTQ_8),
    ("mistral3", GPTQ_8),
    ("llama4", COMPRESSED),
    ("qwen2_audio", GPTQ_8),
]


@pytest.mark.parametrize(("model_type", "options"), mostly_nightly(KINDS, (KINDS[0], KINDS[3])))
def test_the_artifact_is_the_model_with_its_own_class_and_files(
    model_type: str, options: dict[str, Any], tmp_path: Path
) -> None:
    source = saved(tmp_path / "model", model_type)
    ended = run(source, pass_options=options)
    assert ended.code == 0, ended.log
    made = tmp_path / "out/model"
    config, before = (json.loads((one / "config.json").read_text()) for one in (made, source))
    assert {key: value for key, value in config.items() if key != "quantization_config"} == before
    for name, content in PROCESSOR.items():
        assert (made / name).read_text() == content
    ours, theirs = tensors(made), tensors(source)
    names = beside(source)
    assert names
    assert all(torch.equal(ours[name], theirs[name]) for name in names)
    as_float(made, tmp_path / "float")
    ids = torch.arange(3, 40)[None]
    expected = transformers_logits(source, ids, AutoModelForMultimodalLM)
    logits = transformers_logits(tmp_path / "float", ids, AutoModelForMultimodalLM)
    assert 0 < (logits - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize(
    "request_of", [{"layer_pass": AWQ}, {"pass_options": COMPRESSED}, {"pass_options": GPTQ_8}]
)
def test_the_config_names_what_is_not_quantized(request_of: dict[str, Any], tmp_path: Path) -> None:
    source = saved(tmp_path / "model", "llava")
    assert run(source, metrics=[], **request_of).code == 0
    said = json.loads((tmp_path / "out/model/config.json").read_text())["quantization_config"]
    whole = AutoModelForImageTextToText.from_pretrained(source)
    linears = [name for name, module in whole.named_modules() if isinstance(module, torch.nn.Linear)]
    layers = "model.language_model.layers."
    packed = {name for name in linears if name.startswith(layers)}
    assert packed != set(linears)
    assert {name for name in linears if converted(said, name)} - {"lm_head"} == packed


def converted(said: dict[str, Any], name: str) -> bool:
    """Whether a loader takes a linear for a quantized one, as loaders of each format decide it."""
    if said["quant_method"] == "awq":
        return should_convert_module(name, said["modules_to_not_convert"])
    if said["quant_method"] == "gptq":
        assert name.startswith(said["block_name_to_quantize"]) or not name.startswith("model.language_model.")
        return not any(re.match(one.removeprefix("-:"), name) for one in said["dynamic"] if one[0] == "-")
    return name not in said["ignore"]


def test_a_rotation_is_refused_since_images_enter_the_stream(tmp_path: Path) -> None:
    ended = run(saved(tmp_path / "model", "qwen3_vl"), layer_pass=ROTATED, metrics=[])
    assert ended.result.failure is not None
    assert ended.result.failure.category is Category.MODEL_UNSUPPORTED
    assert "model.visual, or what follows it, adds to the residual stream" in ended.result.failure.message


def test_log_manifest_and_inspect_say_what_was_measured(tmp_path: Path) -> None:
    source = saved(tmp_path / "model", "gemma3")
    ended = run(source, pass_options=GPTQ_8)
    said = json.loads((tmp_path / "out/manifest.json").read_text())["input"]["remarks"]
    assert said[0].startswith("Only the decoder of text was quantized, and it was calibrated on text.")
    assert "model.vision_tower and model.multi_modal_projector (" in said[0]
    assert said[0] in ended.log
    card = (tmp_path / "out/README.md").read_text()
    assert "Figures are of text alone" in card
    assert "pipeline_tag" not in card
    assert "- transformers (with optimum and gptqmodel): tried" in card
    assert 'model = AutoModelForMultimodalLM.from_pretrained("./model"' in card
    described = inspect(f"file://{source}", StorageAccess())
    assert [one["name"] for one in described["beside"]] == [
        "model.vision_tower",
        "model.multi_modal_projector",
    ]
    assert sum(one["sizeBytes"] for one in described["beside"]) > 0


def attempt(folder: Path, out: str, finished: FinishedLayers | None, stops: bool = False) -> QuantizeReport:
    def on_progress(_stage: str, done: int, _total: int) -> None:
        if stops and done == 1:
            raise KeyboardInterrupt

    layer_pass, source = make_pass(awq_pass(q_group_size=16)), DirectorySource(folder / "model")
    return run_layers(
        source,
        random_batches(vocabulary=61),
        layer_pass,
        folder / out,
        folder / "scratch",
        finished=finished,
        on_progress=on_progress,
    )


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    small_model("gemma3", auto=AutoModelForMultimodalLM).save_pretrained(tmp_path / "model")
    attempt(tmp_path, "whole", None)
    store, recipe = DirectoryStore(tmp_path / "store", OUTPUT), "sha256:" + "5" * 64
    with pytest.raises(KeyboardInterrupt), FinishedLayers(store, recipe, tmp_path) as finished:
        attempt(tmp_path, "stopped", finished, stops=True)
    with FinishedLayers(store, recipe, tmp_path) as finished:
        assert attempt(tmp_path, "out", finished).resumed_layers == 1
    assert files(tmp_path / "out") == files(tmp_path / "whole")
