"""Which software serves a result: the whole table, with Pythons that have this or that."""

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from quantization_api.failures import Category, QuantizationError
from quantizer.evaluation.serving.software import Pythons, Result, choose, choose_for_input
from quantizer.passes.written import Written
from quantizer.report.readers import readers

pytestmark = pytest.mark.unit


@dataclass(frozen=True)
class Having(Pythons):
    """Pythons that have these packages, and nothing else."""

    packages: Collection[str] = field(default=())

    def has(self, _: str, packages: Sequence[str]) -> bool:
        return set(packages) <= {"transformers", *self.packages}


def result(
    layout: str, bits: int = 4, *, on_gpu: bool = False, is_graph: bool = False, **fields: Any
) -> Result:
    written = Written(layout, bits, fields.pop("group_size", 32), fields.pop("symmetric", True), **fields)
    return Result(written, readers(written), on_gpu, is_graph)


ALL = ("vllm", "optimum", "gptqmodel", "accelerate", "compressed-tensors", "onnxruntime-genai")
GPTQ, FLOAT = result("gptq"), result("float", 16)
PACKED = result("compressed-tensors")
CHOSEN: list[tuple[str, str | None, Result, Collection[str], str]] = [
    ("vLLM where it is", None, PACKED, ALL, "vllm"),
    ("auto is the same", "auto", PACKED, ALL, "vllm"),
    ("transformers where it is not", None, PACKED, ("accelerate", "compressed-tensors"), "transformers"),
    ("transformers if asked for", "transformers", PACKED, ALL, "transformers"),
    ("vLLM has no 8 bits on a processor", None, result("compressed-tensors", 8), ALL, "transformers"),
    ("it has them on a GPU", None, result("compressed-tensors", 8, on_gpu=True), ALL, "vllm"),
    ("floats need nothing", None, FLOAT, (), "transformers"),
    ("a graph", None, result("gptq", is_graph=True), ALL, "onnxruntime"),
    ("the checkpoint beside a graph", "transformers", result("gptq", is_graph=True), ALL, "transformers"),
    ("gptq in transformers", None, GPTQ, ("optimum", "gptqmodel"), "transformers"),
]


@pytest.mark.parametrize(
    ("asked", "given", "packages", "software"),
    [case[1:] for case in CHOSEN],
    ids=[case[0] for case in CHOSEN],
)
def test_the_best_software_that_is_there_serves_it(
    asked: str | None, given: Result, packages: Collection[str], software: str
) -> None:
    assert choose(asked, given, Having(packages=packages)) == software


REFUSED: list[tuple[str, str | None, Result, Collection[str], str, str]] = [
    (
        "gptq alone",
        None,
        GPTQ,
        (),
        "transformers needs optimum and gptqmodel to load it",
        "_TRANSFORMERS_PYTHON",
    ),
    (
        "no vLLM",
        "vllm",
        PACKED,
        ("accelerate", "compressed-tensors"),
        "vLLM is not installed",
        "software: transf",
    ),
    ("no graph", "onnxruntime", GPTQ, ALL, "passes end without one", "software: "),
    (
        "code of its own",
        None,
        result("quarot"),
        ALL,
        "does not read llama models in the format quarot",
        "Leave",
    ),
    (
        "8 bits",
        "vllm",
        result("compressed-tensors", 8),
        ALL,
        "no kernels for 8 bits on a processor",
        "software: t",
    ),
    ("no ONNX", None, result("gptq", is_graph=True), (), "onnxruntime-genai is not installed", "Leave"),
]


@pytest.mark.parametrize(
    ("asked", "given", "packages", "said", "hint"),
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
def test_what_nothing_serves_is_refused_with_what_to_write_instead(
    asked: str | None, given: Result, packages: Collection[str], said: str, hint: str
) -> None:
    with pytest.raises(QuantizationError) as error:
        choose(asked, given, Having(packages=packages))
    assert error.value.category is Category.INVALID_WORKFLOW
    assert said in error.value.message
    assert hint in error.value.hint


def test_the_input_model_of_a_graph_is_served_by_transformers() -> None:
    assert choose_for_input("onnxruntime", Having()) == "transformers"
    assert choose_for_input("vllm", Having(packages=["vllm"])) == "vllm"


def test_this_python_is_asked_for_what_it_has() -> None:
    pythons = Pythons()
    assert pythons.of("vllm") == sys.executable
    assert pythons.has("transformers", ("transformers",))
    assert pythons.has("onnxruntime", ("onnxruntime-genai",))
    assert not pythons.has("vllm", ("vllm",))


def test_a_python_that_does_not_run_is_named_with_its_variable() -> None:
    with pytest.raises(QuantizationError, match="/no/python, does not run") as error:
        Pythons({"vllm": "/no/python"}).has("vllm", ("vllm",))
    assert "QUANTIZATION_VLLM_PYTHON" in error.value.hint


def test_a_server_gets_no_credentials_and_another_python_not_the_paths_of_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    pythons = Pythons({"vllm": "/other/python"})
    assert "AWS_SECRET_ACCESS_KEY" not in pythons.environment("transformers")
    assert pythons.environment("transformers")["PYTHONPATH"] == "/somewhere"
    assert "PYTHONPATH" not in pythons.environment("vllm")
