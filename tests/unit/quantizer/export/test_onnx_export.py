"""ModelBuilder: what is refused before work begins, and what a result is compared with."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError
from tests.support.engine import edit_tensors
from tests.support.quantized_models import save_family, save_tokenizer
from tests.support.quantizer_requests import Request, published, run_here

from quantization_api.failures import Category, QuantizationError
from quantization_api.passes import ModelBuilder
from quantizer.export.builder import failure
from quantizer.export.graph import StoredLinear, stored_linears
from quantizer.export.logits import Agreement, require_agreement
from quantizer.export.model_builder import show_checkpoint
from quantizer.export.plan import BOUNDS, plan_build

pytestmark = pytest.mark.unit

CPU = ("CPUExecutionProvider",)
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "gptq"}
AWQ = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 64}

REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a float model": ({}, {}, "put one of them before it"),
    "another format": ({**GPTQ, "quant_method": "compressed-tensors"}, {}, "checkpoint_format: gptq"),
    "gptq_v2": ({**GPTQ, "checkpoint_format": "gptq_v2"}, {}, "write checkpoint_format: gptq"),
    "awq gemv": ({**AWQ, "version": "gemv"}, {}, "write version: gemm"),
    "3 bits": ({**GPTQ, "bits": 3}, {}, "2, 4 or 8 bits, the checkpoint has 3"),
    "int4 of 8 bits": ({**GPTQ, "bits": 8}, {}, "write precision: int8"),
    "int8 of 4 bits": (AWQ, {"precision": "int8"}, "write precision: int4"),
    "groups of 96": ({**GPTQ, "group_size": 96}, {}, "as group_size in the pass before"),
    "one group a row": ({**AWQ, "group_size": -1}, {}, "one group a row; write one of them as q_group_size"),
    "another block size": (GPTQ, {"int4_block_size": 32}, "leave int4_block_size out"),
    "no gpu": (GPTQ, {"execution_provider": "cuda"}, "write execution_provider: cpu"),
}


def step(**parameters: Any) -> ModelBuilder:
    return ModelBuilder.model_validate({"type": "ModelBuilder", **parameters})


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_go_wrong_is_refused_with_what_to_write(name: str) -> None:
    quantization, parameters, sentence = REFUSED[name]
    with pytest.raises(QuantizationError) as caught:
        plan_build({"quantization_config": quantization}, step(**parameters), CPU)
    assert caught.value.category is Category.INVALID_WORKFLOW
    assert sentence in caught.value.message


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"precision": "fp16"}, "write precision: int4"),
        ({"precision": "fp32"}, "int8 after 8 bits"),
        ({"execution_provider": "dml"}, "write cpu"),
        ({"int4_accuracy_level": 2}, "write 1 (fp32), or 4"),
        ({"int4_accuracy_level": 3}, "write 1 (fp32), or 4"),
        ({"execution_provider": "cuda", "int4_accuracy_level": 4}, "leave it out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_the_parameters_alone_get_wrong_the_contract_refuses(
    parameters: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        step(**parameters)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("quantization", "parameters", "bits", "level"),
    [
        (GPTQ, {}, 4, 1),
        (AWQ, {"int4_accuracy_level": 4}, 4, 4),
        (GPTQ, {"int4_block_size": 128, "int4_accuracy_level": 1}, 4, 1),
        ({**GPTQ, "bits": 8}, {"precision": "int8"}, 8, 1),
        ({**GPTQ, "bits": 2}, {}, 2, 1),
        ({k: v for k, v in GPTQ.items() if k != "checkpoint_format"}, {}, 4, 1),
    ],
)
def test_the_builder_keeps_the_tables_and_computes_in_fp32_unless_asked(
    quantization: dict[str, Any], parameters: dict[str, Any], bits: int, level: int
) -> None:
    plan = plan_build({"quantization_config": quantization}, step(**parameters), CPU)
    assert (plan.bits, plan.group_size) == (bits, quantization["group_size"])
    options = plan.options()
    assert options["accuracy_level"] == str(level)
    assert options["nodes_to_exclude"] == ["/lm_head/MatMul", "/model/embed_tokens/Gather"]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_linear_of_the_graph_comes_back_row_by_row(bits: int, tmp_path: Path) -> None:
    """N = 4 outputs, K = 48 inputs in G = 3 blocks: the zero points of a row do not fill its last byte."""
    rng, per_byte = np.random.default_rng(bits), 8 // bits
    integers = rng.integers(0, 2**bits, (4, 48), dtype=np.uint8)
    zeros = rng.integers(0, 2**bits, (4, 3), dtype=np.uint8)
    scales = rng.random((4, 3), dtype=np.float32)

    def packed(values: np.ndarray) -> np.ndarray:
        rows = [list(row) + [0] * (-len(row) % per_byte) for row in values]
        return np.array(
            [
                [
                    sum(int(r[i + j]) << (bits * j) for j in range(per_byte))
                    for i in range(0, len(r), per_byte)
                ]
                for r in rows
            ],
            dtype=np.uint8,
        )

    tensors = [
        numpy_helper.from_array(packed(integers).reshape(4, 3, 2 * bits), "w"),
        numpy_helper.from_array(scales.reshape(-1), "s"),
        numpy_helper.from_array(packed(zeros).reshape(-1), "z"),
    ]
    save_graph(tmp_path, ["x", "w", "s", "z"], tensors, bits)
    (stored,) = stored_linears(tmp_path)
    assert (stored.layer, stored.linear) == (2, "down_proj")
    one, two, three = stored.rows(1, 3)
    assert np.array_equal(one.numpy(), integers[1:3])
    assert np.array_equal(two.numpy(), scales[1:3])
    assert np.array_equal(three.numpy(), zeros[1:3])


def save_graph(folder: Path, inputs: list[str], tensors: list[TensorProto], bits: int) -> None:
    """model.onnx with one MatMulNBits."""
    node = helper.make_node(
        "MatMulNBits",
        inputs,
        ["y"],
        name="/model/layers.2/mlp/down_proj/MatMulNBits",
        domain="com.microsoft",
        bits=bits,
    )
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = helper.make_graph([node], "graph", values[:1], values[1:], tensors)
    onnx.save(helper.make_model(graph), folder / "model.onnx")


def test_a_group_index_in_the_graph_is_not_taken(tmp_path: Path) -> None:
    tensors = [numpy_helper.from_array(np.zeros(4, np.uint8), name) for name in ("w", "s", "z", "g")]
    save_graph(tmp_path, ["x", "w", "s", "z", "g"], tensors, 4)
    with pytest.raises(QuantizationError, match="scales and zero points"):
        list[StoredLinear](stored_linears(tmp_path))


@pytest.mark.parametrize(
    ("agreement", "level", "close"),
    [
        (Agreement(2048, 0.999, 5e-7, 0.03), 1, True),
        (Agreement(2048, 0.989, 5e-7, 0.03), 1, False),
        (Agreement(2048, 0.999, 2e-3, 0.03), 1, False),
        (Agreement(2048, 0.982, 8e-4, 1.7), 4, True),
        (Agreement(2048, 0.89, 0.055, 12.0), 4, False),
        (Agreement(2048, 0.999, float("nan"), 0.03), 1, False),
    ],
)
def test_a_result_beyond_the_bound_is_a_numerical_failure(
    agreement: Agreement, level: int, close: bool
) -> None:
    if close:
        require_agreement(agreement, BOUNDS[level])
        return
    with pytest.raises(QuantizationError) as caught:
        require_agreement(agreement, BOUNDS[level])
    assert caught.value.category is Category.NUMERICAL_FAILURE
    assert f"{agreement.top1_agreement:.2%}" in caught.value.message


@pytest.mark.parametrize(
    ("code", "words", "category"),
    [
        (-9, "Reading layer 3", Category.HOST_OUT_OF_MEMORY),
        (1, "MemoryError", Category.HOST_OUT_OF_MEMORY),
        (1, "OSError: [Errno 28] No space left on device", Category.SCRATCH_FULL),
        (1, "NotImplementedError: The x model is not currently supported.", Category.MODEL_UNSUPPORTED),
        (1, "AttributeError: no attribute 'weight'", Category.INTERNAL),
    ],
)
def test_the_builders_end_has_a_name(code: int, words: str, category: Category) -> None:
    assert failure(code, [words]).category is category


def test_the_builder_sees_no_act_order_and_the_checkpoint_stays_as_it_is(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    config = {"model_type": "llama", "quantization_config": {**GPTQ, "desc_act": True}}
    show_checkpoint(model, config, tmp_path / "shown")
    assert '"desc_act": false' in (tmp_path / "shown/config.json").read_text()
    assert (tmp_path / "shown/model.safetensors").read_bytes() == b"weights"
    assert (model / "config.json").read_text() == "{}"


AWQ_FOR_ONNX = {"type": "AutoAWQQuantizer", "q_group_size": 16, "pack_model_for_onnx_conversion": True}
ASKED: dict[str, dict[str, Any]] = {
    "a ModelBuilder pass": {"pass_options": {"group_size": 16}, "last": {"type": "ModelBuilder"}},
    "pack_model_for_onnx_conversion": {"layer_pass": {**AWQ_FOR_ONNX, "data_config": "calibration"}},
}


def rope(kind: str, **parameters: float) -> dict[str, Any]:
    """Fields of a config whose positions are stretched."""
    stretched = {"rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
    return {"rope_parameters": {"rope_type": kind, **stretched, **parameters}}


NO_GRAPH: dict[str, tuple[str, dict[str, Any], str]] = {
    **{name: (name, {}, f"none of {name} models; there is of llama, mistral") for name in
       ("bloom", "gpt2", "opt", "mixtral", "qwen3_moe", "gemma2")},
    "gemma3": ("gemma3", {}, "none of gemma3_text models"),
    "gpt_neox": ("gpt_neox, parallel", {}, "none of gpt_neox models"),
    "mistral with a window": ("mistral, short window", {}, "the sliding window of 5 tokens"),
    "qwen2 with a window": ("qwen2, window in the last layers", {}, "the sliding window of 5 tokens"),
    "phi3 with stretched positions": ("phi3", {"original_max_position_embeddings": 32}, "stretched positions"),
    "llama with linear positions": ("llama", rope("linear"), "rope_type is linear; of llama models there is one with"),
    "llama with yarn": ("llama", rope("yarn"), "its rope_type is yarn"),
    "qwen2 with dynamic positions": ("qwen2", rope("dynamic"), "one with default or linear"),
    "qwen3 with positions of llama3": (
        "qwen3", rope("llama3", low_freq_factor=1.0, high_freq_factor=4.0), "its rope_type is llama3"
    ),
}  # fmt: skip
A_GRAPH: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("llama", "qwen2", "qwen3")},
    "mistral": ("mistral, short window", {"sliding_window": None}),
    "mistral with a window of all positions": ("mistral, short window", {"sliding_window": 64}),
    "phi3": ("phi3", {"original_max_position_embeddings": 64}),
    "llama with positions of llama3": ("llama", rope("llama3", low_freq_factor=1.0, high_freq_factor=4.0)),
    "qwen2 with linear positions": ("qwen2", rope("linear")),
}


def ends_with(case: str, changes: dict[str, Any], asked: dict[str, Any], folder: Path) -> Any:
    """The failure of a run whose calibration text does not exist: what is found later than that was not checked."""
    save_family(case, folder / "model", **changes)
    save_tokenizer(folder / "model")
    request = Request(
        f"file://{folder / 'out'}",
        f"file://{folder / 'model'}",
        f"file://{folder / 'none.txt'}",
        **asked,
    )
    ended = run_here(request, folder / "scratch")
    assert ended.result.failure is not None, ended.log
    assert not published(folder / "out")
    return ended.result.failure


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", NO_GRAPH)
def test_a_model_that_no_graph_is_made_of_is_refused_before_anything_is_read(
    name: str, asked: str, tmp_path: Path
) -> None:
    case, changes, sentence = NO_GRAPH[name]
    failure = ends_with(case, changes, ASKED[asked], tmp_path)
    assert failure.category is Category.MODEL_UNSUPPORTED
    assert sentence in failure.message


def test_tensors_that_the_builder_stops_at_are_found_before_anything_is_read(tmp_path: Path) -> None:
    save_family("llama", tmp_path / "model")
    save_tokenizer(tmp_path / "model")
    edit_tensors(tmp_path / "model", lambda tensors: tensors.update({"v_head.weight": torch.ones(1, 2)}))
    folder, none = f"file://{tmp_path}", f"file://{tmp_path / 'none.txt'}"
    ended = run_here(
        Request(f"{folder}/out", f"{folder}/model", none, **ASKED["a ModelBuilder pass"]),
        tmp_path / "scratch",
    )
    assert ended.result.failure is not None
    assert "tensors that it does not use, the first is v_head.weight" in ended.result.failure.message


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", A_GRAPH)
def test_a_model_that_a_graph_is_made_of_is_not(name: str, asked: str, tmp_path: Path) -> None:
    assert ends_with(*A_GRAPH[name], ASKED[asked], tmp_path).category is Category.DATA_NOT_FOUND


@pytest.mark.parametrize(
    ("inside", "category", "words"),
    [
        ([["self_attn.q_proj"], ["mlp.down_proj"]], Category.INVALID_WORKFLOW, "lacks self_attn.k_proj"),
        ([[f"self_attn.{name}_proj" for name in "qkv"], ["self_attn.o_proj"], ["mlp.gate_proj", "mlp.up_proj"],
          ["mlp.down_proj"]], Category.DATA_NOT_FOUND, "none.txt"),
    ],
)  # fmt: skip
def test_linears_that_would_stay_in_float_are_refused_before_anything_is_read(
    inside: list[list[str]], category: Category, words: str, tmp_path: Path
) -> None:
    asked = {
        "pass_options": {"group_size": 16, "inside_layer_modules": inside},
        "last": {"type": "ModelBuilder"},
    }
    failure = ends_with("llama", {}, asked, tmp_path)
    assert failure.category is category
    assert words in failure.message
