"""Other architectures from the example model: its weights in another decoder, then trained to answer as it does.

Two decoders that differ from a Llama where quantization may care: Qwen3 (norms of queries and keys, an untied head;
256 wide, so that groups of 64 and 128 fit) and Gemma3 (norms on both sides of each block, GeGLU,
sliding windows). A few hundred thousand tokens do not train a model from nothing; they do repair one that begins near.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch.nn.functional import kl_div, log_softmax
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

Weights = dict[str, torch.Tensor]
LINEARS_OF_STREAM = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
)
LINEARS_TO_STREAM = ("self_attn.o_proj", "mlp.down_proj")
NORM_OF = {"self_attn": "input_layernorm", "mlp": "post_attention_layernorm"}
WIDTH, HEADS = 256, 8
"""Of the Qwen3."""
FIRST = 0.6
"""Share of a doubled head's output that its first copy has: with halves both would be trained alike for ever."""
GELU_SLOPE = 1.702
"""gelu(x) is close to silu(1.702 x) / 1.702."""
SEQUENCES, RATE = 4, 5e-4


def to_qwen3(teacher: PreTrainedModel, text: torch.Tensor) -> PreTrainedModel:
    """The teacher as a Qwen3: norms folded into the linears, the stream cut to its 256 largest directions."""
    old, weights = teacher.config, teacher.state_dict()
    config = Qwen3Config(
        vocab_size=old.vocab_size,
        hidden_size=WIDTH,
        intermediate_size=old.intermediate_size,
        num_hidden_layers=old.num_hidden_layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=old.head_dim,
        **_common(old),
        tie_word_embeddings=False,
    )
    basis = _directions(teacher, text)[:, :WIDTH]
    sizes = _rms_of_heads(teacher, text)
    stretch = math.sqrt(old.hidden_size / WIDTH)  # of what a norm makes: its root mean square stays 1
    made: Weights = {
        "model.embed_tokens.weight": weights["model.embed_tokens.weight"] @ basis,
        "lm_head.weight": weights["lm_head.weight"] * weights["model.norm.weight"] @ basis,
        "model.norm.weight": torch.full((WIDTH,), stretch),
    }
    for layer in range(old.num_hidden_layers):
        name = f"model.layers.{layer}."
        for linear in LINEARS_OF_STREAM:
            norm = weights[f"{name}{NORM_OF[linear.partition('.')[0]]}.weight"]
            made[f"{name}{linear}.weight"] = weights[f"{name}{linear}.weight"] * norm @ basis
        for linear in LINEARS_TO_STREAM:
            made[f"{name}{linear}.weight"] = basis.T @ weights[f"{name}{linear}.weight"]
        _more_heads(made, f"{name}self_attn.", old.head_dim)
        for norm in NORM_OF.values():
            made[f"{name}{norm}.weight"] = torch.full((WIDTH,), stretch)
        for part in ("q", "k"):
            made[f"{name}self_attn.{part}_norm.weight"] = torch.full(
                (old.head_dim,), sizes[f"{layer}.{part}"]
            )
    return _loaded(Qwen3ForCausalLM(config), made)


def to_gemma3(teacher: PreTrainedModel, text: torch.Tensor) -> PreTrainedModel:
    """The teacher as a Gemma3: its own norms, and behind each block one that begins with the size of what it writes."""
    old, weights = teacher.config, teacher.state_dict()
    common = _common(old)
    rope = common.pop("rope_parameters")
    config = Gemma3TextConfig(
        vocab_size=old.vocab_size,
        hidden_size=old.hidden_size,
        intermediate_size=old.intermediate_size,
        num_hidden_layers=old.num_hidden_layers,
        num_attention_heads=old.num_attention_heads,
        num_key_value_heads=old.num_key_value_heads,
        head_dim=old.head_dim,
        query_pre_attn_scalar=old.head_dim,
        sliding_window=128,
        rope_parameters={"full_attention": rope, "sliding_attention": rope},
        **common,
        tie_word_embeddings=True,
    )
    blocks, sizes = _rms_of_blocks(teacher, text), _rms_of_heads(teacher, text)
    scale = math.sqrt(old.hidden_size)  # Gemma multiplies the embedding by it
    made: Weights = {
        "model.embed_tokens.weight": weights["model.embed_tokens.weight"] / scale,
        "model.norm.weight": weights["model.norm.weight"] * scale - 1,
    }
    made["lm_head.weight"] = made["model.embed_tokens.weight"]
    for layer in range(old.num_hidden_layers):
        name = f"model.layers.{layer}."
        for linear in (*LINEARS_OF_STREAM, *LINEARS_TO_STREAM):
            made[f"{name}{linear}.weight"] = weights[f"{name}{linear}.weight"].clone()
        made[f"{name}mlp.gate_proj.weight"] /= GELU_SLOPE
        made[f"{name}mlp.up_proj.weight"] *= GELU_SLOPE
        for part in ("q", "k"):
            made[f"{name}self_attn.{part}_norm.weight"] = torch.full(
                (old.head_dim,), sizes[f"{layer}.{part}"] - 1
            )
        made[f"{name}input_layernorm.weight"] = weights[f"{name}input_layernorm.weight"] - 1
        made[f"{name}pre_feedforward_layernorm.weight"] = (
            weights[f"{name}post_attention_layernorm.weight"] - 1
        )
        for norm, block in (("post_attention_layernorm", "self_attn"), ("post_feedforward_layernorm", "mlp")):
            made[f"{name}{norm}.weight"] = torch.full((old.hidden_size,), blocks[f"{layer}.{block}"] - 1)
    return _loaded(Gemma3ForCausalLM(config), made)


