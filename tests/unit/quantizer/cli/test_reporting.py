"""`quantizer report` makes the same report again from the manifest alone; `quantizer compare` says what compares."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import save_tiny_reader
from tests.support.quantizer_requests import Request, run_here
from tests.unit.quantizer.report.test_page import Outline

from quantization_api.failures import ExitCode
from quantizer.cli import parser

pytestmark = pytest.mark.unit


def rounded(folder: Path, name: str, group: int, model: str = "float", **changes: Any) -> str:
    """An artifact, and its path."""
    rounding = {"type": "QuaRot", "rotate": True, "w_rtn": True, "w_bits": 4, "w_groupsize": group}
    request = Request(f"file://{folder}/{name}", f"file://{folder}/{model}", layer_pass=rounding, **changes)
    ended = run_here(request, folder / "scratch")
    assert ended.code == 0, ended.log
    return str(folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts one and two of a model, and one of another."""
    made = tmp_path_factory.mktemp("artifacts")
    save_tiny_reader(made / "float")
    save_tiny_reader(made / "other", seed=1)
    rounded(made, "one", 16)
    rounded(made, "two", 32)
    rounded(made, "three", 16, model="other")
    return made


@pytest.fixture
def edited(folder: Path) -> Iterator[dict[str, Any]]:
    """The manifest of artifact one, to be changed and written."""
    path = folder / "one/manifest.json"
    whole = path.read_bytes()
    yield json.loads(whole)
    path.write_bytes(whole)


