"""The child Job says what the job asks for, and nothing that a user could use to get out of it."""

import json
from typing import Any

import pytest
from pydantic import ValidationError
from tests.support.cluster_objects import CREATED, UID, child, quantization_job
from tests.support.manifests import AFFINITY
from tests.support.searches import BITS, NAMED_PASS, dimension, search

from quantization_api.failures import PERMANENT_EXIT_CODES
from quantization_api.pod import RunRequest
from quantization_api.spec import QuantizationJobSpec
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import (
    GENERATION_ANNOTATION,
    MADE_FROM_ANNOTATION,
    ChildJob,
    QuantizationJob,
)
from quantization_operator.workload import build, build_cleanup, cleanup_name, job_name

pytestmark = pytest.mark.unit

SETTINGS = OperatorSettings(
    quantizer_image="registry.example/quantizer:1",
    legacy_image="registry.example/quantizer-legacy:1",
    scratch_size="7Gi",
)


QUEUE = {"kueue.x-k8s.io/queue-name": "gpu"}


def built(*changes: tuple[str, Any], **metadata: Any) -> dict[str, Any]:
    body = quantization_job(*changes, **metadata)
    return build(QuantizationJob.of(body), QuantizationJobSpec.model_validate(body["spec"]), SETTINGS)


def pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return spec


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    only: dict[str, Any]
    (only,) = pod_of(manifest)["containers"]
    return only


@pytest.mark.parametrize("name", ["a", "llama-3.1-8b", "x" * 253, "a." * 100 + "a", "x" * 48 + "-y"])
def test_the_name_of_the_job_is_a_label_whatever_the_name_of_the_quantization_job(name: str) -> None:
    derived = job_name(name, UID)
    assert len(f"{derived}-63") <= 63, "with the number of a worker it is the pod's host name"
    assert derived.replace("-", "a").isalnum()
    assert not derived.startswith("-")
    assert "--" not in derived


def test_the_name_follows_from_the_uid() -> None:
    assert job_name("a", "1") == job_name("a", "1")
    assert job_name("a", "1") != job_name("a", "2")


def test_disruptions_are_ignored_before_exit_codes_are_judged() -> None:
    spec = built()["spec"]
    first, second, third = spec["podFailurePolicy"]["rules"]
    assert first == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert (second["action"], second["onExitCodes"]["values"]) == ("Ignore", [143])
    assert (third["action"], third["onExitCodes"]["values"]) == ("FailJob", list(PERMANENT_EXIT_CODES))
    assert spec["podReplacementPolicy"] == "Failed"
    assert pod_of(built())["restartPolicy"] == "Never"


