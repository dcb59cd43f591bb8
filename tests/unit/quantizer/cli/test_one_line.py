"""`quantizer quantize` and `init`: what the one line stands for, and that it runs; completion."""

import subprocess
from pathlib import Path

import pytest
import yaml
from tests.support.choice import mostly_nightly
from tests.support.quantizer_requests import MODEL, TEXT

from quantization_api.failures import Category, ExitCode, QuantizationError
from quantizer.cli import parser
from quantizer.cli.asked import check_paths
from quantizer.cli.manifest_file import load_request, request_of
from quantizer.cli.short_form import METHODS, Shape, ShortForm, manifest_of

pytestmark = pytest.mark.unit

CALIBRATION = f"{TEXT}/tinystories-calibration.txt"
SHAPE = Shape([-1, 16, 32], 256)


def test_one_line_quantizes_a_model_and_prints_the_manifest_it_stands_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [str(MODEL), "--bits", "4", "-o", str(tmp_path / "out")]
    assert parser.main(["quantize", *line, "--scratch", str(tmp_path)]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert (tmp_path / "out/manifest.json").is_file()
    assert parser.main(["init", *line]) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert said.startswith(printed)
    (tmp_path / "job.yaml").write_text(printed)
    request = load_request(tmp_path / "job.yaml")
    assert request.output.uri == f"file://{tmp_path}/out"
    assert parser.main(["run", "-f", str(tmp_path / "job.yaml"), "--scratch", str(tmp_path)]) == ExitCode.DONE
    assert "quantize: begins" not in capsys.readouterr().err, "the recipe is another one"


@pytest.mark.parametrize("name", ["My Model", "100%20"])
def test_a_folder_of_any_name_is_found_as_a_path_and_as_a_uri(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).symlink_to(MODEL)
    for place in (str(tmp_path / name), (tmp_path / name).as_uri()):
        assert parser.main(["inspect", place]) == ExitCode.DONE, place
        capsys.readouterr()
        assert parser.main(["init", place, "-o", str(tmp_path / "out")]) == ExitCode.DONE, place
        manifest = yaml.safe_load(capsys.readouterr().out)
        check_paths(request_of(manifest))


@pytest.mark.parametrize("method", mostly_nightly(["gptq", "quarot"], ["gptq"]))
def test_a_short_text_is_enough(method: str, tmp_path: Path) -> None:
    text = Path(CALIBRATION.removeprefix("file://")).read_text(encoding="utf-8")[:20_000]
    (tmp_path / "short.txt").write_text(text, encoding="utf-8")
    line = ["quantize", str(MODEL), "-o", str(tmp_path / "out"), "--scratch", str(tmp_path)]
    line += ["--pass", method, "--data", str(tmp_path / "short.txt")]
    assert parser.main(line) == ExitCode.DONE


@pytest.mark.parametrize("data", [None, CALIBRATION])
def test_a_method_that_there_is_not_is_refused_with_the_nearest(data: str | None) -> None:
    with pytest.raises(QuantizationError, match=r"method GPTQ is none of .*did you mean gptq\?") as caught:
        manifest_of(ShortForm(str(MODEL), "s3://artifacts/x", method="GPTQ", data=data), SHAPE)
    assert caught.value.category is Category.INVALID_WORKFLOW


def test_a_relative_path_in_a_manifest_may_have_a_percent_sign(tmp_path: Path) -> None:
    (tmp_path / "100%20").symlink_to(MODEL)
    manifest = manifest_of(ShortForm("s3://models/x", "s3://artifacts/x"), SHAPE)
    manifest["spec"]["workflow"]["input_model"]["model_path"] = "./100%20"
    manifest["spec"]["output"]["uri"] = "./out%20"
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(manifest))
    request = load_request(tmp_path / "job.yaml")
    check_paths(request)
    assert request.output.uri == f"file://{tmp_path}/out%20", "an output is taken as it is written"