def test_the_report_comes_out_as_it_was_published(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parser.main(["report", str(folder / "one"), "-o", str(tmp_path / "new")]) == ExitCode.DONE
    published = {path.name: path.read_bytes() for path in (folder / "one/report").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == published
    assert {"report.html", "error-by-layer.png", "ranges-by-layer.svg", "time-by-stage.svg"} <= set(published)
    assert capsys.readouterr().out == f"{tmp_path}/new/report.html\n"


def test_the_page_alone_goes_to_standard_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parser.main(["report", str(folder / "one"), "-o", "-"]) == ExitCode.DONE
    assert capfdbinary.readouterr().out == (folder / "one/report/report.html").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_a_page_on_standard_output_cannot_be_opened(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser.main(["report", str(folder / "one"), "-o", "-", "--open"])
    assert ended.value.code == ExitCode.USAGE
    assert "leave out -o -" in capsys.readouterr().err


def test_without_a_folder_it_is_named_after_the_artifact(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parser.main(["report", str(folder / "one")]) == ExitCode.DONE
    assert (tmp_path / "one-report/report.html").exists()


def test_the_page_is_opened_where_that_is_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda uri: shown.append(uri) or True)
    assert (
        parser.main(["report", str(folder / "one"), "-o", str(tmp_path / "a b"), "--open"]) == ExitCode.DONE
    )
    assert shown == [f"{(tmp_path / 'a b').as_uri()}/report.html"]


@pytest.mark.parametrize("inside", ["report", "", "new/deep"])
def test_nothing_is_written_into_an_artifact(
    inside: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((folder / "one").rglob("*"))
    code = parser.main(["report", str(folder / "one"), "-o", str(folder / "one" / inside)])
    assert code == ExitCode.CANNOT_CREATE_OUTPUT
    assert "stays as it was published" in capsys.readouterr().err
    assert sorted((folder / "one").rglob("*")) == before


def test_a_place_that_cannot_be_written_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    code = parser.main(["report", str(folder / "one"), "-o", str(tmp_path / "file")])
    assert code == ExitCode.CANNOT_CREATE_OUTPUT
    both = [str(folder / "one"), str(folder / "two")]
    assert parser.main(["compare", *both, "-o", str(tmp_path / "no/a.html")]) == ExitCode.CANNOT_CREATE_OUTPUT
    said = capsys.readouterr().err
    assert f"{tmp_path}/file cannot be written" in said
    assert f"{tmp_path}/no/a.html cannot be written" in said


@pytest.mark.parametrize("command", ["report", "compare"])
def test_a_model_is_no_artifact(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = [str(folder / "one")] if command == "compare" else []
    assert parser.main([command, str(folder / "float"), *more]) == ExitCode.NOT_FOUND
    assert f"there is no finished artifact at file://{folder}/float" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "compare"])
@pytest.mark.parametrize(
    ("field", "value"),
    [("workflow", {}), ("workflow", {"passes": [{"type": "Newer"}]}), ("compression_ratio", 0.0)],
    ids=["no workflow", "a pass of another release", "no size"],
)
def test_figures_that_cannot_be_shown_are_data_and_no_traceback(
    command: str,
    field: str,
    value: Any,
    folder: Path,
    tmp_path: Path,
    edited: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "one/manifest.json").write_text(json.dumps({**edited, field: value}))
    rest = ["-o", str(tmp_path / "new")] if command == "report" else [str(folder / "two")]
    assert parser.main([command, str(folder / "one"), *rest]) == ExitCode.DATA
    assert "that this release cannot show" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "compare"])
def test_a_damaged_manifest_is_data(
    command: str, folder: Path, edited: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "one/manifest.json").write_text("{")
    more = [str(folder / "two")] if command == "compare" else []
    assert parser.main([command, str(folder / "one"), *more]) == ExitCode.DATA
    assert "is not an artifact's manifest" in capsys.readouterr().err


def test_artifacts_of_a_model_stand_side_by_side(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "both.html"
    assert (
        parser.main(["compare", str(folder / "one"), str(folder / "two"), "-o", str(page)]) == ExitCode.DONE
    )
    said = capsys.readouterr().out
    assert re.search(r"artifact +method +size +bits per weight +perplexity +kl_divergence\n", said)
    assert re.search(r"1 one +QuaRot 4 bits, groups of 16 +[\d.]+ MB +\d\.\d{3} ", said)
    assert re.search(r"2 two +QuaRot 4 bits, groups of 32 +[\d.]+ MB +\d\.\d{3} ", said)
    assert "Smallest: 2 (QuaRot 4 bits, groups of 32)" in said
    assert "1 is read by" in said
    assert "Not comparable" not in said

    shown = page.read_text()
    assert not Outline(shown).open
    assert "<h2>Not comparable</h2>" not in shown
    assert 'aria-labelledby="perplexity-against-size-title"' in shown
    assert not re.search(r"<script|<link|<img|<iframe|@import|src=|url\((?!#)", shown)


def test_what_does_not_compare_is_said_and_not_drawn(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "both.html"
    uris = [str(folder / name) for name in ("one", "two", "three")]
    assert parser.main(["compare", *uris, "-o", str(page)]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert re.search(
        r"Not comparable: They were made from different models: sha256:\w+ \(1, 2\); sha256:\w+ \(3\)\.", said
    )
    assert "These artifacts do not compare, so none is best." in said
    assert "Smallest" not in said
    assert "<svg" not in page.read_text()


def test_a_metric_on_another_text_is_left_out_and_the_others_stay(
    folder: Path, edited: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (metrics,) = [one["metrics"] for one in edited["workflow"]["evaluators"]]
    (perplexity,) = [one for one in metrics if one["name"] == "perplexity"]
    perplexity["data_config"] = "calibration"
    (folder / "one/manifest.json").write_text(json.dumps(edited))
    page = tmp_path / "both.html"
    assert (
        parser.main(["compare", str(folder / "one"), str(folder / "two"), "-o", str(page)]) == ExitCode.DONE
    )
    said = capsys.readouterr().out
    assert "Not comparable: perplexity was not measured on the same text in the same way: " in said
    assert "tinystories-calibration.txt" in said
    assert "best kl_divergence" in said
    assert "best perplexity" not in said
    assert re.findall(r'aria-labelledby="(\S+)-title"', page.read_text()) == [
        "kl_divergence-against-size".replace("_", "-")
    ]


def test_so_is_one_that_gives_another_value_for_the_input_model(
    folder: Path, edited: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    edited["metrics"][0]["input"] *= 1.01
    (folder / "one/manifest.json").write_text(json.dumps(edited))
    assert parser.main(["compare", str(folder / "one"), str(folder / "two")]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert (
        "Not comparable: perplexity of the same input model differs, so it was measured otherwise: " in said
    )
    assert "best perplexity" not in said


def test_other_engines_are_told(
    folder: Path, edited: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "one/manifest.json").write_text(json.dumps({**edited, "engine_version": "0.1.0"}))
    assert parser.main(["compare", str(folder / "one"), str(folder / "two")]) == ExitCode.DONE
    assert "different versions of the engine: 0.1.0 (1); " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare", "one"], "compare needs two artifacts at least"),
        (["compare", "one", "two", "--open"], "compare --open needs -o FILE"),
    ],
)
def test_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser.main(arguments)
    assert ended.value.code == ExitCode.USAGE
    assert said in capsys.readouterr().err
