"""The passes of Olive that are one of ours: names, parameters and defaults, those of newer releases too."""

from collections.abc import Callable
from dataclasses import dataclass, field

from quantization_api.passes import AutoAWQQuantizer, GptqQuantizer, ModelBuilder, PassBase, QuaRot
from quantizer.cli.olive.fields import Field, Fields, left_out, refused
from quantizer.cli.olive.notes import Object

HEAD = refused(
    "the head keeps its own data type; leave it out, and write lm_head: true into the manifest if no ModelBuilder "
    "follows",
    False,
)
EMBEDDINGS = refused("embeddings keep their own data type; leave it out", False)
SAME_BITS = refused("all linears of a pass have the same bits and groups; leave it out", {})
NOT_CONVERTED = refused(
    "only AutoAWQQuantizer can leave linears out; leave it out, or write an AutoAWQQuantizer", []
)
ALL_EXPERTS = left_out("the experts are linears like the others", True)
ALL_EXPERTS_ALWAYS = left_out("how an expert is rounded does not depend on how many tokens it sees")
NO_VISION = refused("towers for images stay as they are; leave it out", False)
ROUNDED = "the pass before it rounds the linears; head and embeddings keep their own data type"
RANDOM = "the rotation is a random Hadamard matrix; write hadamard, or leave it out"


@dataclass(frozen=True)
class Spelling:
    """One of Olive's names for one of our passes."""

    model: type[PassBase]
    fields: Fields = field(default_factory=dict)
    """Parameters without an equivalent."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Our name of each parameter, by Olive's; empty: they have the same names."""
    defaults: Object = field(default_factory=dict)
    """Olive's defaults, under Olive's names, where ours are others."""
    fixed: Object = field(default_factory=dict)
    """Our parameters that say the same as Olive's name of the pass."""
    finish: Callable[[Object], Object] = dict
    """What cannot be said in a table: from our parameters as they were given to those that say the same."""

    @property
    def known(self) -> frozenset[str]:
        """Olive's names of the parameters that are translated."""
        return frozenset(self.renamed or self.model.model_fields.keys() - {"name", "type"})


def _gptq(given: Object) -> Object:
    """Without desc_act, Olive's Gptq orders the columns where one group is a whole row."""
    return {"desc_act": True, **given} if given.get("group_size") == -1 else given


def _quarot(given: Object) -> Object:
    """The seed of newer releases, whose QuaRot only rotates, is that of the rotation."""
    if given.get("w_gptq") is True or "seed" not in given:
        return given
    seed = given["seed"]
    return {"rotation_seed": seed, **{key: value for key, value in given.items() if key != "seed"}}


def _rtn(given: Object) -> Object:
    symmetric = given.pop("sym", False)
    return {**given, "w_asym": not symmetric if isinstance(symmetric, bool) else symmetric}


def _model_builder(given: Object) -> Object:
    """Level 0 is the builder's word for no level at all."""
    unset = type(given.get("int4_accuracy_level")) is int and given["int4_accuracy_level"] == 0
    return {key: value for key, value in given.items() if not (unset and key == "int4_accuracy_level")}


NATIVE: Fields = {
    "lm_head": HEAD,
    "quantize_vision": NO_VISION,
    "moe": ALL_EXPERTS,
    "moe_fallback_threshold": ALL_EXPERTS_ALWAYS,
    "moe_fallback_min_k_multiple": ALL_EXPERTS_ALWAYS,
    "modules_to_not_convert": NOT_CONVERTED,
    "overrides": SAME_BITS,
}
SPELLINGS: dict[str, Spelling] = {
    "GptqQuantizer": Spelling(GptqQuantizer),
    "AutoAWQQuantizer": Spelling(AutoAWQQuantizer),
    "QuaRot": Spelling(QuaRot, {"rotate_mode": refused(RANDOM, "hadamard")}, finish=_quarot),
    "Gptq": Spelling(GptqQuantizer, NATIVE, finish=_gptq),
    "GptqModel": Spelling(
        GptqQuantizer,
        {
            "lm_head": HEAD,
            "dynamic": SAME_BITS,
            "device": left_out("spec.template says where a job runs"),
            "damp_auto_increment": left_out("a Hessian that cannot be inverted is damped more by itself"),
            "mse": refused("scales are fitted by another method; leave it out", 0, 0.0),
            "rotation": refused("rotations are a pass of their own; write a QuaRot before this one"),
        },
        defaults={
            "group_size": -1,
            "damp_percent": 0.05,
            "true_sequential": True,
            "desc_act": True,
            "sym": True,
        },
    ),
    "Rtn": Spelling(
        QuaRot,
        {**NATIVE, "embeds": EMBEDDINGS},
        renamed={"bits": "w_bits", "group_size": "w_groupsize", "sym": "sym"},
        defaults={"bits": 4, "group_size": 128},
        fixed={"rotate": False, "w_rtn": True},
        finish=_rtn,
    ),
    "ModelBuilder": Spelling(
        ModelBuilder,
        {
            "metadata_only": refused("the graph is always built; leave it out", False),
            "search": left_out("how a text is generated is the choice of the program that runs the graph"),
            "filename": left_out("the graph is model.onnx"),
            "int4_is_symmetric": left_out(ROUNDED),
            "int4_algo_config": left_out(ROUNDED),
            "int4_op_types_to_quantize": Field(
                ROUNDED, lambda types: not isinstance(types, list) or "Gather" in types
            ),
            "int4_nodes_to_exclude": refused(
                "the pass before it decides which linears are rounded; leave it out", []
            ),
            "enable_cuda_graph": left_out(
                "CUDA graphs are a choice of the program that runs the graph", False
            ),
            "use_qdq": refused("linears become MatMulNBits nodes; leave it out", False),
            "use_8bits_moe": refused("there is no graph of a model with experts; leave it out", False),
            "use_webgpu_fp32": refused("there is no graph for WebGPU; leave it out", False),
            "use_cuda_bf16": refused("a graph for CUDA computes in fp16; leave it out", False),
            "include_hidden_states": refused("the graph's outputs are logits and cache; leave it out", False),
            "exclude_embeds": refused("the graph begins with token ids; leave it out", False),
            "exclude_lm_head": refused("the graph ends with logits; leave it out", False),
            "prune_lm_head": refused("the graph gives the logits of every token; leave it out", False),
        },
        finish=_model_builder,
    ),
}
