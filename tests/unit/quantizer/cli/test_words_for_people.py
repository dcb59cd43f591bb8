"""What a person reads at a command line: whole lines in a pipe, files and not pods, the object that is damaged."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.support.engine import save_tiny_reader
from tests.support.quantizer_requests import Request, run_here

from quantization_api.failures import CATALOGUE, Category, ExitCode, QuantizationError
from quantization_api.manifest import Manifest
from quantizer.cli import parser
from quantizer.cli.ending import guarded
from quantizer.cli.screen import report_facts, times
from quantizer.cli.termination import failed, in_words

pytestmark = pytest.mark.unit

OF_A_CLUSTER = re.compile(r"\b[Pp]ods?\b|\bSecret\b|spec\.|\bapply\b|kubectl|\bjob\b|\bobject\b|mounted")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    save_tiny_reader(folder / "float")
    rounding = {"type": "QuaRot", "rotate": False, "w_rtn": True, "w_bits": 4, "w_groupsize": 16}
    request = Request(f"file://{folder}/out", f"file://{folder}/float", layer_pass=rounding, metrics=[])
    ended = run_here(request, folder / "scratch")
    assert ended.code == 0, ended.log
    return folder / "out"


def removed(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "how"),
    [(removed, "is missing"), (cut, "bytes instead of"), (flipped, "has other bytes")],
    ids=["missing", "cut short", "flipped"],
)
@pytest.mark.parametrize("key", ["model/model.safetensors", "README.md"])
def test_a_damaged_artifact_is_data_and_names_the_object_and_how(
    key: str, damage: Callable[[Path], None], how: str, artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = artifact / key
    data = path.read_bytes()
    try:
        damage(path)
        assert parser.main(["verify", str(artifact)]) == ExitCode.DATA
    finally:
        path.write_bytes(data)
    said = capsys.readouterr().err
    assert re.search(rf"{key} .*{how}", said)
    assert "run again" not in said


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_so_is_a_damaged_manifest(command: str, artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = artifact / "manifest.json"
    data = path.read_bytes()
    try:
        path.write_bytes(data[:100])
        assert parser.main([command, str(artifact)]) == ExitCode.DATA
    finally:
        path.write_bytes(data)
    assert "manifest.json" in capsys.readouterr().err


def test_lines_in_a_pipe_are_as_long_as_their_text(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert parser.main(["inspect", str(artifact)]) == 0
    said = capsys.readouterr().out
    (row,) = [line for line in said.splitlines() if "model.layers.0.self_attn.q_proj" in line]
    assert re.search(r"q_proj +\S+ +\S+$", row), said


@pytest.mark.parametrize("category", [each for each in Category if CATALOGUE[each].exit_code is not None])
def test_a_cure_at_a_command_line_speaks_of_files_and_not_of_pods(category: Category) -> None:
    error = QuantizationError(category, "something")
    assert not OF_A_CLUSTER.search(in_words(error))
    again = QuantizationError(category, "something else", error.hint)  # as raised again with more words
    assert again.hint_here == error.hint_here
    shown = failed(error).failure
    assert shown is not None
    assert shown.hint == CATALOGUE[category].cure


def test_a_hint_of_its_own_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    def action(*_: object) -> None:
        raise QuantizationError(Category.INVALID_WORKFLOW, "a field", "Write spec.reuse: Never.")

    assert guarded(action) == ExitCode.INVALID_WORKFLOW
    assert "Write spec.reuse: Never." in capsys.readouterr().err


def test_what_the_usual_servers_refuse_is_said_before_it_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_reader(tmp_path / "float")
    path = tmp_path / "job.yaml"
    rounding = {"type": "QuaRot", "rotate": False, "w_rtn": True, "w_bits": 3, "w_groupsize": 16}
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "quantization.dev/v1alpha1",
                "kind": "QuantizationJob",
                "metadata": {"name": "job"},
                "spec": {
                    "workflow": {
                        "input_model": {"type": "HfModel", "model_path": f"{tmp_path}/float"},
                        "passes": [rounding],
                    },
                    "output": {"uri": f"file://{tmp_path}/out"},
                },
            }
        )
    )
    assert parser.main(["run", "-f", str(path), "--scratch", str(tmp_path)]) == ExitCode.DONE
    said = capsys.readouterr().err
    notice = said.index("vLLM and SGLang refuse this artifact; they need w_bits: 4 or 8")
    assert notice < said.index("quantize: layer 1 of 2")


def test_the_summary_says_how_long_it_took_and_how_to_open_the_report(artifact: Path) -> None:
    manifest = Manifest.model_validate_json((artifact / "manifest.json").read_bytes())
    here = report_facts(manifest, f"file://{artifact}", None)
    assert here[0] == ("report", f"file://{artifact}/report/report.html")
    assert here[1][1] == f"open it: python3 -m webbrowser file://{artifact}/report/report.html"
    there = report_facts(manifest, "s3://a/x", "http://s3:8333")
    assert there[1][1] == "fetch it: aws s3 cp s3://a/x/report/report.html . --endpoint-url http://s3:8333"
    assert times({"check": 1.25, "quantize": 70.0}) == "1 min 11 s (check 1.2 s, quantize 1 min 10 s)"
