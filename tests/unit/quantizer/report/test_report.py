"""Model card, report page, readers, and what `inspect` says of group sizes."""

import re
import shlex
from typing import Any

import pytest
import yaml

from quantization_api.failures import QuantizationError
from quantization_api.manifest import InputRecord, LinearReport, Manifest
from quantization_api.passes import GptqQuantizer, ModelBuilder
from quantization_api.status import MetricResult
from quantizer.export.plan import plan_build
from quantizer.passes.gptq import Gptq
from quantizer.passes.making import weight_pass
from quantizer.passes.written import Written
from quantizer.report.document import report_files
from quantizer.report.few_tokens import few_tokens
from quantizer.report.gallery import pictures
from quantizer.report.model_card import model_card
from quantizer.report.quality import format_value
from quantizer.report.readers import not_read_by, readers, written_by
from quantizer.run.inspection import group_sizes

pytestmark = pytest.mark.unit


METRICS: list[dict[str, Any]] = [
    {
        "name": "ppl",
        "type": "perplexity",
        "data_config": "held_out",
        "goal": {"type": "percent-max-degradation", "value": 10},
    },
    {"name": "size", "type": "size_on_disk"},
]


def a_text(name: str) -> dict[str, Any]:
    """A data config."""
    place = {"data_name": f"s3://datasets/{name}.txt"}
    return {"name": name, "type": "HuggingfaceContainer", "load_dataset_config": place}


def a_manifest(model_type: str = "llama", **options: Any) -> Manifest:
    parameters = {"type": "GptqQuantizer", "data_config": "train", **options}
    return Manifest(
        recipe="sha256:" + 64 * "a",
        engine_version="0.1.0",
        created="2026-01-01T00:00:00Z",
        input=InputRecord(
            model_path="s3://models/<llama>",
            revision="sha256:" + 64 * "b",
            architecture="LlamaForCausalLM",
            model_type=model_type,
            size_bytes=40_000_000,
        ),
        workflow={
            "input_model": {"type": "HfModel", "model_path": "s3://models/<llama>"},
            "data_configs": [a_text("train"), a_text("held_out")],
            "passes": [parameters],
            "evaluators": [{"name": "quality", "metrics": METRICS}],
            "evaluator": "quality",
        },
        passes=["GptqQuantizer"],
        checkpoint_format="gptq",
        bits_per_weight=4.625,
        compression_ratio=3.2,
        readers=readers(written_by(Gptq(GptqQuantizer.model_validate(parameters)), model_type)),
        metrics=[
            MetricResult(name="ppl", input=6.75, output=7.16),
            MetricResult(name="size", input=40_000_000, output=12_500_000),
            MetricResult(name="rtn_ppl", input=6.75, output=7.41),
        ],
        modules=[
            LinearReport(
                name=f"model.layers.{layer}.self_attn.q_proj",
                shape=(288, 288),
                error=0.004,
                error_rtn=0.008,
                damping=0.01,
            )
            for layer in range(3)
        ],
        versions={"quantizer": "0.1.0", "torch": "2"},
        objects=[],
    )


def test_the_card_says_what_it_is_how_good_and_how_to_load_it() -> None:
    card = model_card(a_manifest(), "s3://artifacts/llama-gptq")
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers"
    assert "4-bit" in front["tags"]
    for words in (
        "| ppl | at most 10 % worse | 6.750 | 7.160 | +6.1 % | 7.410 |",
        "| size |  | 40.0 MB | 12.5 MB | -68.8 % |  |",
        "RTN: rounding to nearest on the same grid.",
        "40.0 MB before, 12.5 MB after (3.20 times smaller)",
        "4.625 bits",
        "sha256:" + 64 * "a",
        "aws s3 cp --recursive s3://artifacts/llama-gptq/model ./model",
        "from_pretrained",
        "vLLM and SGLang refuse this artifact; they need sym: true",
        "- transformers (with optimum and gptqmodel): tried",
    ):
        assert words in card


@pytest.mark.parametrize(("sym", "needed"), [(False, True), (True, False)])
def test_the_card_loads_compressed_tensors_with_zero_points_the_way_that_works(
    sym: bool, needed: bool
) -> None:
    card = model_card(a_manifest(checkpoint_format="compressed-tensors", sym=sym), "file:///a")
    assert ("quantization_config=CompressedTensorsConfig(dequantize=True)" in card) is needed
    assert ("import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig" in card) is needed


@pytest.mark.parametrize(
    ("architecture", "loader"),
    [
        ("LlavaForConditionalGeneration", "AutoModelForMultimodalLM"),
        ("LlavaForCausalLM", "AutoModelForCausalLM"),
    ],
)
def test_the_card_loads_a_model_with_the_class_that_its_input_loads_with(
    architecture: str, loader: str
) -> None:
    made = a_manifest("llava", sym=True)
    card = model_card(
        made.model_copy(update={"input": made.input.model_copy(update={"architecture": architecture})}),
        "file:///a",
    )
    assert f"from transformers import {loader}, AutoTokenizer" in card
    assert f'model = {loader}.from_pretrained("./model"' in card