def train(student: PreTrainedModel, teacher: PreTrainedModel, text: torch.Tensor, steps: int) -> None:
    """Trains a model towards the teacher's distribution of the next token, on sequences (number, tokens) in order.

    Embedding and head stay: so few tokens would spoil the rows of all words that they do not have.
    """
    student.get_input_embeddings().requires_grad_(False)
    student.get_output_embeddings().requires_grad_(False)
    trained = [each for each in student.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    student.train()
    for step in range(steps):
        rows = torch.arange(step * SEQUENCES, (step + 1) * SEQUENCES) % len(text)
        with torch.no_grad():
            wanted = log_softmax(teacher(input_ids=text[rows]).logits, dim=-1).flatten(0, 1)
        found = log_softmax(student(input_ids=text[rows]).logits, dim=-1).flatten(0, 1)
        loss = kl_div(found, wanted, reduction="batchmean", log_target=True)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        if step % 10 == 9:
            print(
                f"  step {step + 1} of {steps}: {loss.item():.3f} nats a token from its teacher", flush=True
            )
    student.eval()


def _common(old: object) -> dict[str, object]:
    names = ("max_position_embeddings", "rms_norm_eps", "bos_token_id", "eos_token_id", "rope_parameters")
    return {name: getattr(old, name) for name in names}


def _loaded(model: PreTrainedModel, weights: Weights) -> PreTrainedModel:
    model.load_state_dict(weights)
    return model.float()


def _more_heads(weights: Weights, attention: str, head_dim: int) -> None:
    """Heads of which the first ones are there twice and share their output, so that nothing else is computed."""
    heads = len(weights[f"{attention}q_proj.weight"]) // head_dim
    more = HEADS - heads
    for part in ("q", "k", "v"):
        rows = weights[f"{attention}{part}_proj.weight"]
        weights[f"{attention}{part}_proj.weight"] = torch.cat([rows, rows[: more * head_dim]])
    outputs = weights[f"{attention}o_proj.weight"]
    shared = outputs[:, : more * head_dim]
    alone = outputs[:, more * head_dim :]
    weights[f"{attention}o_proj.weight"] = torch.cat([FIRST * shared, alone, (1 - FIRST) * shared], 1)


def _directions(teacher: PreTrainedModel, text: torch.Tensor) -> torch.Tensor:
    """The principal directions of the residual stream, the largest first: (width, width), orthogonal."""
    with torch.no_grad():
        states = teacher(input_ids=text[:16], output_hidden_states=True).hidden_states[:-1]
    rows = torch.cat(
        [state.flatten(0, 1) / state.flatten(0, 1).norm(dim=-1, keepdim=True) for state in states]
    )
    return torch.linalg.eigh((rows.T @ rows).double()).eigenvectors.flip(1).float()


def _rms_of_heads(teacher: PreTrainedModel, text: torch.Tensor) -> Mapping[str, float]:
    """Root mean square of queries and keys, by LAYER.q and LAYER.k."""
    return _rms(
        teacher, text, {"q": lambda layer: layer.self_attn.q_proj, "k": lambda layer: layer.self_attn.k_proj}
    )


def _rms_of_blocks(teacher: PreTrainedModel, text: torch.Tensor) -> Mapping[str, float]:
    """Root mean square of what the blocks add to the stream, by LAYER.self_attn and LAYER.mlp."""
    return _rms(
        teacher,
        text,
        {"self_attn": lambda layer: layer.self_attn.o_proj, "mlp": lambda layer: layer.mlp.down_proj},
    )


def _rms(
    teacher: PreTrainedModel,
    text: torch.Tensor,
    modules: Mapping[str, Callable[[torch.nn.Module], torch.nn.Module]],
) -> Mapping[str, float]:
    found: dict[str, float] = {}

    def watch(key: str) -> Callable[..., None]:
        def hook(module: object, inputs: object, output: torch.Tensor) -> None:
            found[key] = output.square().mean().sqrt().item()

        return hook

    handles = [
        choose(layer).register_forward_hook(watch(f"{number}.{name}"))
        for number, layer in enumerate(teacher.model.layers)
        for name, choose in modules.items()
    ]
    with torch.no_grad():
        teacher(input_ids=text[:16])
    for handle in handles:
        handle.remove()
    return found
