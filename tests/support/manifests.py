"""Manifests that tests apply: one that is valid, and tables of changes that make it valid or invalid."""

import copy
import functools
from dataclasses import dataclass
from typing import Any

VALID: dict[str, Any] = {
    "apiVersion": "quantization.dev/v1alpha1",
    "kind": "QuantizationJob",
    "metadata": {"name": "job", "namespace": "default"},
    "spec": {
        "workflow": {
            "input_model": {"type": "HfModel", "model_path": "s3://models/stories15m"},
            "data_configs": [
                {
                    "name": "train",
                    "type": "HuggingfaceContainer",
                    "load_dataset_config": {"data_name": "s3://datasets/stories/train.txt"},
                    "pre_process_data_config": {"max_seq_len": 256, "max_samples": 16},
                },
                {"name": "test", "load_dataset_config": {"data_name": "s3://datasets/stories/test.txt"}},
            ],
            "passes": [{"type": "GptqQuantizer", "data_config": "train", "group_size": 32}],
            "evaluators": [
                {
                    "name": "quality",
                    "metrics": [
                        {"name": "ppl", "type": "perplexity", "data_config": "test"},
                        {"name": "kl", "type": "kl_divergence", "data_config": "test"},
                    ],
                }
            ],
            "evaluator": "quality",
        },
        "output": {"uri": "s3://artifacts/stories15m-gptq"},
        "storage": {"endpoint": "http://s3.example.svc:8333", "credentialsSecret": {"name": "s3"}},
    },
}
REMOVED = object()
PASS = "workflow.passes.0"
PREPROCESS = "workflow.data_configs.0.pre_process_data_config"