def test_the_card_shows_no_way_to_load_it_that_does_not_work() -> None:
    by_another = model_card(a_manifest("gpt2", sym=True), "file:///a")
    assert "- gptqmodel" in by_another
    assert "transformers does not load gpt2 models in this format" in by_another
    assert "from_pretrained" not in by_another
    assert "cp -r /a/model ./model" in by_another
    assert "No software was seen to read mixtral models" in model_card(a_manifest("mixtral"), "file:///a")


def test_the_recipe_of_the_card_is_the_workflow_itself() -> None:
    manifest = a_manifest(sym=True)
    block = model_card(manifest, "file:///a").split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(block) == {"workflow": manifest.workflow}


def report_of(manifest: Manifest, seconds: dict[str, float]) -> dict[str, bytes]:
    """The files of the report of a run that took these times."""
    timed = manifest.model_copy(update={"seconds": seconds})
    return report_files(timed, pictures(timed))


def test_the_report_is_one_page_that_needs_nothing_else() -> None:
    files = report_of(a_manifest(), {"quantize": 12.5, "quantize: solve": 3.0, "evaluate": 4.0})
    assert set(files) == {"report.html", "error-by-layer.svg", "error-by-layer.png", "time-by-stage.svg"}
    page = files["report.html"].decode()
    assert page.count("<svg") == 2
    assert "s3://models/&lt;llama&gt;" in page, "what comes from a manifest is escaped"
    assert (
        '<th scope="row">model.layers.2.self_attn.q_proj</th><td>288 × 288</td><td>4.000e-03</td><td>8.000e-03</td>'
        in page
    )
    assert not re.search(r"<script|<link|<img|<iframe|@import|src=|url\((?!#)", page)


def with_tokens(*tokens: int | None) -> Manifest:
    """A manifest whose linears, of 288 inputs, read so many tokens."""
    module = a_manifest().modules[0]
    modules = [
        module.model_copy(update={"name": f"layers.0.experts.{number}.w1", "tokens": count})
        for number, count in enumerate(tokens)
    ]
    return a_manifest().model_copy(update={"modules": modules})


def test_linears_with_few_tokens_are_counted_and_the_neediest_named() -> None:
    manifest = with_tokens(575, 576, 5, None, 90, 4000, 17)
    told = few_tokens(manifest.modules)
    assert told is not None
    assert told.startswith(
        "4 of 7 linears read fewer than 2 calibration tokens for each of their inputs: "
        "layers.0.experts.2.w1 (5 for 288), "
        "layers.0.experts.6.w1 (17 for 288), layers.0.experts.4.w1 (90 for 288) and 1 more."
    )
    assert "Raise max_samples" in told
    assert "experts.few_tokens (rtn or all) is another way" in told
    assert f"## Calibration\n\n{told}\n" in model_card(manifest, "file:///a")
    page = report_of(manifest, {"quantize": 1.0})["report.html"].decode()
    assert "<td>0.01</td><td>4,000</td></tr>" in page
    assert "<td>0.01</td><td>-</td></tr>" in page


def test_nothing_is_told_of_linears_that_read_enough_or_nobody_knows_how_much() -> None:
    assert few_tokens(with_tokens(576, 4000, None).modules) is None
    assert few_tokens([]) is None


def changed(manifest: Manifest, number: int, **values: Any) -> Manifest:
    """The manifest with another report of one linear."""
    modules = list(manifest.modules)
    modules[number] = modules[number].model_copy(update=values)
    return manifest.model_copy(update={"modules": modules})


def test_experts_that_were_rounded_to_nearest_are_told_apart_from_those_that_were_fitted() -> None:
    manifest = changed(with_tokens(7, 90, 4000), 0, nearest=True)
    told = few_tokens(manifest.modules)
    assert told is not None
    assert "1 of 3 linears read fewer than 2 calibration tokens" in told
    assert told.endswith("were rounded to nearest: layers.0.experts.0.w1 (7 for 288).")
    alone = few_tokens(changed(with_tokens(7, 4000), 0, nearest=True).modules)
    assert alone is not None
    assert "Raise max_samples" not in alone


def test_report_and_card_count_the_tokens_of_each_expert() -> None:
    manifest = changed(with_tokens(600, 1000, 5), 2, nearest=True)
    page = report_of(manifest, {"quantize": 1.0})["report.html"].decode()
    assert "<td>3</td><td>5</td><td>600</td><td>1,000</td><td>1</td></tr>" in page
    assert "<td>600, 1,000, 5</td></tr>" in page
    said = "The router of one layer sent each of its experts 5 to 1,000 calibration tokens (median 600)."
    assert said in model_card(manifest, "file:///a")
    assert said in page


