"""Defaults of the cluster and classes of resources: what a job says itself wins, and its status says what did not."""

from pathlib import Path
from typing import Any

import pytest
from tests.support.cluster_objects import child, quantization_job
from tests.support.decisions import NOW, Case, observe

from quantization_api.failures import Category
from quantization_api.spec import QuantizationJobSpec
from quantization_api.status import Failure
from quantization_operator.defaults import LEAST_RETENTION, Beside, Defaults, Given, given
from quantization_operator.defaults_file import LOOK_SECONDS, DefaultsError, DefaultsFile, read
from quantization_operator.reconcile import reconcile
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import FINALIZER, ChildJob

pytestmark = pytest.mark.unit

QUEUE = "kueue.x-k8s.io/queue-name"
SHIPPED = Path(__file__).parents[3] / "deploy/base/defaults.yaml"
DEFAULTS = Defaults.model_validate(
    {
        "template": {
            "imagePullSecrets": [{"name": "registry"}],
            "nodeSelector": {"pool": "gpu", "zone": "a"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "serviceAccountName": "quantizer",
            "resources": {"requests": {"cpu": "1", "memory": "8Gi"}},
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}],
        },
        "storage": {"endpoint": "http://s3.cluster:1", "region": "eu", "credentialsSecret": {"name": "s3"}},
        "queueName": "quantization",
        "ttlSecondsAfterFinished": 86400,
        "resourceClasses": {
            "8b": {"resources": {"limits": {"memory": "16Gi", "nvidia.com/gpu": 1}}, "scratchSize": "30Gi"}
        },
    }
)


def spec_of(*changes: tuple[str, Any]) -> QuantizationJobSpec:
    without = ("storage", {})
    return QuantizationJobSpec.model_validate(quantization_job(without, *changes)["spec"])


def resolved(*changes: tuple[str, Any], defaults: Defaults = DEFAULTS) -> Given:
    found = given(spec_of(*changes), defaults, {})
    assert isinstance(found, Given), found
    return found


