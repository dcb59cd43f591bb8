"""Manifests in files: the same sentences as the API server's, and paths of this machine."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.invalid import Invalid
from tests.support.invalid_manifests import INVALID
from tests.support.manifests import PASS, VALID, manifest

from quantization_api.failures import ExitCode, QuantizationError
from quantization_api.passes import AutoAWQQuantizer, GptqQuantizer
from quantization_api.spec import QuantizationJobSpec
from quantizer.cli import parser
from quantizer.cli.manifest_file import load_request
from quantizer.implementations import model_types

pytestmark = pytest.mark.unit

EXAMPLES = Path(__file__).resolve().parents[4] / "deploy/examples"
DOCUMENTED_DATA = (("workflow.data_configs.0.name", "wikitext2_train"),)


def written(tmp_path: Path, *documents: object) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


def test_a_valid_manifest_becomes_a_request(tmp_path: Path) -> None:
    request = load_request(written(tmp_path, VALID))
    assert request.name == "job"
    assert request.output.uri == VALID["spec"]["output"]["uri"]
    assert request.storage.endpoint == VALID["spec"]["storage"]["endpoint"]
    assert "credentials" not in request.model_dump_json().lower()


def test_who_would_believe_another_job_looks_for_its_artifact_when_he_runs(tmp_path: Path) -> None:
    request = load_request(written(tmp_path, manifest(("reuse", "Trusted"))))
    assert request.reuse == "Allowed"


@pytest.mark.parametrize("case", [c for c in INVALID if c.client_sentence], ids=lambda c: c.name)
def test_an_invalid_manifest_gets_the_api_servers_sentence(case: Invalid, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError) as caught:
        load_request(written(tmp_path, manifest(*case.changes)))
    assert case.client_sentence is not None
    assert case.client_sentence.lower() in caught.value.message.lower()
    assert caught.value.exit_code == ExitCode.INVALID_WORKFLOW


@pytest.mark.parametrize("name", ["gptq-stories15m.yaml", "gptq-stories15m-local.yaml"])
def test_the_examples_are_valid(name: str) -> None:
    request = load_request(EXAMPLES / name)
    assert request.workflow.passes[0].type == "GptqQuantizer"


@pytest.mark.parametrize(
    ("name", "documented", "changed"),
    [
        ("olive-gptq.yaml", {"type": "GptqQuantizer", "data_config": "wikitext2_train"}, {"group_size": 32}),
        ("olive-awq.yaml", {"type": "AutoAWQQuantizer", "w_bit": 4}, {"q_group_size": 32}),
        (
            "olive-quarot.yaml",
            {
                "type": "QuaRot",
                "w_rtn": True,
                "rotate": True,
                "w_bits": 4,
                "a_bits": 4,
                "k_bits": 4,
                "v_bits": 4,
            },
            {},
        ),
    ],
)
def test_the_documented_configurations_are_changed_only_where_the_small_model_needs_it(
    name: str, documented: dict[str, Any], changed: dict[str, Any]
) -> None:
    assert yaml.safe_load((EXAMPLES / name).read_text())["spec"]["workflow"]["passes"] == [
        documented | changed
    ]
    assert load_request(EXAMPLES / name).workflow.passes[0].type == documented["type"]
    QuantizationJobSpec.model_validate(manifest(*DOCUMENTED_DATA, (PASS, documented))["spec"])


def test_the_example_of_a_rotation_before_gptq_is_valid() -> None:
    passes = load_request(EXAMPLES / "olive-quarot-gptq.yaml").workflow.passes
    assert [item.type for item in passes] == ["QuaRot", "GptqQuantizer"]


@pytest.mark.parametrize("package", ["auto-gptq", "autoawq"])
def test_the_examples_of_the_stock_packages_are_what_these_can_do(package: str) -> None:
    (parameters,) = load_request(EXAMPLES / f"stock-{package}.yaml").workflow.passes
    assert isinstance(parameters, GptqQuantizer | AutoAWQQuantizer)
    assert parameters.implementation == package
    model_types.check_model(
        package, json.loads((EXAMPLES / "stories15m/config.json").read_text())["model_type"]
    )


@pytest.mark.parametrize("group_size", [128, 64])
def test_the_group_sizes_that_the_examples_avoid_do_not_fit_the_model(group_size: int) -> None:
    config = json.loads((EXAMPLES / "stories15m/config.json").read_text())
    assert config["hidden_size"] % group_size
    assert config["hidden_size"] % 32 == config["intermediate_size"] % 32 == 0


def test_relative_paths_are_relative_to_the_file() -> None:
    request = load_request(EXAMPLES / "gptq-stories15m-local.yaml")
    assert request.workflow.input_model.model_path == f"file://{EXAMPLES}/stories15m"
    assert request.workflow.data_configs[0].load_dataset_config.data_name.startswith(
        f"file://{EXAMPLES}/text/"
    )
    assert request.output.uri == f"file://{EXAMPLES.parents[1]}/out/stories15m-gptq"


def test_both_examples_compute_the_same() -> None:
    cluster, local = (
        load_request(EXAMPLES / name).workflow.model_dump(exclude={"input_model", "data_configs"})
        for name in ("gptq-stories15m.yaml", "gptq-stories15m-local.yaml")
    )
    assert cluster == local


def test_the_endpoint_of_the_cluster_can_be_replaced(tmp_path: Path) -> None:
    request = load_request(written(tmp_path, VALID), endpoint="http://127.0.0.1:9000", region="here")
    assert (request.storage.endpoint, request.storage.region) == ("http://127.0.0.1:9000", "here")


def test_a_file_with_anything_else_is_refused(tmp_path: Path) -> None:
    wrong: list[tuple[tuple[object, ...], str]] = [
        ((), "contains 0 documents"),
        ((VALID, VALID), "contains 2 documents"),
        (({**VALID, "kind": "Job"},), "expected quantization.dev/v1alpha1 QuantizationJob"),
        (({**VALID, "metadata": {}},), "metadata.name: field required"),
        (({**VALID, "specc": {}},), 'unknown field "specc"'),
    ]
    for documents, sentence in wrong:
        with pytest.raises(QuantizationError) as caught:
            load_request(written(tmp_path, *documents))
        assert sentence in caught.value.message
    (tmp_path / "job.yaml").write_text("a: [")
    with pytest.raises(QuantizationError, match="is not YAML"):
        load_request(tmp_path / "job.yaml")


def test_a_field_is_named_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(QuantizationError) as caught:
        load_request(written(tmp_path, manifest(("workflow.passes.0.bits", "many"))))
    assert caught.value.message.startswith("spec.workflow.passes[0].bits: ")


def test_a_manifest_that_is_not_there_ends_with_66(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parser.main(["run", "-f", str(tmp_path / "no.yaml")]) == ExitCode.NOT_FOUND
    assert "no.yaml" in capsys.readouterr().err
