"""Changes that leave the valid manifest valid."""

from typing import Any

from tests.support.manifests import AFFINITY, PASS, REMOVED, claimed, configured
from tests.support.pod_templates import WHOLE
from tests.support.searches import ALTERNATIVES, BITS, NAMED_PASS, dimension, search

VALID_CHANGES: dict[str, tuple[tuple[str, Any], ...]] = {
    "tasks of lm-eval": (
        (
            "workflow.evaluators.0.metrics.0",
            {
                "name": "acc",
                "type": "accuracy",
                "tasks": ["stories_next", "stories_write"],
                "tasks_from": "s3://tasks/stories",
                "metric": "acc_norm",
                "num_fewshot": 5,
                "limit": 100,
                "goal": {"type": "max-degradation", "value": 0.01},
            },
        ),
    ),
    "top-1 agreement": (
        (
            "workflow.evaluators.0.metrics.0",
            {
                "name": "same",
                "type": "top1_agreement",
                "data_config": "test",
                "goal": {"type": "threshold", "value": 0.9},
            },
        ),
    ),
    "as it stands": (),
    "2 bits": ((f"{PASS}.bits", 2),),
    "a search": (
        NAMED_PASS,
        search(
            BITS,
            dimension("group_size", 16, 32),
            dimension("damp_percent", "0.01", "0.05"),
            dimension("desc_act", "true", "false"),
            sampler="tpe",
            execution_order="pass-by-pass",
            max_samples=24,
            seed=3,
            stop_early=False,
            keep="front",
        ),
        ("parallelism", 64),
        ("output.trialsUri", "s3://artifacts/trials"),
    ),
    "a search over alternatives": (
        *ALTERNATIVES,
        search(dimension("w_bit", 4, of="awq"), chains=[["gptq"], ["awq"], ["quarot", "gptq"]]),
    ),
    "a value that is allowed beside another": (
        NAMED_PASS,
        (f"{PASS}.checkpoint_format", "compressed-tensors"),
        search(dimension("desc_act", "false", "true"), dimension("static_groups", "false", "true")),
    ),
    "one group a row": ((f"{PASS}.group_size", -1),),
    "every option of GPTQ": (
        (f"{PASS}.sym", True),
        (f"{PASS}.desc_act", True),
        (f"{PASS}.static_groups", True),
        (f"{PASS}.true_sequential", True),
        (f"{PASS}.damp_percent", 0.05),
        (f"{PASS}.name", "gptq"),
        (f"{PASS}.experts", {"few_tokens": "rtn"}),
        (f"{PASS}.checkpoint_format", "gptq"),
        (f"{PASS}.implementation", "native"),
    ),
    "another checkpoint format": ((f"{PASS}.checkpoint_format", "gptq_v2"),),
    "3 bits as compressed tensors": (
        (f"{PASS}.checkpoint_format", "compressed-tensors"),
        (f"{PASS}.bits", 3),
        (f"{PASS}.desc_act", True),
        (f"{PASS}.static_groups", True),
    ),
    "act-order with one group a row, as compressed tensors": (
        (f"{PASS}.checkpoint_format", "compressed-tensors"),
        (f"{PASS}.desc_act", True),
        (f"{PASS}.group_size", -1),
    ),
    "module names of another architecture": (
        (f"{PASS}.layers_block_name", "model.layers"),
        (f"{PASS}.outside_layer_modules", ["model.embed_tokens", "model.norm"]),
        (f"{PASS}.inside_layer_modules", [["self_attn.q_proj", "self_attn.k_proj"], ["mlp.down_proj"]]),
    ),
    "the layers of a known architecture": ((f"{PASS}.layers_block_name", "model.layers"),),
    "some linears of a known architecture": ((f"{PASS}.inside_layer_modules", [["mlp.down_proj"]]),),
    "AWQ with nothing but its type": ((PASS, {"type": "AutoAWQQuantizer"}),),
    "AWQ as in Olive's documentation": ((PASS, {"type": "AutoAWQQuantizer", "w_bit": 4}),),
    "AWQ in the words of newer releases": (
        (PASS, {"type": "AutoAWQQuantizer", "bits": 4, "w_bit": 4, "data_config": "train"}),
    ),
    "every option of AWQ": (
        (
            PASS,
            {
                "type": "AutoAWQQuantizer",
                "w_bit": 4,
                "q_group_size": 64,
                "zero_point": True,
                "version": "gemm",
                "duo_scaling": False,
                "export_compatible": False,
                "pack_model_for_onnx_conversion": True,
                "input_model_dtype": "fp32",
                "implementation": "native",
                "data_config": "train",
            },
        ),
    ),
    "AWQ of some linears, one group a row": (
        (PASS, {"type": "AutoAWQQuantizer", "q_group_size": -1, "modules_to_not_convert": ["down_proj"]}),
    ),
    "experts with nothing said of them": ((f"{PASS}.experts", {}),),
    "a quantized head": ((f"{PASS}.lm_head", True),),
    "a head whose bits are chosen": (
        (PASS, {"type": "GptqQuantizer", "data_config": "train", "lm_head": True, "target_bits": 4.5}),
    ),
    "AWQ that sends every token to every expert": (
        (PASS, {"type": "AutoAWQQuantizer", "experts": {"few_tokens": "all"}}),
    ),
    "a rotation and GPTQ that sends every token to every expert": (
        (
            PASS,
            {
                "type": "QuaRot",
                "w_gptq": True,
                "w_bits": 4,
                "calibration_data_config": "train",
                "experts": {"few_tokens": "all"},
            },
        ),
    ),
    "bits that are chosen after a rotation": (
        (
            "workflow.passes",
            [{"type": "QuaRot"}, {"type": "GptqQuantizer", "data_config": "train", "target_bits": 3.5}],
        ),
    ),
    "AWQ without zero points": ((PASS, {"type": "AutoAWQQuantizer", "zero_point": False}),),
    "AWQ's scales alone": ((PASS, {"type": "AutoAWQQuantizer", "export_compatible": True}),),
    "AWQ as compressed-tensors, 3 bits, groups of 96": (
        (
            PASS,
            {
                "type": "AutoAWQQuantizer",
                "w_bit": 3,
                "q_group_size": 96,
                "checkpoint_format": "compressed-tensors",
            },
        ),
    ),
    "a rotation and RTN as compressed-tensors": (
        (PASS, {"type": "QuaRot", "w_rtn": True, "w_bits": 4, "checkpoint_format": "compressed-tensors"}),
    ),
    "gemv": ((PASS, {"type": "AutoAWQQuantizer", "version": "gemv", "q_group_size": 64}),),
    "gemv_fast": ((PASS, {"type": "AutoAWQQuantizer", "version": "gemv_fast"}),),
    "marlin": ((PASS, {"type": "AutoAWQQuantizer", "version": "marlin", "zero_point": False}),),
    "a model on a volume": (
        ("workflow.input_model.model_path", "/models/stories15m"),
        (
            "template.volumes",
            [
                {
                    "name": "models",
                    "mountPath": "/models",
                    "readOnly": True,
                    "persistentVolumeClaim": {"claimName": "models"},
                }
            ],
        ),
    ),
    "output on a volume": (
        ("output.uri", "file:///out/stories"),
        (
            "template.volumes",
            [{"name": "out", "mountPath": "/out", "persistentVolumeClaim": {"claimName": "out"}}],
        ),
    ),
    "a goal": (("workflow.evaluators.0.metrics.0.goal", {"type": "percent-max-degradation", "value": 2.5}),),
    "speed and memory": (
        (
            "workflow.evaluators.0.metrics",
            [
                {"name": "first", "type": "latency", "phase": "prefill", "prompt_tokens": 512},
                {"name": "next", "type": "latency", "new_tokens": 64, "software": "vllm"},
                {"name": "eight", "type": "throughput", "phase": "decode", "batch_size": 8},
                {"name": "memory", "type": "peak_memory", "goal": {"type": "threshold", "value": 2e9}},
            ],
        ),
    ),
    "no evaluation": (("workflow.evaluators", REMOVED), ("workflow.evaluator", REMOVED)),
    "AWS with workload identity": (
        ("storage", {"region": "eu-central-1"}),
        ("template.serviceAccountName", "quantizer"),
    ),
    "a GPU": (
        ("template.resources", {"limits": {"nvidia.com/gpu": 1, "memory": "16Gi", "cpu": 2}}),
        ("template.tolerations", [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]),
        ("template.nodeSelector", {"gpu": "h200"}),
        ("template.affinity", {"nodeAffinity": {}}),
        ("template.scratchSize", "20Gi"),
        ("template.priorityClassName", "batch"),
    ),
    "a whole pod template": tuple((f"template.{field}", value) for field, value in WHOLE.items()),
    "a class of resources": (("resourceClass", "8b"),),
    "the platform chooses the user": (("template.securityContext", {"platformChoosesUser": True}),),
    "certificates of a Secret": (("template.trustedCertificates", {"secret": {"name": "ca"}}),),
    "an affinity": (("template.affinity", AFFINITY),),
    "an output on the inner of two claims": (
        ("output.uri", "file:///data/out/x/"),
        ("template.volumes", [claimed("/scratch-2"), claimed("/data/out"), configured("/data")]),
    ),
    "a server by its address": (("storage.endpoint", "http://[fd00::1]:9000"),),
    "keys of a Secret": (
        (
            "storage.credentialsSecret",
            {"name": "s3", "keys": {"accessKeyId": "rootUser", "secretAccessKey": "pw"}},
        ),
    ),
    "limits": (("backoffLimit", 0), ("activeDeadlineSeconds", 3600), ("suspend", False), ("reuse", "Never")),
    "a result that is believed": (("reuse", "Trusted"),),
    "a pause": (("suspend", True),),
    "removed at once when it has ended": (("ttlSecondsAfterFinished", 0),),
    "the artifact goes with it": (("artifactPolicy", "Delete"), ("ttlSecondsAfterFinished", 86400)),
    "for another controller": (("managedBy", "kueue.x-k8s.io/multikueue"),),
}