def template(*changes: tuple[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = resolved(*changes).spec.template.model_dump(
        by_alias=True, exclude_unset=True, exclude_none=True
    )
    return found


def test_a_job_that_says_nothing_gets_everything_and_is_told() -> None:
    found = resolved()
    assert template() == DEFAULTS.template.model_dump(by_alias=True, exclude_unset=True, exclude_none=True)
    assert found.spec.storage.endpoint == "http://s3.cluster:1"
    assert found.beside == Beside(
        "template.imagePullSecrets, template.env, template.resources, template.nodeSelector, template.tolerations, "
        "template.serviceAccountName, storage.endpoint, storage.region, storage.credentialsSecret, queueName, "
        "ttlSecondsAfterFinished",
        {QUEUE: "quantization"},
        {"ttlSecondsAfterFinished": 86400},
    )


@pytest.mark.parametrize(
    ("field", "own", "expected"),
    [
        ("nodeSelector", {"zone": "b"}, {"pool": "gpu", "zone": "b"}),
        ("tolerations", [], []),
        ("tolerations", [{"key": "spot"}], [{"key": "spot"}]),
        ("imagePullSecrets", [{"name": "own"}], [{"name": "registry"}, {"name": "own"}]),
        ("serviceAccountName", "own", "own"),
        ("env", [{"name": "B", "value": "2"}], [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]),
        (
            "resources",
            {"limits": {"memory": "4Gi"}},
            {"requests": {"cpu": "1"}, "limits": {"memory": "4Gi"}},
        ),
    ],
)
def test_what_a_job_says_itself_wins(field: str, own: Any, expected: Any) -> None:
    assert template((f"template.{field}", own))[field] == expected


def test_a_storage_of_ones_own_takes_no_secret_of_another_one() -> None:
    storage = resolved(("storage", {"endpoint": "http://own:1"})).spec.storage
    assert (storage.endpoint, storage.region, storage.credentials_secret) == ("http://own:1", None, None)
    storage = resolved(("storage", {"credentialsSecret": {"name": "own"}})).spec.storage
    assert storage.endpoint == "http://s3.cluster:1"
    assert storage.credentials_secret is not None
    assert storage.credentials_secret.name == "own"


def test_a_class_stands_between_the_job_and_the_defaults() -> None:
    found = resolved(("resourceClass", "8b"), ("template.scratchSize", "50Gi"))
    assert template(("resourceClass", "8b"))["resources"] == {
        "requests": {"cpu": "1"},
        "limits": {"memory": "16Gi", "nvidia.com/gpu": 1},
    }
    assert found.spec.template.scratch_size == "50Gi"
    assert "template.resources (resourceClass 8b)" in found.beside.told
    assert "scratchSize" not in found.beside.told


def test_a_queue_of_the_job_stays() -> None:
    found = given(spec_of(), DEFAULTS, {QUEUE: "own"})
    assert isinstance(found, Given)
    assert found.beside.queue_labels == {}


def test_without_defaults_a_job_is_as_it_was() -> None:
    spec = spec_of()
    assert given(spec, Defaults(), {}) == Given(spec)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([("resourceClass", "400b")], "spec.resourceClass: there is no class 400b here; there are: 8b"),
        (
            [
                (
                    "template.volumes",
                    [{"name": "mine", "mountPath": "/models", "persistentVolumeClaim": {"claimName": "c"}}],
                )
            ],
            "with the defaults of the cluster, spec.template: two volumes have the same mountPath",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_a_sentence(
    changes: list[tuple[str, Any]], sentence: str
) -> None:
    volume = {"name": "models", "mountPath": "/models", "configMap": {"name": "m"}}
    defaults = DEFAULTS.model_copy(
        update={"template": type(DEFAULTS.template).model_validate({"volumes": [volume]})}
    )
    found = given(spec_of(*changes), defaults, {})
    assert isinstance(found, Failure)
    assert found.category is Category.INVALID_WORKFLOW
    assert sentence in found.message
    assert found.hint


def decided(*changes: tuple[str, Any], **more: Any) -> Any:
    case = Case(qjob=quantization_job(*changes), more={"defaults": DEFAULTS, **more}, rule="")
    return reconcile(observe(case), OperatorSettings(), NOW)


def test_the_job_is_made_with_the_defaults_and_remembers_them() -> None:
    made = decided(("storage", {}), ("resourceClass", "8b")).create
    assert made["metadata"]["labels"][QUEUE] == "quantization"
    assert made["spec"]["ttlSecondsAfterFinished"] == 86400
    assert made["spec"]["template"]["spec"]["serviceAccountName"] == "quantizer"
    stored = made | {"metadata": child()["metadata"] | {"annotations": made["metadata"]["annotations"]}}
    assert "template.resources (resourceClass 8b)" in ChildJob.of(stored).defaults


def test_the_status_says_which_defaults_the_job_has() -> None:
    told = "template.nodeSelector, queueName"
    with_defaults = child(annotations={"quantization.dev/defaults": told})
    case = Case(child=with_defaults, rule="", more={"warnings": ()})
    status = reconcile(observe(case), OperatorSettings(), NOW).status
    assert status is not None
    assert status.defaults == told


def test_a_class_that_is_not_there_fails_the_job_with_those_that_are() -> None:
    status = decided(("resourceClass", "400b")).status
    assert status.phase == "Failed"
    assert "there are: 8b" in status.failure.message


def test_the_artifact_is_removed_with_the_same_storage() -> None:
    body = quantization_job(("storage", {}), ("artifactPolicy", "Delete"), finalizers=[FINALIZER])
    body["metadata"]["deletionTimestamp"] = "2026-01-01T10:00:00Z"
    body["status"] = {"jobName": "x", "progress": {"percent": 40}}
    case = Case(qjob=body, more={"defaults": DEFAULTS, "fresh": True}, rule="")
    made = reconcile(observe(case), OperatorSettings(), NOW).create
    assert made is not None
    assert "--endpoint=http://s3.cluster:1" in made["spec"]["template"]["spec"]["containers"][0]["args"]
    assert made["metadata"]["labels"][QUEUE] == "quantization"


# --- the file -------------------------------------------------------------------------------------------------


def test_the_shipped_file_has_the_classes_of_the_sizes_that_the_documents_name() -> None:
    assert set(read(SHIPPED).resource_classes) == {"small", "8b", "70b"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("template: [", "is not YAML"),
        ("templates: {}", "templates"),
        ("template: {hostNetwork: true}", "hostNetwork: pods of jobs are restricted"),
        (f"ttlSecondsAfterFinished: {LEAST_RETENTION - 1}", "ttlSecondsAfterFinished"),
        ("storage: {endpoint: s3}", "storage.endpoint must be http(s)://HOST"),
        ("- a", "defaults"),
        ("template: {image: x}", "QUANTIZATION_OPERATOR_QUANTIZER_IMAGE"),
        ("resourceClasses: {8b: {image: x}}", "QUANTIZATION_OPERATOR_LEGACY_IMAGE"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_reason(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "defaults.yaml"
    path.write_text(text)
    with pytest.raises(DefaultsError) as error:
        read(path)
    assert sentence in str(error.value)
    assert str(path) in str(error.value)


def test_no_file_and_an_empty_one_give_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read(tmp_path / "none.yaml") == read(tmp_path / "empty.yaml") == Defaults()


class Watched:
    """A file of defaults with a clock of its own, and what was told of its readings."""

    def __init__(self, path: Path) -> None:
        self.path, self.time, self.told = path, 0.0, list[bool]()
        self.file = DefaultsFile(str(path), lambda: self.time, self.told.append)

    def queue_after(self, text: str | None, seconds: float = LOOK_SECONDS) -> str | None:
        """Write the file as a kubelet does, by another link, or remove it; the queue in force after some seconds."""
        if text is None:
            self.path.unlink()
        else:
            other = self.path.with_suffix(".new")
            other.write_text(text)
            other.replace(self.path)
        self.time += seconds
        return self.file().queue_name


def test_a_changed_file_is_used_without_a_restart_and_a_broken_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "defaults.yaml"
    path.write_text("queueName: one")
    watched = Watched(path)
    assert watched.file().queue_name == "one"
    assert watched.queue_after("queueName: other", seconds=LOOK_SECONDS / 2) == "one", "not looked at yet"
    assert watched.queue_after("queueName: two") == "two"
    assert watched.queue_after("queueNames: three") == "two"
    assert watched.told == [True, True, False]
    assert watched.queue_after("queueName: four") == "four"
    assert watched.queue_after(None) is None, "a ConfigMap that is gone gives nothing"


def test_a_file_that_is_broken_at_the_start_stops_the_operator(tmp_path: Path) -> None:
    path = tmp_path / "defaults.yaml"
    path.write_text("queueNames: one")
    with pytest.raises(DefaultsError, match="queueNames"):
        Watched(path)
