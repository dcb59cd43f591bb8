"""`quantizer.quantize`, and what `pip install .[quantizer]` has to bring with it."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from tests.support.engine import save_tiny_reader

import quantizer
from quantization_api.failures import Category, QuantizationError

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[3]
OURS = {"quantizer", "quantization_api"}
NOT_NEEDED = {"auto_gptq", "awq", "triton", "datasets", "accelerate", "vllm"}
"""Of the stock packages' image, of a server's own environment, and of machines with a GPU, where torch brings it."""
BROUGHT_BY_THOSE = {
    "botocore",
    "s3transfer",
    "tokenizers",
    "huggingface_hub",
    "pydantic_core",
    "mypy_boto3_s3",
}
"""By boto3, transformers and pydantic; the last holds only types."""


def test_a_call_quantizes_a_model_and_says_how_it_goes(tmp_path: Path) -> None:
    save_tiny_reader(tmp_path / "float")
    said: list[str] = []
    outcome = quantizer.quantize(
        tmp_path / "float", tmp_path / "out", bits=4, group_size=16, scratch=tmp_path, say=said.append
    )
    assert outcome.result.artifact is not None
    assert outcome.result.artifact.uri == f"file://{tmp_path}/out"
    assert (tmp_path / "out/model/config.json").is_file()
    assert any(line.startswith("quantize: layer 2 of 2 in ") for line in said), said


def test_what_is_wrong_is_raised_with_a_category_and_a_hint(tmp_path: Path) -> None:
    with pytest.raises(QuantizationError) as caught:
        quantizer.quantize(tmp_path / "no", tmp_path / "out")
    assert caught.value.category is Category.MODEL_NOT_FOUND
    assert caught.value.hint_here == "Check the path; nothing is downloaded from a hub."


def test_the_package_has_no_other_name() -> None:
    with pytest.raises(AttributeError, match="quantise"):
        quantizer.quantise  # noqa: B018


def test_whatever_the_quantizer_imports_is_installed_with_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = project["dependencies"] + project["optional-dependencies"]["quantizer"]
    names = {_normal(re.split(r"[\[<>=!~; ]", each)[0]) for each in required}
    distributions = packages_distributions()
    missing = {
        module
        for package in ("jobimage/quantizer", "crds/quantization_api")
        for path in (ROOT / package).rglob("*.py")
        for module in _imported(path)
        if module not in sys.stdlib_module_names | OURS | NOT_NEEDED
        and not {_normal(name) for name in distributions.get(module, [module])} & names
    }
    assert missing <= BROUGHT_BY_THOSE, missing


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _imported(path: Path) -> set[str]:
    """The first parts of the names of the modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found