def manifest(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The valid manifest with changes: dotted path below spec, and the new value or REMOVED."""
    result = copy.deepcopy(VALID)
    for path, value in changes:
        *parents, last = path.split(".")
        node: Any = result["spec"]
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if value is REMOVED:
            del node[last]
        elif isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    return result


@dataclass(frozen=True)
class Invalid:
    """A change that must be refused, and what the refusal must say.

    server: part of the API server's answer. client: part of the message without a cluster; the same when
    not given; None when only the API server can know.
    """

    name: str
    changes: tuple[tuple[str, Any], ...]
    server: str
    client: str | None = ""

    @property
    def client_sentence(self) -> str | None:
        return self.server if self.client == "" else self.client


def bad(name: str, path: str, value: Any, server: str, client: str | None = "") -> Invalid:
    return Invalid(name, ((path, value),), server, client)


def awq(name: str, server: str, client: str | None = "", **parameters: Any) -> Invalid:
    """An AutoAWQQuantizer that must be refused."""
    return bad(name, PASS, {"type": "AutoAWQQuantizer", **parameters}, server, client)


def metric(name: str, server: str, client: str | None = "", **fields: Any) -> Invalid:
    """A metric that must be refused."""
    return bad(name, "workflow.evaluators.0.metrics.0", {"name": "m", **fields}, server, client)


NOT_RUN = "code from a manifest is never run"
NAMED_PASS = (f"{PASS}.name", "q")


def dimension(parameter: str, *values: Any, of: str = "q") -> dict[str, Any]:
    """The values of a parameter that a search tries."""
    return {"pass": of, "parameter": parameter, "values": list(values)}


def search(*dimensions: dict[str, Any], **fields: Any) -> tuple[str, Any]:
    """The change that adds a search."""
    return ("workflow.search_strategy", {"search_space": list(dimensions), **fields})


BITS = dimension("bits", 4, 8)
ALTERNATIVES: tuple[tuple[str, Any], ...] = (
    (
        "workflow.passes",
        [
            {"name": "gptq", "type": "GptqQuantizer", "data_config": "train"},
            {"name": "awq", "type": "AutoAWQQuantizer", "data_config": "train"},
            {"name": "quarot", "type": "QuaRot"},
        ],
    ),
)
SEARCHES: tuple[Invalid, ...] = (
    Invalid("a search of nothing", (search(),), "nothing is searched"),
    Invalid(
        "a parameter twice",
        (NAMED_PASS, search(BITS, BITS)),
        "search_space names a parameter of a pass twice",
    ),
    Invalid(
        "a search without a metric",
        (
            NAMED_PASS,
            search(BITS),
            ("workflow.evaluators.0.metrics", [{"name": "size", "type": "size_on_disk"}]),
        ),
        "a search needs figures to compare",
    ),
    Invalid(
        "a search without an evaluator",
        (
            NAMED_PASS,
            search(BITS),
            ("workflow.evaluators", REMOVED),
            ("workflow.evaluator", REMOVED),
        ),
        "a search needs figures to compare",
    ),
    Invalid(
        "a search over no pass",
        (NAMED_PASS, search(dimension("bits", 4, of="r"))),
        "search_strategy names a pass that no pass, or more than one, has as its name",
    ),
    Invalid(
        "a chain of no pass",
        (*ALTERNATIVES, search(chains=[["gptq"], ["awk"]])),
        "search_strategy names a pass that no pass, or more than one, has as its name",
        "has as its name (gptq, awq, quarot); did you mean awq?",
    ),
    Invalid(
        "a search over another type's parameter",
        (NAMED_PASS, search(dimension("w_bit", 4))),
        "search_space names a parameter that its pass does not have",
        "w_bit is not a parameter of GptqQuantizer; it belongs to AutoAWQQuantizer; did you mean bits?",
    ),
    Invalid(
        "a search over the type",
        (NAMED_PASS, search(dimension("type", "QuaRot"))),
        "search_space names a parameter that its pass does not have",
        "to try passes of several types, name each in passes and write chains",
    ),
    Invalid(
        "a value that is a float",
        (NAMED_PASS, search(dimension("damp_percent", 0.01))),
        "Invalid value",
        'write other values as texts, such as "0.01" and "true"',
    ),
    Invalid(
        "workers without a search", (("parallelism", 2),), "parallelism is the number of workers of a search"
    ),
    Invalid("no worker", (NAMED_PASS, search(BITS), ("parallelism", 0)), "greater than or equal to 1"),
    bad("trials nowhere", "output.trialsUri", "s3://trials", "output.trialsUri must be s3://BUCKET/PREFIX"),
    bad("trials that vanish", "output.trialsUri", "file:///tmp/t", "a file:// trialsUri must be on", None),
)
"""Searches that both judges refuse."""
IMPOSSIBLE_SEARCHES: tuple[Invalid, ...] = (
    Invalid(
        "a grid without an end",
        (
            NAMED_PASS,
            search(
                dimension("group_size", *(16 * size for size in range(1, 17))),
                dimension("damp_percent", *(f"0.{size:02}" for size in range(1, 17))),
                dimension("desc_act", "true", "false"),
                dimension("static_groups", "true", "false"),
                dimension("sym", "true", "false"),
            ),
        ),
        "",
        "the grid has 2,048 points; write max_samples (at most 1,024), or fewer values",
    ),
    Invalid(
        "bits that there are not",
        (NAMED_PASS, search(dimension("bits", 4, 5))),
        "",
        "q.bits cannot be 5: bits must be 2, 3, 4 or 8",
    ),
    Invalid(
        "a value of another type",
        (NAMED_PASS, search(dimension("desc_act", "perhaps"))),
        "",
        "q.desc_act cannot be perhaps: ",
    ),
    Invalid(
        "a chain that is no sequence",
        (*ALTERNATIVES, search(chains=[["gptq"], ["awq"], ["gptq", "quarot"]])),
        "",
        "the chain gptq, quarot: QuaRot rotates the float model; put it before the GptqQuantizer",
    ),
    Invalid(
        "a pass that no chain has",
        (*ALTERNATIVES, search(chains=[["gptq"], ["awq"]])),
        "",
        "no chain has the pass quarot",
    ),
)
"""Searches that only Python refuses."""


def configured(path: str) -> dict[str, Any]:
    """A volume of a ConfigMap."""
    return {"name": f"c-{len(path)}", "mountPath": path, "configMap": {"name": "c"}}


def claimed(path: str) -> dict[str, Any]:
    """A volume of a claim."""
    return {"name": f"v-{len(path)}", "mountPath": path, "persistentVolumeClaim": {"claimName": "c"}}


def nested(depth: int) -> dict[str, Any]:
    """An object in an object, and so on."""
    return functools.reduce(lambda inner, _: {"a": inner}, range(depth), {})


VANISHING: tuple[tuple[str, list[dict[str, Any]]], ...] = (
    ("file:///scratch/x", [claimed("/s")]),
    ("file:///data-2/x", [claimed("/data")]),
    ("file:///data/x", [claimed("/data") | {"readOnly": True}]),
    ("file:///data/text/x", [claimed("/data"), configured("/data/text")]),
)
"""Outputs, and volumes beside which nothing is left of them when the pod is gone."""


INVALID: tuple[Invalid, ...] = (
    bad("unknown field", f"{PASS}.group_sise", 32, 'unknown field "spec.workflow.passes[0].group_sise"'),
    bad("unknown spec field", "retries", 3, 'unknown field "spec.retries"'),
    bad("unknown template field", "template.hostNetwork", True, 'unknown field "spec.template.hostNetwork"'),
    bad(
        "AWQ's bits on GPTQ",
        f"{PASS}.w_bit",
        4,
        "w_bit is not a parameter of GptqQuantizer; it belongs to AutoAWQQuantizer; did you mean bits?",
    ),
    bad(
        "AWQ's group size on GPTQ",
        f"{PASS}.q_group_size",
        64,
        "q_group_size is not a parameter of GptqQuantizer; it belongs to AutoAWQQuantizer; did you mean group_size?",
    ),
    bad(
        "QuaRot's damping on GPTQ",
        f"{PASS}.gptq_damping",
        0.1,
        "gptq_damping is not a parameter of GptqQuantizer; it belongs to QuaRot; did you mean damp_percent?",
    ),
    bad(
        "QuaRot's rotation on GPTQ",
        f"{PASS}.rotate",
        True,
        "rotate is not a parameter of GptqQuantizer; it belongs to QuaRot",
    ),
    bad("5 bits", f"{PASS}.bits", 5, "bits must be 2, 3, 4 or 8"),
    bad("16 bits", f"{PASS}.bits", 16, "bits must be 2, 3, 4 or 8"),
    bad(
        "bits as a string",
        f"{PASS}.bits",
        "int4",
        'must be of type integer: "string"',
        "must be a whole number",
    ),
    bad(
        "group size 0",
        f"{PASS}.group_size",
        0,
        "group_size is -1 (one group for each output channel) or greater",
    ),
    bad("group size -2", f"{PASS}.group_size", -2, "greater than or equal to -1"),
    bad("no damping", f"{PASS}.damp_percent", 0, "should be greater than 0", "greater than 0"),
    bad("damping of 1", f"{PASS}.damp_percent", 1, "should be less than 1", "less than 1"),
    bad("no inner modules", f"{PASS}.inside_layer_modules", [], "inside_layer_modules has a list without"),
    bad(
        "an empty stage",
        f"{PASS}.inside_layer_modules",
        [["a"], []],
        "inside_layer_modules has a list without",
    ),
    bad("a module with a space", f"{PASS}.layers_block_name", "model layers", "should match", "must match"),
    Invalid(
        "act-order without a group index",
        ((f"{PASS}.checkpoint_format", "compressed-tensors"), (f"{PASS}.desc_act", True)),
        "compressed-tensors has no group index; with desc_act write static_groups: true",
    ),
    bad(
        "unknown checkpoint format",
        f"{PASS}.checkpoint_format",
        "gguf",
        "Unsupported value",
        "must be 'gptq'",
    ),
    awq("3 bits of AWQ", "AWQ's formats hold 4 bits only", w_bit=3),
    awq("8 bits of AWQ", "AWQ's formats hold 4 bits only", bits=8),
    awq("AWQ's bits twice", "w_bit and bits are two names of one number", w_bit=4, bits=8),
    awq("groups of 96 in gemm", "version gemm takes q_group_size -1, 16, 32, 64 or 128", q_group_size=96),
    awq("AWQ's group size 0", "version gemm takes q_group_size -1, 16, 32, 64 or 128", q_group_size=0),
    awq("groups of 32 in gemv", "version gemv takes q_group_size 64 or 128", version="gemv", q_group_size=32),
    awq(
        "groups of 64 in gemv_fast", "gemv_fast takes q_group_size 128", version="gemv_fast", q_group_size=64
    ),
    awq(
        "groups of 64 in marlin",
        "version marlin takes q_group_size 128",
        version="marlin",
        zero_point=False,
        q_group_size=64,
    ),
    awq("symmetric gemv", "gemv and gemv_fast need zero_point: true", version="gemv", zero_point=False),
    awq("symmetric gemv_fast", "gemv and gemv_fast need zero_point", version="gemv_fast", zero_point=False),
    awq("marlin as it stands", "version marlin has no zero points", version="marlin"),
    awq("unknown layout", "Unsupported value", "must be 'gemm'", version="exllama"),
    awq(
        "bfloat16 of autoawq",
        "implementation autoawq computes in float16 or float32",
        implementation="autoawq",
        data_config="calibration",
        input_model_dtype="bf16",
    ),
    awq("double precision", "input_model_dtype fp64 is not supported", input_model_dtype="fp64"),
    awq("a layout of nothing", "version has no effect", export_compatible=True, version="gemv"),
    awq("ONNX of gemv", "can be converted to ONNX", pack_model_for_onnx_conversion=True, version="gemv"),
    awq("ONNX of a row", "can be converted to ONNX", pack_model_for_onnx_conversion=True, q_group_size=-1),
    awq("symmetric ONNX", "can be converted to ONNX", pack_model_for_onnx_conversion=True, zero_point=False),
    awq(
        "ONNX of floats",
        "can be converted to ONNX",
        pack_model_for_onnx_conversion=True,
        export_compatible=True,
    ),
    awq(
        "ONNX of a part",
        "cannot leave single linears in float",
        pack_model_for_onnx_conversion=True,
        modules_to_not_convert=["down_proj"],
    ),
    awq("GPTQ's bits on AWQ", "group_size is not a parameter of AutoAWQQuantizer", group_size=64),
    awq("AWQ's data of nothing", "a pass names a data_config that is not", data_config="tran"),
    bad("unknown pass", f"{PASS}.type", "Gptq", "Unsupported value", "type must be one of"),
    bad("pass of another case", f"{PASS}.type", "gptqquantizer", "Unsupported value", "type must be one of"),
    bad(
        "pass without calibration",
        f"{PASS}.data_config",
        REMOVED,
        "GptqQuantizer needs data_config",
        "Field required",
    ),
    bad(
        "data_config of nothing",
        f"{PASS}.data_config",
        "tran",
        "a pass names a data_config that is not in data_configs (train, test)",
        "a pass names a data_config that is not in data_configs (train, test); did you mean train?",
    ),
    bad("script of a pass", f"{PASS}.user_script", "x.py", NOT_RUN),
    bad(
        "two passes",
        "workflow.passes",
        [VALID["spec"]["workflow"]["passes"][0]] * 2,
        "a workflow is one of QuaRot, GptqQuantizer and AutoAWQQuantizer",
    ),
    bad("no pass", "workflow.passes", [], "should have at least 1 items", "at least 1 item"),
    bad(
        "no input model",
        "workflow.input_model",
        REMOVED,
        "spec.workflow.input_model: Required",
        "Field required",
    ),
    bad(
        "hub id",
        "workflow.input_model.model_path",
        "meta-llama/Llama-2-7b-hf",
        "model_path must be s3://BUCKET/KEY",
    ),
    bad(
        "bucket only", "workflow.input_model.model_path", "s3://models", "model_path must be s3://BUCKET/KEY"
    ),
    bad(
        "another model type",
        "workflow.input_model.type",
        "ONNXModel",
        "Unsupported value",
        "must be 'HfModel'",
    ),
    bad(
        "load_kwargs", "workflow.input_model.load_kwargs", {"torch_dtype": "float16"}, "read tensor by tensor"
    ),
    bad(
        "data of a hub",
        "workflow.data_configs.0.load_dataset_config.data_name",
        "wikitext",
        "data_name must be s3://",
    ),
    bad(
        "subset",
        "workflow.data_configs.0.load_dataset_config.subset",
        "wikitext-2-raw-v1",
        "a subset exists only on a hub",
    ),
    bad(
        "sliding window",
        f"{PREPROCESS}.strategy",
        "join-sliding-window",
        "Unsupported value",
        "must be 'join'",
    ),
    bad("sequence of 4", f"{PREPROCESS}.max_seq_len", 4, "greater than or equal to 8"),
    bad("no samples", f"{PREPROCESS}.max_samples", 0, "greater than or equal to 1"),
    bad("chat template", f"{PREPROCESS}.chat_template", "x", "write the finished text into the data set"),
    bad("formatting code", f"{PREPROCESS}.text_formatting_func", "f", NOT_RUN),
    bad(
        "data configs of one name",
        "workflow.data_configs.1.name",
        "train",
        'Duplicate value: {"name":"train"}',
        "two data_configs are named train",
    ),
    bad(
        "evaluator of nothing",
        "workflow.evaluator",
        "speed",
        "evaluator names an evaluator that is not in evaluators (quality)",
    ),
    Invalid(
        "evaluator without evaluators",
        (("workflow.evaluators", REMOVED),),
        "evaluator names an evaluator that is not in evaluators (none)",
    ),
    Invalid(
        "data of no list",
        (
            ("workflow.data_configs", REMOVED),
            ("workflow.evaluators", REMOVED),
            ("workflow.evaluator", REMOVED),
        ),
        "a pass names a data_config that is not in data_configs (none)",
    ),
    bad(
        "no evaluator chosen",
        "workflow.evaluator",
        REMOVED,
        "evaluator names none of them; write evaluator: NAME",
    ),
    bad(
        "metric data of nothing",
        "workflow.evaluators.0.metrics.0.data_config",
        "validation",
        "a metric names a data_config that is not in data_configs (train, test)",
    ),
    bad(
        "metric without data",
        "workflow.evaluators.0.metrics.0.data_config",
        REMOVED,
        "perplexity needs a data_config",
    ),
    bad(
        "speed on a text",
        "workflow.evaluators.0.metrics.0.type",
        "latency",
        "latency is measured without data_config; leave data_config out",
    ),
    bad(
        "a phase of perplexity",
        "workflow.evaluators.0.metrics.0.phase",
        "decode",
        "software belong to latency, throughput and peak_memory",
    ),
    metric("the phase of memory", "leave phase out", type="peak_memory", phase="prefill"),
    metric(
        "new tokens of the prefill",
        "leave new_tokens out",
        type="latency",
        phase="prefill",
        new_tokens=8,
    ),
    metric("one new token", "greater than or equal to 2", type="throughput", new_tokens=1),
    metric("no prompt", "greater than or equal to 1", type="latency", prompt_tokens=0),
    metric("an unknown server", "Unsupported value", "must be 'auto'", type="latency", software="tgi"),
    bad(
        "size with data",
        "workflow.evaluators.0.metrics.0.type",
        "size_on_disk",
        "size_on_disk is measured without data_config; leave data_config out",
    ),
    bad(
        "accuracy without tasks",
        "workflow.evaluators.0.metrics.0",
        {"name": "acc", "type": "accuracy", "tasks_from": "s3://tasks/stories"},
        "accuracy needs tasks to measure on",
    ),
    bad(
        "accuracy without files",
        "workflow.evaluators.0.metrics.0",
        {"name": "acc", "type": "accuracy", "tasks": ["stories"]},
        "accuracy needs tasks_from to measure on",
    ),
    bad(
        "tasks of a hub",
        "workflow.evaluators.0.metrics.0",
        {"name": "acc", "type": "accuracy", "tasks": ["arc"], "tasks_from": "allenai/ai2_arc"},
        "tasks_from must be s3://BUCKET/KEY, file:///PATH or an absolute path",
    ),
    bad(
        "perplexity of some documents",
        "workflow.evaluators.0.metrics.0.limit",
        10,
        "perplexity is measured without limit; leave limit out",
    ),
    bad(
        "degradation of top-1",
        "workflow.evaluators.0.metrics.1",
        {
            "name": "same",
            "type": "top1_agreement",
            "data_config": "test",
            "goal": {"type": "max-degradation", "value": 1},
        },
        "top1_agreement already compares with the input model",
    ),
    bad(
        "degradation of KL",
        "workflow.evaluators.0.metrics.1.goal",
        {"type": "max-degradation", "value": 1},
        "kl_divergence already compares with the input model",
    ),
    bad(
        "unknown goal",
        "workflow.evaluators.0.metrics.0.goal",
        {"type": "best", "value": 1},
        "Unsupported value",
        "must be 'threshold'",
    ),
    *SEARCHES,
    bad(
        "systems",
        "workflow.systems",
        {"local": {"type": "LocalSystem"}},
        "spec.template says where a job runs",
    ),
    bad("host", "workflow.host", "local", "spec.template says where a job runs"),
    bad("target", "workflow.target", "local", "spec.template says where a job runs"),
    bad("cache folder", "workflow.cache_dir", "cache", "results are stored at spec.output.uri"),
    bad("output folder", "workflow.output_dir", "out", "write spec.output.uri"),
    bad("engine", "workflow.engine", {}, "write its field evaluator directly"),
    bad("script", "workflow.user_script", "x.py", NOT_RUN),
    bad("no output", "output", REMOVED, "spec.output: Required", "Field required"),
    bad("output without a bucket", "output.uri", "s3:///stories", "output.uri must be s3://BUCKET/PREFIX"),
    bad("output without a prefix", "output.uri", "s3://artifacts", "output.uri must be s3://BUCKET/PREFIX"),
    bad("output on a hub", "output.uri", "hf://me/model", "output.uri must be s3://BUCKET/PREFIX"),
    bad(
        "output that vanishes",
        "output.uri",
        "file:///tmp/out",
        "a file:// output must be on a writable claim",
        None,
    ),
    bad(
        "endpoint without a scheme",
        "storage.endpoint",
        "s3.example.com:9000",
        "storage.endpoint must be http(s)://HOST",
    ),
    bad("secret of another namespace", "storage.credentialsSecret.namespace", "x", "unknown field"),
    bad("secret in the manifest", "storage.accessKey", "AKIA", 'unknown field "spec.storage.accessKey"'),
    bad("suspend in words", "suspend", "yes", "must be of type boolean", None),
    bad("time to live before the end", "ttlSecondsAfterFinished", -1, "greater than or equal to 0"),
    bad("managed by a word", "managedBy", "kueue", "spec.managedBy", "must match"),
    bad("unknown policy", "artifactPolicy", "Keep", "Unsupported value", "must be 'Retain'"),
    bad("negative retries", "backoffLimit", -1, "greater than or equal to 0"),
    bad("no time", "activeDeadlineSeconds", 0, "greater than or equal to 1"),
    bad(
        "volume without a source",
        "template.volumes",
        [{"name": "m", "mountPath": "/models"}],
        "exactly one of persistentVolumeClaim and configMap",
    ),
    *(
        bad(
            f"volume at {path!r}",
            "template.volumes",
            [configured(path)],
            "mountPath must be an absolute path",
        )
        for path in (
            "/",
            "models",
            "//scratch",
            "/./scratch",
            "/data/../scratch",
            "/data/..",
            "/data/",
            "/a:b",
        )
    ),
    *(
        bad(
            f"volume over {path}",
            "template.volumes",
            [configured(path)],
            "mountPath must not be inside or above",
        )
        for path in (
            "/scratch",
            "/scratch/m",
            "/opt",
            "/opt/app/quantizer",
            "/usr/lib",
            "/etc",
            "/var/run/secrets",
        )
    ),
    *(
        bad(f"output {uri}", "output.uri", uri, "output.uri must be s3://BUCKET/PREFIX")
        for uri in (
            "file:///out/../scratch/x",
            "file:////scratch/x",
            "file:///./scratch",
            "s3://artifacts/../models/x",
            "s3://artifacts/a//b",
            "s3://artifacts/a/.",
        )
    ),
    bad(
        "a volume named as scratch",
        "template.volumes",
        [claimed("/data") | {"name": "quantizer-scratch"}],
        "the name quantizer-scratch belongs to the scratch volume",
    ),
    bad(
        "two volumes at one place",
        "template.volumes",
        [claimed("/data"), configured("/data")],
        "two volumes have the same mountPath",
    ),
    Invalid(
        "a line break in the output", (("output.uri", "s3://artifacts/a\nb"),), "should match", "must match"
    ),
    *(
        Invalid(
            f"output {uri} with volumes {[volume['mountPath'] for volume in volumes]}",
            (("output.uri", uri), ("template.volumes", volumes)),
            "a file:// output must be on a writable claim",
            None,
        )
        for uri, volumes in VANISHING
    ),
    *(
        bad(f"endpoint {url}", "storage.endpoint", url, "storage.endpoint must be http(s)://HOST")
        for url in (
            "http://user:secret@s3.example.com",
            "http://s3.example.com/path",
            "http://s3.example.com?x=1",
            "http://s3.example.com#x",
            "http://s3.example.com:port",
            "http://s3 example.com",
            "http://",
        )
    ),
    bad(
        "memory in words",
        "template.resources",
        {"limits": {"memory": "lots"}},
        "should match",
        'must be a whole number, or an amount such as "500m" or "16Gi"',
    ),
    bad("a long amount", "template.scratchSize", "1" * 33, "Too long", "at most 32 characters"),
    bad(
        "a long key",
        "template.nodeSelector",
        {"k" * 318: "v"},
        "a key may have 317",
        "at most 317 characters",
    ),
    bad("no affinity", "template.affinity", {"nodeAffinity": {"nonsense": 1}}, "unknown field"),
    bad("deep affinity", "template.affinity", {"nodeAffinity": nested(50)}, "unknown field"),
)

AFFINITY: dict[str, Any] = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h200", "b200"]}]},
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]},
            ]
        },
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "spot", "operator": "DoesNotExist"}]}}
        ],
    },
    "podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "s3"}}, "namespaceSelector": {}}
        ]
    },
    "podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 100,
                "podAffinityTerm": {
                    "topologyKey": "kubernetes.io/hostname",
                    "namespaces": ["serving"],
                    "labelSelector": {"matchExpressions": [{"key": "busy", "operator": "Exists"}]},
                },
            }
        ]
    },
}
"""All that core/v1 has, but for matchLabelKeys."""

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
    "AWQ without zero points": ((PASS, {"type": "AutoAWQQuantizer", "zero_point": False}),),
    "AWQ's scales alone": ((PASS, {"type": "AutoAWQQuantizer", "export_compatible": True}),),
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