@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize("data", [None, CALIBRATION])
def test_every_pass_makes_a_valid_manifest_or_says_what_is_missing(
    method: str | None, data: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [str(MODEL), "-o", str(tmp_path / "out")]
    line += (["--pass", method] if method else []) + (["--data", data] if data else [])
    code = parser.main(["init", *line])
    said = capsys.readouterr()
    if (method, data) in [("gptq", None), ("awq", None), ("rtn", CALIBRATION)]:
        assert code == ExitCode.INVALID_WORKFLOW
        assert "--data" in said.err
        return
    assert code == ExitCode.DONE
    (tmp_path / "job.yaml").write_text(said.out)
    (found,) = load_request(tmp_path / "job.yaml").workflow.passes
    expected = method or ("gptq" if data else "rtn")
    assert found.type == {"gptq": "GptqQuantizer", "awq": "AutoAWQQuantizer"}.get(expected, "QuaRot")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bits", "5"], "bits"),
        (["--group-size", "0"], "group"),
        (["--data", "/no/such/text.txt"], "check the path"),
        (["--evaluate", "/no/such/text.txt"], "check the path"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_with_the_line_is_said(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = parser.main(["quantize", str(MODEL), "-o", str(tmp_path / "out"), *options])
    assert code in (ExitCode.INVALID_WORKFLOW, ExitCode.NOT_FOUND)
    assert words in capsys.readouterr().err.lower()
    assert not (tmp_path / "out").exists()


def test_an_artifact_is_not_quantized_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parser.main(["quantize", str(tmp_path / "no"), "-o", str(tmp_path / "out")]) == ExitCode.NOT_FOUND
    assert "check the path" in capsys.readouterr().err.lower()


def test_group_size_and_length_follow_from_the_model() -> None:
    form = ShortForm("/m", "/out", data=CALIBRATION)
    spec = manifest_of(form, SHAPE)["spec"]["workflow"]
    assert spec["passes"][0]["group_size"] == 32
    assert spec["data_configs"][0]["pre_process_data_config"] == {"strategy": "join", "max_seq_len": 256}
    wide = manifest_of(ShortForm("/m", "/out", data="s3://b/text"), Shape([-1, 64, 128, 256], 4096))
    assert wide["spec"]["workflow"]["passes"][0]["group_size"] == 128
    assert wide["spec"]["workflow"]["data_configs"][0]["pre_process_data_config"]["max_samples"] == 128
    odd = manifest_of(ShortForm("/m", "/out"), Shape([-1], 4096))
    assert odd["spec"]["workflow"]["passes"][0]["w_groupsize"] == -1


def test_relative_places_are_relative_to_where_the_line_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(MODEL.parent)
    spec = manifest_of(ShortForm("stories15m", "s3://b/My Model!", endpoint="http://x:1"), SHAPE)
    assert spec["spec"]["workflow"]["input_model"]["model_path"] == f"file://{MODEL}"
    assert spec["metadata"]["name"] == "my-model"
    assert spec["spec"]["storage"] == {"endpoint": "http://x:1"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["quantizer", "ver"], ["verify"]),
        (["quantizer", "quantize", "--pas"], ["--pass"]),
        (["quantizer", "quantize", "--pass", "a"], ["awq"]),
        (["quantizer", "run", "--device", "c"], ["cpu", "cuda"]),
        (["quantizer", "completion", ""], ["bash", "zsh"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bash_completes_commands_options_and_choices(
    words: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert parser.main(["completion", "bash"]) == ExitCode.DONE
    quoted = " ".join(f"'{word}'" for word in words)
    asked = (
        f'COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _quantizer; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    said = subprocess.run(
        ["bash", "-c", capsys.readouterr().out + asked], check=True, capture_output=True, text=True
    )
    found = [word for word in said.stdout.split() if not word.startswith("-") or words[-1].startswith("-")]
    assert found == expected


def test_the_manifest_is_yaml_that_a_person_can_edit(capsys: pytest.CaptureFixture[str]) -> None:
    assert parser.main(["init", str(MODEL), "-o", "out", "--data", CALIBRATION]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert list(yaml.safe_load(said)) == ["apiVersion", "kind", "metadata", "spec"]
    assert "&" not in said, "an alias in place of a value"
