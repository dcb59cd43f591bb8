"""The contract without a cluster: what a manifest may say, and what is answered when it may not."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.support.invalid import Invalid
from tests.support.invalid_manifests import INVALID
from tests.support.manifests import PASS, manifest
from tests.support.valid_changes import VALID_CHANGES
from tests.support.whole_contract import WHOLE_INVALID, WHOLE_VALID

from quantization_api import ENGINE_VERSION, crd, reference
from quantization_api.failures import CATALOGUE, PERMANENT_EXIT_CODES, Category, ExitCode, QuantizationError
from quantization_api.faults import sentences
from quantization_api.passes import PASS_TYPES
from quantization_api.pod import MAX_RESULT_BYTES, RunRequest, RunResult
from quantization_api.recipe import canonical_workflow, recipe_digest
from quantization_api.rules import ContractModel, Rule
from quantization_api.spec import QuantizationJobSpec
from quantization_api.status import Artifact, Failure, MetricResult
from quantization_api.workflow import Workflow

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]


def spec(*changes: tuple[str, object]) -> QuantizationJobSpec:
    return QuantizationJobSpec.model_validate(manifest(*changes)["spec"])


@pytest.mark.parametrize("case", [c for c in INVALID if c.client_sentence], ids=lambda c: c.name)
def test_an_invalid_manifest_is_refused_with_its_sentence(case: Invalid) -> None:
    with pytest.raises(ValidationError) as error:
        spec(*case.changes)
    assert case.client_sentence is not None
    assert case.client_sentence.lower() in "; ".join(sentences(error.value, "spec")).lower()


@pytest.mark.parametrize("name", VALID_CHANGES)
def test_a_valid_manifest_is_accepted(name: str) -> None:
    spec(*VALID_CHANGES[name])


@pytest.mark.parametrize("case", [c for c in WHOLE_INVALID if c.client_sentence], ids=lambda c: c.name)
def test_invalid_passes_are_refused_with_their_sentence(case: Invalid) -> None:
    with pytest.raises(ValidationError) as error:
        spec(*case.changes)
    assert case.client_sentence is not None
    assert case.client_sentence.lower() in "; ".join(sentences(error.value, "spec")).lower()


@pytest.mark.parametrize("name", WHOLE_VALID)
def test_valid_passes_are_accepted(name: str) -> None:
    spec(*WHOLE_VALID[name])


def test_no_two_manifests_of_the_tables_have_one_name() -> None:
    assert len({case.name for case in (*INVALID, *WHOLE_INVALID)}) == len(INVALID) + len(WHOLE_INVALID)


def test_every_refusal_is_met_by_a_manifest() -> None:
    """A rule that no manifest of the tables breaks is a rule that nobody has seen work."""
    tables = [rule for cls in PASS_TYPES for rule in cls.rules()]
    sentences = {rule.message for rule in (*tables, *Workflow.rules()) if not rule.dynamic}
    met: set[str] = set()
    for case in (*INVALID, *WHOLE_INVALID):
        try:
            spec(*case.changes)
        except ValidationError as error:
            met |= {sentence for sentence in sentences if sentence in str(error)}
    assert not sentences - met


def test_the_rules_of_a_model_are_made_once_and_hold_each_time() -> None:
    made: list[type[ContractModel]] = []

    class Small(ContractModel):
        size: int

        @classmethod
        def rules(cls) -> tuple[Rule, ...]:
            made.append(cls)
            return (
                Rule("self.size > 0", "too small", lambda small: None if small.size > 0 else "too small"),
            )

    class Smaller(Small):
        pass

    for model in (Small, Small, Smaller, Smaller):
        model(size=1)
        with pytest.raises(ValidationError, match="too small"):
            model(size=0)
    assert made == [Small, Smaller]


def test_the_generated_files_are_fresh() -> None:
    assert (ROOT / "crds/quantizationjobs.yaml").read_text() == crd.render(), "run `make generate`"
    assert (ROOT / "docs/api.md").read_text() == reference.api_page(), "run `make generate`"
    assert (ROOT / "docs/failures.md").read_text() == reference.failures_page(), "run `make generate`"


def test_every_category_has_its_page_entry_and_a_cure() -> None:
    assert set(CATALOGUE) == set(Category)
    assert all(entry.cause and entry.cure for entry in CATALOGUE.values())


def test_an_exit_code_is_permanent_or_retried_never_both() -> None:
    permanent = {e.exit_code for e in CATALOGUE.values() if e.permanent and e.exit_code is not None}
    retried = {e.exit_code for e in CATALOGUE.values() if not e.permanent and e.exit_code is not None}
    assert not permanent & retried
    assert ExitCode.TRY_AGAIN not in PERMANENT_EXIT_CODES
    assert ExitCode.TERMINATED not in PERMANENT_EXIT_CODES


def test_an_error_without_a_hint_has_the_catalogues() -> None:
    error = QuantizationError(Category.ACCESS_DENIED, "refused")
    assert error.hint == CATALOGUE[Category.ACCESS_DENIED].cure
    assert error.exit_code is ExitCode.ACCESS_DENIED


def test_the_recipe_does_not_depend_on_where_and_how() -> None:
    one = spec().workflow
    other = spec(("output.uri", "s3://other/place"), ("backoffLimit", 1)).workflow
    assert recipe_digest(one, "sha256:a") == recipe_digest(other, "sha256:a")


def test_a_default_written_out_gives_the_same_recipe() -> None:
    assert canonical_workflow(spec().workflow) == canonical_workflow(spec((f"{PASS}.bits", 4)).workflow)


def test_the_order_of_data_configs_does_not_change_the_recipe() -> None:
    reordered = manifest()["spec"]
    reordered["workflow"]["data_configs"].reverse()
    assert canonical_workflow(QuantizationJobSpec.model_validate(reordered).workflow) == canonical_workflow(
        spec().workflow
    )


@pytest.mark.parametrize(
    "change",
    [
        (f"{PASS}.bits", 3),
        (f"{PASS}.sym", True),
        ("workflow.passes", [{"type": "QuaRot"}, *manifest()["spec"]["workflow"]["passes"]]),
        ("workflow.data_configs.0.pre_process_data_config.max_samples", 17),
    ],
)
def test_what_changes_the_result_changes_the_recipe(change: tuple[str, object]) -> None:
    assert recipe_digest(spec().workflow, "sha256:a") != recipe_digest(spec(change).workflow, "sha256:a")


def test_another_model_or_engine_gives_another_recipe() -> None:
    workflow = spec().workflow
    digests = {
        recipe_digest(workflow, "sha256:a"),
        recipe_digest(workflow, "sha256:b"),
        recipe_digest(workflow, "sha256:a", ENGINE_VERSION + "1"),
    }
    assert len(digests) == 3


def test_the_request_has_what_the_pod_needs_and_no_secret() -> None:
    request = RunRequest.from_spec("job", "default", "uid", spec())
    text = request.model_dump_json(by_alias=True, exclude_none=True)
    assert RunRequest.model_validate_json(text) == request
    assert "credentials" not in text


@pytest.mark.parametrize(
    ("asked", "told"), [("Allowed", "Allowed"), ("Trusted", "Allowed"), ("Never", "Never")]
)
def test_a_pod_that_is_started_looks_for_the_result_unless_it_may_not(asked: str, told: str) -> None:
    """Also an older image, which knows no other words."""
    assert RunRequest.from_spec("job", "default", "uid", spec(("reuse", asked))).reuse == told


@given(message=st.text(max_size=1024), hint=st.text(max_size=1024), reader=st.text(max_size=256))
def test_a_result_always_fits_a_termination_message(message: str, hint: str, reader: str) -> None:
    artifact = Artifact(
        uri="s3://b/" + "k" * 1000,
        manifest_digest="sha256:" + "0" * 64,
        size_bytes=1,
        compression_ratio=1,
        bits_per_weight=4,
        readers=[reader] * 16,
    )
    result = RunResult(
        artifact=artifact,
        metrics=[MetricResult(name="m" * 63, input=1 / 3, output=1 / 3)] * 16,
        failure=Failure(category=Category.INTERNAL, message=message, hint=hint),
    )
    text = result.to_message()
    assert len(text.encode()) <= MAX_RESULT_BYTES
    assert RunResult.model_validate_json(text).failure.category is Category.INTERNAL


def test_what_served_a_model_is_cut_before_a_result_is_lost() -> None:
    numbers = {"input": 1 / 3, "output": 1 / 3, "low": 1 / 3, "high": 1 / 3}
    result = RunResult(
        artifact=Artifact(
            uri="s3://b/" + "k" * 500,
            manifest_digest="sha256:" + "0" * 64,
            size_bytes=1,
            compression_ratio=1,
            bits_per_weight=4,
            readers=["vLLM"] * 8,
        ),
        metrics=[MetricResult(name="m" * 63, measured_with="vLLM " + "x" * 251, **numbers)] * 8,
    )
    text = result.to_message()
    assert len(text.encode()) <= MAX_RESULT_BYTES
    kept = RunResult.model_validate_json(text)
    assert kept.artifact == result.artifact
    assert [item.output for item in kept.metrics] == [1 / 3] * 8
    assert all(str(item.measured_with).startswith("vLLM x") for item in kept.metrics)
