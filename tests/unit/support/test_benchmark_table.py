"""The parts of the benchmark that run nothing: what is run, what is counted, how it is shown."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.benchmarks.quantization import models, rounds, table, work
from tests.benchmarks.quantization.__main__ import fitting_group, options, prepare
from tests.benchmarks.quantization.cases import ENGINES, NATIVE, SMALL_MODEL, WIDE_LAYER, Bar, bars, cases
from tests.benchmarks.quantization.judge import Verdict
from tests.benchmarks.quantization.picture import draw
from tests.benchmarks.quantization.process import Outcome, last_words, run
from tests.benchmarks.quantization.text import random_sequences
from tests.support.engine import STORIES

from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import read_config

pytestmark = pytest.mark.unit

JUDGED = Verdict(
    perplexity=7.25, kl_divergence=0.0747, max_abs_dlogit=5.5, files=22_000_000, layers=4_000_000
)


def took(seconds: float, cpu: float = 1.0) -> Outcome:
    """A run that ended."""
    return Outcome({"quantize": seconds}, {"quantize": cpu}, seconds + 5, 900_000_000, 0, "1.0")


def failed(reason: str, whole: float = 3.0, stopped: bool = False) -> Outcome:
    """A run that did not."""
    return Outcome(whole=whole, reason=reason, stopped=stopped)


def row(engine: str, runs: list[Outcome], native: list[Outcome], verdict: Verdict = JUDGED) -> table.Row:
    """The row of a GPTQ case without counted work."""
    return table.make_row(engine, "gptq", runs, native, verdict, 0.0, 1.0)


def test_every_method_runs_native_first_and_then_every_engine_that_has_it() -> None:
    names = [case.name for case in cases(["gptq", "awq"])]
    assert names == [
        "native-gptq", "native-none-gptq", "native-best-gptq", "auto-gptq-gptq", "gptqmodel-gptq", "auto-round-gptq",
        "llm-compressor-gptq",
        "native-awq", "autoawq-awq", "gptqmodel-awq", "llm-compressor-awq",
    ]  # fmt: skip


def test_a_choice_of_engines_keeps_native() -> None:
    assert [case.engine.name for case in cases(["awq"], ["autoawq"])] == [NATIVE, "autoawq"]


def test_an_unknown_engine_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no engine auto-awq; there are native, native-none, native-best"):
        cases(["awq"], ["auto-awq"])


def test_every_engine_has_its_runner_and_its_lock() -> None:
    for engine in ENGINES:
        assert (rounds.RUNNERS / engine.runner).is_file()
        assert not engine.environment or (Path("requirements") / f"{engine.environment}.txt").is_file()


def test_promises_are_made_about_engines_that_run_that_method() -> None:
    run_by = {(case.method, case.engine.name) for case in cases(["gptq", "awq"])}
    assert {(bar.method, bar.peer) for bar in SMALL_MODEL + WIDE_LAYER} <= run_by
    assert (bars(288), bars(4096)) == (SMALL_MODEL, WIDE_LAYER)


def test_the_ratio_compares_runs_of_the_same_round() -> None:
    """One slow round, in which both were slow, does not change it; medians of each alone would."""
    native, peer = [took(1), took(100), took(1)], [took(6), took(600), took(5)]
    assert table.ratio(native, peer) == (6.0, False)


def test_a_round_in_which_one_failed_is_left_out_of_the_ratio() -> None:
    assert table.ratio([took(1), failed("x")], [took(4), took(40)]) == (4.0, False)


def test_a_peer_that_was_stopped_gives_a_lower_bound() -> None:
    assert table.ratio([took(2)], [failed("limit", whole=30, stopped=True)]) == (15.0, True)


def test_a_peer_that_failed_gives_no_ratio() -> None:
    assert table.ratio([took(2)], [failed("no GPU")]) == (0.0, False)
    assert table.cpu_ratio([took(2)], [failed("no GPU")]) == 0.0


def test_the_ratio_of_cpu_time_is_its_own() -> None:
    assert table.cpu_ratio([took(1, cpu=2)], [took(50, cpu=3)]) == 1.5


def test_a_row_has_the_median_the_spread_and_the_largest_memory() -> None:
    found = row("gptqmodel", [took(3, 4), took(9, 6), took(4, 5)], [took(1), took(1), took(1)])
    assert (found.seconds, found.cpu_seconds, found.fastest, found.slowest) == (4, 5, 3, 9)
    assert (found.ratio, found.rounds, found.resident) == (4, 3, 900_000_000)


def test_the_share_of_the_peak_is_the_work_by_time_by_peak() -> None:
    found = table.make_row("native", "gptq", [took(4)], [took(4)], JUDGED, 100.0, 50.0)
    assert found.share == 0.5
    assert table.cells(found)[-1] == "50%"
    too_fast = table.make_row("native", "gptq", [took(1)], [took(1)], JUDGED, 100.0, 50.0)
    assert table.cells(too_fast)[-1] == table.NOTHING  # the peak was measured while others were busy


@pytest.mark.parametrize(
    ("factor", "peer", "words"),
    [
        (5, [took(6)], "kept, 6.0 times"),
        (5, [took(4)], "MISSED, 4.0 times"),
        (5, [failed("limit", 6, stopped=True)], "kept, more than 6.0 times"),
        (5, [failed("limit", 4, stopped=True)], "not measured (limit)"),
        (5, [failed("no GPU")], "not measured (no GPU)"),
    ],
)
def test_a_promise_is_kept_missed_or_not_measured(factor: float, peer: list[Outcome], words: str) -> None:
    (line,) = table.bar_lines([row("autoawq", peer, [took(1)])], [Bar("gptq", "autoawq", factor)])
    assert words in line


def test_a_promise_about_an_engine_that_was_not_asked_for_is_not_mentioned() -> None:
    assert table.bar_lines([row("native", [took(1)], [took(1)])], SMALL_MODEL) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (0.06, 0.07, "gptq: a KL of at most that of auto-gptq: kept, 0.0600 and 0.0700"),
        (0.07, 0.07, "kept"),
        (0.08, 0.07, "MISSED, 0.0800 and 0.0700"),
        (0.06, None, "not measured"),
        (None, 0.07, "not measured"),
    ],
)
def test_the_kl_is_at_most_the_peers(ours: float | None, theirs: float | None, words: str) -> None:
    def judged(engine: str, kl: float | None) -> table.Row:
        verdict = Verdict(reason="cannot be read") if kl is None else replace(JUDGED, kl_divergence=kl)
        return row(engine, [took(1)], [took(1)], verdict)

    rows = [judged(NATIVE, ours), judged("auto-gptq", theirs), judged("gptqmodel", 0.0)]
    (line,) = table.quality_lines(rows)
    assert words in line
    assert line in table.markdown({}, rows, ())
    assert line not in table.markdown({}, rows, (), trained=False)


def test_an_engine_that_failed_stands_in_the_table_and_its_reason_below() -> None:
    native = [took(1)]
    rows = [row("native", native, native), row("autoawq", [failed("exit 1: no GPU")], native, Verdict())]
    text = table.markdown({"model": "m"}, rows, [])
    assert "| autoawq | – | – |" in text
    assert "- autoawq, gptq: exit 1: no GPU" in text


def test_a_result_that_cannot_be_read_keeps_its_time_and_says_so() -> None:
    found = row("autoawq", [took(3)], [took(1)], Verdict(reason="the result cannot be read: no scales"))
    words = table.cells(found)
    assert words[1] == "3.00"
    assert words[table.COLUMNS.index("KL")] == table.NOTHING
    assert found.reason == "the result cannot be read: no scales"


def test_every_line_of_the_table_has_every_column() -> None:
    native = [took(1), took(2)]
    text = table.markdown({}, [row("native", native, native)], [])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {len(table.COLUMNS) + 1}
    assert lines[2].startswith("| native 1.0 | 1.50 (1.00 to 2.00) |")


def test_the_record_holds_every_single_run() -> None:
    native = [took(1), took(2)]
    whole = json.loads(
        table.document({"model": "m"}, [row("native", native, native)], {"native-gptq": native})
    )
    assert [one["seconds"]["quantize"] for one in whole["runs"]["native-gptq"]] == [1, 2]
    assert whole["rows"][0]["verdict"]["kl_divergence"] == 0.0747


def test_the_picture_is_drawn_also_of_engines_without_figures(tmp_path: Path) -> None:
    native = [took(1)]
    draw(
        [row("native", native, native), row("autoawq", [failed("x")], native, Verdict())], "t", tmp_path / "p"
    )
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert "not measured" in (tmp_path / "p.svg").read_text()


LLAMA = {
    "hidden_size": 4, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1,
    "num_hidden_layers": 3,
}  # fmt: skip


def test_the_work_of_gptq_is_counted_by_hand() -> None:
    """q 4x4, k and v 2x4, o 4x4, gate and up 8x4, down 4x8: 144 weights in a layer."""
    found = work.gptq_work(LLAMA, tokens=10)
    assert found.forward == 3 * 4 * 10 * (16 + 8 + 8 + 16 + 32 + 32 + 32)
    assert found.gram == 3 * 10 * (16 + 16 + 16 + 64)
    assert found.factor == 3 * (64 + 64 + 64 + 512)
    assert found.update == 3 * (8 * 16 + 4 * 16 + 16 * 16 + 4 * 64)
    assert found.total == found.forward + found.gram + found.factor + found.update


def test_rotary_parameters_are_said_in_the_words_of_both_versions() -> None:
    config = {
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0},
        "dtype": "float16",
    }
    both = models.portable_config(config)
    assert both["rope_theta"] == 5e5
    assert both["rope_scaling"] == {"rope_type": "llama3", "factor": 8.0}
    assert (both["torch_dtype"], both["rope_parameters"]) == ("float16", config["rope_parameters"])


def test_plain_rotary_parameters_need_no_scaling() -> None:
    both = models.portable_config({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}})
    assert "rope_scaling" not in both


def test_a_random_model_is_written_once_and_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(folder: str) -> tuple[Path, dict[str, torch.Tensor]]:
        monkeypatch.setattr(models, "CACHE", tmp_path / folder)
        target = models.random_model(models.SHAPES["tiny"], STORIES, 96, 64)
        return target, {
            k: v for file in sorted(target.glob("*.safetensors")) for k, v in load_file(file).items()
        }

    (first, one), (_, other) = written("a"), written("b")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["model.layers.1.mlp.down_proj.weight"].shape == (256, 512)
    assert {tensor.dtype for tensor in one.values()} == {torch.bfloat16}
    changed = (first / "config.json").stat().st_mtime_ns
    monkeypatch.setattr(models, "CACHE", tmp_path / "a")
    assert models.random_model(models.SHAPES["tiny"], STORIES, 96, 64) == first
    assert (first / "config.json").stat().st_mtime_ns == changed


def test_a_random_model_that_was_not_finished_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "CACHE", tmp_path)
    target = models.random_model(models.SHAPES["tiny"], STORIES, 96, 64)
    (target / "config.json").unlink()
    (shard := next(target.glob("*.safetensors"))).write_bytes(b"half")
    models.random_model(models.SHAPES["tiny"], STORIES, 96, 64)
    assert shard.stat().st_size > 4
    assert read_config(DirectorySource(target))["hidden_size"] == 256


def test_random_sequences_depend_on_their_seed_alone() -> None:
    one, same, other = (random_sequences(2, 8, 100, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"hidden_size": 288, "intermediate_size": 768, "num_attention_heads": 6}, 32),
        ({"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32}, 128),
        ({"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 3, "head_dim": 16}, 16),
    ],
)
def test_the_group_fits_every_linear(config: dict[str, Any], size: int) -> None:
    assert fitting_group(config) == size


def test_quick_is_one_round_of_few_samples() -> None:
    said = options(["--quick"])
    assert (said.samples, said.held_out, said.rounds) == (4, 2, 1)


def test_both_texts_may_be_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "calibration.txt").write_text("once upon a time " * 40)
    (tmp_path / "held.txt").write_text("there was a little girl " * 40)
    texts = ["--text", str(tmp_path / "calibration.txt"), "--held-out-text", str(tmp_path / "held.txt")]
    said = options([*texts, "--rounds", "2", "--samples", "2", "--held-out", "3", "--length", "16"])
    _, calibration, held_out = prepare(said, tmp_path)
    assert [part.shape for part in calibration] == [(2, 16), (2, 16)]
    assert held_out.shape == (3, 16)
    assert not torch.equal(calibration[0][0], held_out[0])


def runner(tmp_path: Path, code: str, limit: float = 60) -> Outcome:
    """Runs a script in the place of a runner."""
    (tmp_path / "script.py").write_text(code)
    return run(
        Path(sys.executable), tmp_path / "script.py", tmp_path / "request.json", tmp_path / "log", {}, limit
    )


def test_the_last_line_of_a_runner_is_its_result(tmp_path: Path) -> None:
    said = {
        "seconds": {"quantize": 2.5},
        "cpu_seconds": {"quantize": 4.0},
        "device_bytes": 7,
        "version": "1.2",
    }
    found = runner(tmp_path, f"import json\nprint('noise')\nprint(json.dumps({said!r}))")
    assert (found.seconds, found.device, found.version, found.reason) == ({"quantize": 2.5}, 7, "1.2", "")
    assert found.resident > 1_000_000


def test_the_peak_of_a_runner_is_what_the_kernel_counted(tmp_path: Path) -> None:
    found = runner(tmp_path, "x = b'1' * 200_000_000\nraise SystemExit('enough')")
    assert found.resident > 200_000_000
    assert found.reason == "exit 1: enough"


def test_a_runner_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    code = (
        "import subprocess, time\nprint(subprocess.Popen(['sleep', '600']).pid, flush=True)\ntime.sleep(600)"
    )
    found = runner(tmp_path, code, limit=3)
    assert (found.stopped, found.reason) == (True, "stopped at the time limit of 3 s")
    child = Path("/proc") / (tmp_path / "log").read_text().split()[0]
    deadline = time.monotonic() + 30
    while is_running(child):
        assert time.monotonic() < deadline


def is_running(process: Path) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return "State:\tZ" not in (process / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_error_without_words_is_given_with_what_raised_it() -> None:
    log = "Traceback (most recent call last):\n    assert rows % 64 == 0\n           ^^^^\nAssertionError\n"
    assert last_words(log, 1) == "exit 1: AssertionError in: assert rows % 64 == 0"
