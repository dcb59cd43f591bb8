"""A whole model in memory through the QuaRot pass, as the streaming loop would do it; and planted outliers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from quantizer.algorithms.hessian import GramMatrix
from quantizer.algorithms.quarot.parameters import FULL, QuarotParameters, needs_own_code
from quantizer.algorithms.quarot.rotation_layout import ModelLayout, llama_layout
from quantizer.algorithms.quarot.stages import QuarotPass, StageResult
from quantizer.formats.quarot.artifact import CODE_FILE, artifact_config, modeling_code
from quantizer.passes.quarot_layers import QuarotLayerPass
from quantizer.passes.rounding import pack_linear

STAGES = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


def run_layer(model: PreTrainedModel, index: int, hidden: Tensor) -> Tensor:
    """One decoder layer on hidden states [batch, tokens, width]; attention is causal."""
    places = torch.arange(hidden.shape[1]).unsqueeze(0)
    positions = model.model.rotary_emb(hidden, places)
    result: Tensor = model.model.layers[index](hidden, attention_mask=None, position_embeddings=positions)
    return result


def input_gram(model: PreTrainedModel, index: int, name: str, states: Sequence[Tensor]) -> Tensor:
    """H of a linear's input, from passes through its layer as it stands."""
    linear = model.model.layers[index].get_submodule(name)
    gram = GramMatrix(linear.in_features, torch.device("cpu"))
    hook = linear.register_forward_pre_hook(lambda _module, inputs: gram.add(inputs[0]))
    for hidden in states:
        run_layer(model, index, hidden)
    hook.remove()
    return gram.hessian()


def run_in_place(
    model: PreTrainedModel, parameters: QuarotParameters, batches: Sequence[Tensor] = ()
) -> tuple[QuarotPass, dict[str, Tensor], dict[str, StageResult]]:
    """Runs the pass; the model becomes the ordinary model that computes the same without online operations.

    Returns the pass, the tensors outside the rounded linears, and the linears by their names.
    """
    layout = llama_layout(model.config.to_dict())
    run = QuarotPass(parameters, layout)
    state = {name: tensor.float() for name, tensor in model.state_dict().items()}
    norm = state["model.norm.weight"]
    head = state["model.embed_tokens.weight"] if layout.tied else state["lm_head.weight"]
    if run.unties:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(head.clone())
    plain = {
        "model.embed_tokens.weight": run.table_rows(state["model.embed_tokens.weight"]),
        "model.norm.weight": run.final_norm(norm)[0],
    }
    if run.unties or not layout.tied:
        plain["lm_head.weight"] = run.head_rows(head, norm)
    model.load_state_dict(plain, strict=False)
    linears: dict[str, StageResult] = {}
    for index, layer in enumerate(model.model.layers):
        weights = run.rotate_layer(index, layer.state_dict())
        layer.load_state_dict(weights)
        prefix = f"model.layers.{index}."
        rounded = {f"{name}.weight" for stage in STAGES for name in stage}
        plain |= {prefix + name: tensor for name, tensor in weights.items() if name not in rounded}
    with torch.inference_mode():
        states = [model.model.embed_tokens(batch) for batch in batches] if parameters.w_gptq else []
        for index, layer in enumerate(model.model.layers):
            for names in STAGES:
                hessian = input_gram(model, index, names[0], states) if parameters.w_gptq else None
                for name, result in run.round_stage(names, layer.state_dict(), hessian).items():
                    layer.get_submodule(name).weight.copy_(result.propagated)
                    linears[f"model.layers.{index}.{name}"] = result
            states = [run_layer(model, index, hidden) for hidden in states]
    return run, plain, linears


def save_artifact(
    target: Path,
    model: PreTrainedModel,
    parameters: QuarotParameters,
    batches: Sequence[Tensor] = (),
    dtype: torch.dtype = torch.float32,
) -> ModelLayout:
    """Writes the artifact of a model (which is changed by it: see run_in_place)."""
    assert needs_own_code(parameters) or parameters.w_bits == FULL
    config: dict[str, Any] = model.config.to_dict()
    layout = QuarotLayerPass(parameters, dtype).format
    run, plain, linears = run_in_place(model, parameters, batches)
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in plain.items()}
    for name, result in linears.items():
        if result.quantized is None:
            assert result.stored is not None
            tensors[f"{name}.weight"] = result.stored.to(dtype).contiguous()
        else:
            tensors |= pack_linear(name, result.quantized, layout)
    target.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    written = artifact_config(config, parameters, run.sites, run.unties, dtype)
    (target / "config.json").write_text(json.dumps(written, indent=2))
    (target / CODE_FILE).write_text(modeling_code())
    return run.layout


def plant_outliers(model: PreTrainedModel, factor: float = 30.0) -> None:
    """A few channels of every norm, and of every MLP's inner activations, become `factor` times as large.

    The function stays: what reads a channel is divided by as much.
    """
    with torch.no_grad():
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for norm, readers in (
                (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
                (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
            ):
                norm.weight[3::29] *= factor
                for reader in readers:
                    reader.weight[:, 3::29] /= factor
            mlp.up_proj.weight[5::41] *= factor
            mlp.down_proj.weight[:, 5::41] /= factor