def test_where_every_expert_read_every_token_the_routers_counts_are_told() -> None:
    manifest = changed(changed(with_tokens(4000, 4000), 0, routed=3), 1, routed=3997)
    card = model_card(manifest, "file:///a")
    assert "3 to 3,997 calibration tokens" in card
    assert "every expert read every token" in card


def test_a_model_without_experts_has_no_table_of_them() -> None:
    assert "Experts" not in report_of(a_manifest(), {"quantize": 1.0})["report.html"].decode()


def test_the_same_run_draws_the_same_pictures() -> None:
    one, other = (report_of(a_manifest(), {"quantize": 1.0}) for _ in range(2))
    assert one == other


@pytest.mark.parametrize(
    ("options", "vllm", "needs"),
    [
        ({"sym": True}, True, None),
        ({"sym": True, "bits": 8, "group_size": -1}, True, None),
        ({}, False, "sym: true"),
        ({"sym": True, "bits": 3}, False, "bits: 4 or 8"),
        ({"sym": True, "group_size": 16}, False, "group_size"),
    ],
    ids=str,
)
def test_readers_are_those_that_take_the_parameters(
    options: dict[str, Any], vllm: bool, needs: str | None
) -> None:
    parameters = GptqQuantizer.model_validate({"type": "GptqQuantizer", "data_config": "d", **options})
    assert ("vLLM" in readers(written_by(weight_pass(parameters), "llama"))) is vllm
    sentence = not_read_by(weight_pass(parameters), "llama")
    assert (sentence is None) is vllm
    if needs:
        assert needs in str(sentence)


@pytest.mark.parametrize(
    ("inputs", "sizes"),
    [([288, 768], [-1, 16, 32]), ([4096, 14336], [-1, 16, 32, 64, 128, 256, 512, 1024, 2048]), ([10], [-1])],
)
def test_group_sizes_divide_every_linear(inputs: list[int], sizes: list[int]) -> None:
    assert group_sizes(inputs) == sizes


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (0.07357, "0.07357"), (7.1619, "7.162"), (30383424.0, "30,383,424")],
)
def test_figures_are_readable(value: float | None, text: str) -> None:
    assert format_value(value) == text


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [-1, 16, 32, 128, 512])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_the_model_builder_is_listed_exactly_where_its_own_step_would_take_the_checkpoint(
    method: str, symmetric: bool, group_size: int, bits: int
) -> None:
    layout = "awq gemm" if method == "awq" else "gptq"
    said = "onnxruntime-genai model builder" in readers(Written(layout, bits, group_size, symmetric))
    config = {"quantization_config": {"quant_method": method, "bits": bits, "group_size": group_size}}
    step = ModelBuilder(type="ModelBuilder", precision="int8" if bits == 8 else "int4")
    try:
        plan_build(config, step, ("CPUExecutionProvider",))
        taken = True
    except QuantizationError:
        taken = False
    assert said is taken


def test_the_model_builder_is_not_listed_for_a_group_index() -> None:
    """It hands one to a kernel that computes nonsense with zero points (see export.plan)."""
    assert "onnxruntime-genai model builder" not in readers(Written("gptq", 4, 32, False, desc_act=True))


HOSTILE = "a`b|c<script>alert(1)</script>\n# head\n```\n[x](javascript:y) $(id); `id` \x1b[31m'\u202e"


def test_what_comes_from_inputs_is_shown_in_the_card_and_does_nothing_else() -> None:
    manifest = a_manifest()
    source = manifest.input.model_copy(update={"architecture": HOSTILE, "model_path": f"s3://m/{HOSTILE}"})
    workflow = {**manifest.workflow, "input_model": {"model_path": "s3://m/\n```\n# head"}}
    metrics = [MetricResult.model_construct(name=HOSTILE, input=1.0, output=1.0)]
    changes = {"input": source, "workflow": workflow, "metrics": metrics}
    card = model_card(manifest.model_copy(update=changes), f"s3://b/{HOSTILE}")
    assert not [line for line in card.splitlines() if line.startswith("# head")]
    assert "\x1b" not in card
    assert "\u202e" not in card
    meant = re.sub(r"\\[^A-Za-z0-9\n]", "", card)  # without what is escaped, then without code
    outside_code = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", meant, flags=re.DOTALL)
    assert "<script>" not in outside_code
    assert "[x" not in outside_code
    command = next(line for line in card.splitlines() if line.startswith("aws s3 cp"))
    assert len(shlex.split(command)) == 6, "the URI is one word of the command"


def test_what_comes_from_inputs_is_shown_in_the_report_and_does_nothing_else() -> None:
    manifest = a_manifest()
    source = manifest.input.model_copy(update={"architecture": HOSTILE, "model_path": HOSTILE})
    modules = [manifest.modules[0].model_copy(update={"name": HOSTILE})]
    changed = manifest.model_copy(update={"input": source, "modules": modules})
    page = report_of(changed, {"quantize": 1.0})["report.html"].decode()
    assert "<script" not in page
    assert "\x1b" not in page