def test_limits_are_passed_through() -> None:
    spec = built(("backoffLimit", 1), ("activeDeadlineSeconds", 600))["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (1, 600)
    assert "activeDeadlineSeconds" not in built()["spec"]
    assert "suspend" not in built()["spec"]
    assert "ttlSecondsAfterFinished" not in built()["spec"]


def test_a_job_after_a_pause_remembers_what_was_counted_before_it() -> None:
    body = quantization_job(("backoffLimit", 3))
    spec = QuantizationJobSpec.model_validate(body["spec"])
    made = build(QuantizationJob.of(body), spec, SETTINGS, failed_before=2)
    assert made["spec"]["backoffLimit"] == 1
    stored = {**made, "metadata": {**made["metadata"], "uid": "x", "creationTimestamp": CREATED}}
    assert ChildJob.of(stored).failed_before == 2
    assert ChildJob.of({**stored, "metadata": child()["metadata"]}).failed_before == 0


def cleaned(*changes: tuple[str, Any], recipe: str | None = None, **metadata: Any) -> dict[str, Any]:
    body = quantization_job(*changes, **metadata)
    spec = QuantizationJobSpec.model_validate(body["spec"])
    return build_cleanup(QuantizationJob.of(body), spec, SETTINGS, recipe)


def test_the_clean_up_removes_what_the_job_made_and_ends_by_itself() -> None:
    limits = {"limits": {"nvidia.com/gpu": 1, "memory": "64Gi"}}
    made = cleaned(("template.resources", limits), recipe="sha256:" + "a" * 64, labels=QUEUE)
    assert container(made)["args"] == [
        "delete",
        f"--uid={UID}",
        "--recipe=sha256:" + "a" * 64,
        "--endpoint=http://s3.example.svc:8333",
        "--patience=300",
        "--refuse-link-local",
        "s3://artifacts/stories15m-gptq",
    ]
    assert keys_read(made) == READ
    assert "envFrom" not in container(made)
    assert "nvidia.com/gpu" not in container(made)["resources"]["limits"]
    assert (made["spec"]["activeDeadlineSeconds"], made["spec"]["backoffLimit"]) == (600, 2)
    assert made["spec"]["ttlSecondsAfterFinished"]
    assert "ownerReferences" not in made["metadata"], "a foreground deletion would remove it too early"
    assert QUEUE.items() <= made["metadata"]["labels"].items(), "no Job may go round the queue"
    assert pod_of(made)["automountServiceAccountToken"] is False
    assert len(made["metadata"]["name"]) <= 63


def test_an_argument_of_the_clean_up_is_not_expanded() -> None:
    made = cleaned(("output.uri", "s3://artifacts/$(AWS_SECRET_ACCESS_KEY)"))
    assert container(made)["args"][-1] == "s3://artifacts/$$(AWS_SECRET_ACCESS_KEY)"


@pytest.mark.parametrize("name", ["job", "a" * 45 + "-delete", "a" * 253])
def test_the_clean_up_has_a_name_of_its_own(name: str) -> None:
    assert cleanup_name(name, UID) != job_name(name, UID)
    assert len(cleanup_name(name, UID)) <= 63


def test_the_request_is_the_one_that_the_quantizer_reads() -> None:
    text = container(built())["env"][0]["value"]
    request = RunRequest.model_validate_json(text)
    assert request.uid == UID
    assert request.output.uri == "s3://artifacts/stories15m-gptq"
    assert request.storage.endpoint == "http://s3.example.svc:8333"
    assert "s3" not in json.loads(text)["storage"]


def test_the_text_of_the_settings_calibrates_a_pass_that_names_none() -> None:
    body, text = quantization_job(), "s3://datasets/calibration.txt"
    with_text = SETTINGS.model_copy(update={"default_calibration": text})
    seen = [
        RunRequest.model_validate_json(
            container(
                build(QuantizationJob.of(body), QuantizationJobSpec.model_validate(body["spec"]), settings)
            )["env"][0]["value"]
        ).default_calibration
        for settings in (with_text, SETTINGS)
    ]
    assert seen == [text, None]


@pytest.mark.parametrize("uri", ["pile-val-backup", "s3://bucket", "hf://mit-han-lab/pile", "s3:/x/y"])
def test_a_default_text_that_no_pod_could_read_stops_the_operator_at_its_start(uri: str) -> None:
    with pytest.raises(ValidationError, match="default_calibration"):
        OperatorSettings(default_calibration=uri)


@pytest.mark.parametrize("uri", ["", "s3://datasets/a.txt", "/data/a.txt", "file:///data/a.txt"])
def test_a_default_text_is_what_a_data_config_could_name(uri: str) -> None:
    assert OperatorSettings(default_calibration=uri).default_calibration == uri


def test_a_reference_in_a_value_is_not_expanded_to_a_secret() -> None:
    path = "s3://models/$(AWS_SECRET_ACCESS_KEY)/x"
    text = container(built(("workflow.input_model.model_path", path)))["env"][0]["value"]
    assert "$" not in text
    assert RunRequest.model_validate_json(text).workflow.input_model.model_path == path


def test_the_clean_up_is_bound_by_what_binds_the_run() -> None:
    patient = cleaned(("storage.patienceSeconds", 7))
    assert "--patience=7" in container(patient)["args"]
    body = quantization_job()
    spec = QuantizationJobSpec.model_validate(body["spec"])
    allowed = SETTINGS.model_copy(update={"refuse_link_local_endpoints": False})
    open_to_all = build_cleanup(QuantizationJob.of(body), spec, allowed, None)
    assert "--refuse-link-local" not in container(open_to_all)["args"]


READ = {
    "AWS_ACCESS_KEY_ID": {"name": "s3", "key": "AWS_ACCESS_KEY_ID"},
    "AWS_SECRET_ACCESS_KEY": {"name": "s3", "key": "AWS_SECRET_ACCESS_KEY"},
    "AWS_SESSION_TOKEN": {"name": "s3", "key": "AWS_SESSION_TOKEN", "optional": True},
}


def keys_read(manifest: dict[str, Any]) -> dict[str, Any]:
    """The keys of a Secret that become variables, by the variable."""
    entries = container(manifest)["env"]
    return {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in entries if "valueFrom" in entry}


def test_of_the_secret_only_the_keys_of_an_account_reach_the_pod() -> None:
    assert keys_read(built()) == READ
    assert "envFrom" not in container(built()), "every key of the Secret would be a variable"
    assert not keys_read(built(("storage", {"region": "eu-central-1"})))


def test_the_keys_may_have_other_names() -> None:
    secret = {"name": "minio", "keys": {"accessKeyId": "rootUser", "secretAccessKey": "rootPassword"}}
    read = keys_read(built(("storage.credentialsSecret", secret)))
    assert (read["AWS_ACCESS_KEY_ID"]["key"], read["AWS_SECRET_ACCESS_KEY"]["key"]) == (
        "rootUser",
        "rootPassword",
    )
    assert read["AWS_SESSION_TOKEN"]["optional"] is True


def test_an_affinity_is_passed_on_as_it_was_written() -> None:
    assert pod_of(built(("template.affinity", AFFINITY)))["affinity"] == AFFINITY


def test_queue_labels_and_annotations_travel_and_others_do_not() -> None:
    made = built(
        labels={"kueue.x-k8s.io/queue-name": "gpu", "team": "a"},
        annotations={
            "kueue.x-k8s.io/podset-required-topology": "rack",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
        },
    )
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"
    assert "team" not in made["metadata"]["labels"]
    topology = {"kueue.x-k8s.io/podset-required-topology": "rack"}
    assert made["metadata"]["annotations"] == topology | {
        GENERATION_ANNOTATION: "1",
        MADE_FROM_ANNOTATION: "generation=1,storage=60673317",
    }
    assert made["spec"]["template"]["metadata"]["annotations"] == topology


def test_the_pod_is_restricted_and_has_no_token() -> None:
    pod = pod_of(built(("template.serviceAccountName", "with-s3")))
    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == "with-s3"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    security = container(built())["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}


def test_what_the_user_chose_is_there_and_what_not_is_left_out() -> None:
    changed = built(
        ("template.image", "other:2"),
        ("template.imagePullPolicy", "Always"),
        ("template.imagePullSecrets", [{"name": "pull"}]),
        ("template.resources", {"limits": {"nvidia.com/gpu": 1, "memory": "16Gi"}}),
        ("template.nodeSelector", {"gpu": "h200"}),
        ("template.tolerations", [{"key": "nvidia.com/gpu", "operator": "Exists"}]),
        ("template.affinity", {"nodeAffinity": {}}),
        ("template.priorityClassName", "batch"),
        ("template.schedulerName", "volcano"),
        ("template.runtimeClassName", "nvidia"),
        ("template.scratchSize", "20Gi"),
    )
    pod, main = pod_of(changed), container(changed)
    assert (main["image"], main["imagePullPolicy"]) == ("other:2", "Always")
    assert main["resources"] == {"limits": {"nvidia.com/gpu": 1, "memory": "16Gi"}}
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["nodeSelector"] == {"gpu": "h200"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert pod["affinity"] == {"nodeAffinity": {}}
    assert (pod["priorityClassName"], pod["schedulerName"], pod["runtimeClassName"]) == (
        "batch",
        "volcano",
        "nvidia",
    )
    assert pod["volumes"][0]["emptyDir"] == {"sizeLimit": "20Gi"}
    plain = pod_of(built())
    assert plain["volumes"][0]["emptyDir"] == {"sizeLimit": "7Gi"}
    assert container(built())["image"] == "registry.example/quantizer:1"
    assert not {"nodeSelector", "tolerations", "affinity", "priorityClassName"} & plain.keys()


def test_volumes_are_mounted() -> None:
    volumes = [
        {
            "name": "models",
            "mountPath": "/models",
            "readOnly": True,
            "persistentVolumeClaim": {"claimName": "m"},
        },
        {"name": "text", "mountPath": "/text", "configMap": {"name": "t"}},
    ]
    made = built(("template.volumes", volumes))
    assert pod_of(made)["volumes"][1:] == [
        {"name": "models", "persistentVolumeClaim": {"claimName": "m", "readOnly": True}},
        {"name": "text", "configMap": {"name": "t"}},
    ]
    assert container(made)["volumeMounts"][1:] == [
        {"name": "models", "mountPath": "/models", "readOnly": True},
        {"name": "text", "mountPath": "/text"},
    ]


def test_the_job_belongs_to_the_quantization_job() -> None:
    (owner,) = built()["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == (UID, True, True)


def image_for(implementation: str, image: str | None = None) -> str:
    body = quantization_job(*([("template.image", image)] if image else []))
    spec = QuantizationJobSpec.model_validate(body["spec"])
    chosen = [item.model_copy(update={"implementation": implementation}) for item in spec.workflow.passes]
    workflow = spec.workflow.model_copy(update={"passes": chosen})
    manifest = build(QuantizationJob.of(body), spec.model_copy(update={"workflow": workflow}), SETTINGS)
    return str(container(manifest)["image"])


@pytest.mark.parametrize(
    ("implementation", "image"),
    [
        ("native", "registry.example/quantizer:1"),
        ("auto-gptq", "registry.example/quantizer-legacy:1"),
        ("autoawq", "registry.example/quantizer-legacy:1"),
    ],
)
def test_a_pass_by_a_stock_package_gets_the_image_that_has_it(implementation: str, image: str) -> None:
    assert image_for(implementation) == image
    assert image_for(implementation, "registry.example/own:2") == "registry.example/own:2"


SIX_POINTS = (BITS, dimension("group_size", 32, 64, 128))


@pytest.mark.parametrize(
    ("strategy", "parallelism", "expected"),
    [
        ({}, 4, 4),
        ({}, 64, 6),
        ({"max_samples": 24}, 64, 6),
        ({"max_samples": 3}, 64, 3),
        ({}, 1, None),
        ({"max_samples": 1}, 8, None),
    ],
    ids=[
        "as asked",
        "no more than points",
        "nor with more samples",
        "no more than samples",
        "one",
        "one sample",
    ],
)
def test_a_search_has_the_workers_that_are_asked_for_and_no_idle_ones(
    strategy: dict[str, Any], parallelism: int, expected: int | None
) -> None:
    made = built(NAMED_PASS, search(*SIX_POINTS, **strategy), ("parallelism", parallelism))
    counts = {key: made["spec"].get(key) for key in ("completionMode", "completions", "parallelism")}
    mode = None if expected is None else "Indexed"
    assert counts == {"completionMode": mode, "completions": expected, "parallelism": expected}
    body = child() | {"spec": made["spec"]}
    assert ChildJob.of(body).workers == (expected or 1)


def test_all_workers_are_asked_for_the_same() -> None:
    several, one = (built(NAMED_PASS, search(*SIX_POINTS), ("parallelism", count)) for count in (4, 1))
    assert several["spec"]["template"] == one["spec"]["template"]
    for key in ("backoffLimit", "podFailurePolicy", "podReplacementPolicy"):
        assert several["spec"][key] == one["spec"][key]


@pytest.mark.parametrize(
    ("spec", "workers"),
    [
        ({"completionMode": "Indexed", "completions": 4, "parallelism": 2}, 2),
        ({"completionMode": "Indexed", "completions": 4, "parallelism": 0}, 1),
        ({"completionMode": "Indexed", "parallelism": "many"}, 1),
        ({"parallelism": 4}, 1),
        ({}, 1),
    ],
    ids=["lowered by its queue", "stopped by hand", "nonsense", "without numbers", "nothing"],
)
def test_the_workers_of_a_job_are_read_from_it(spec: dict[str, Any], workers: int) -> None:
    assert ChildJob.of(child() | {"spec": spec}).workers == workers
