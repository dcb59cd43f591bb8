"""Quantization engines side by side: python -m tests.benchmarks.quantization (see docs/benchmarks.md).

Writes table.md, table.json and picture.{png,svg}, adds what it found to quality.{json,md,png,svg}, and prints the
table. Ends with 1 when native failed.
"""

import argparse
import json
import math
import os
import platform
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.benchmarks.quantization import trade, trade_picture
from tests.benchmarks.quantization.cases import ENGINES, NATIVE, PLAIN, bars, cases
from tests.benchmarks.quantization.judge import Verdict, judge, judge_float, judge_plain_rounding, mean
from tests.benchmarks.quantization.models import SHAPES, portable_copy, random_model
from tests.benchmarks.quantization.picture import draw
from tests.benchmarks.quantization.process import Outcome
from tests.benchmarks.quantization.rounds import Request, run_rounds
from tests.benchmarks.quantization.table import Row, document, make_row, markdown
from tests.benchmarks.quantization.text import random_sequences, text_sequences
from tests.benchmarks.quantization.work import gptq_work, product_peak

from quantizer.machine import (
    calibration_dtype,
    choose_device,
    cpu_share,
    device_name,
    return_freed_memory,
    use_whole_vectors,
)

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "deploy/examples"
STORIES = EXAMPLES / "stories15m"
TEXTS = EXAMPLES / "text"
LARGEST_GROUP = 128


def options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench", description=(__doc__ or "").splitlines()[0])
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--model", type=Path, default=STORIES, help="directory of a Llama-like model")
    chosen.add_argument("--shape", choices=SHAPES, help="random weights of that shape instead")
    parser.add_argument(
        "--text",
        type=Path,
        default=TEXTS / "tinystories-calibration.txt",
        help="calibration text (.txt, .jsonl, .json, .csv)",
    )
    parser.add_argument(
        "--held-out-text",
        type=Path,
        default=TEXTS / "tinystories-validation.txt",
        help="text to judge on; take one like the model's own with --model",
    )
    parser.add_argument("--layers", type=int, help="decoder layers of the shape")
    parser.add_argument("--methods", nargs="+", choices=("gptq", "awq"), default=["gptq", "awq"])
    parser.add_argument(
        "--engines", nargs="+", default=[], metavar="NAME", help="beside native; all by default"
    )
    parser.add_argument("--samples", type=int, default=64, help="calibration sequences")
    parser.add_argument("--held-out", type=int, default=24, help="sequences to judge on")
    parser.add_argument("--length", type=int, default=256, help="tokens of a sequence")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--sym", action="store_true", help="a symmetric grid, without zero points")
    parser.add_argument("--group-size", type=int, help="by default the largest up to 128 that fits")
    parser.add_argument(
        "--true-sequential",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="as auto-gptq and gptqmodel have it by default",
    )
    parser.add_argument(
        "--calibration-dtype",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="that native's GPTQ runs the model in; auto: bf16 on a processor that multiplies it faster",
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each case")
    parser.add_argument("--limit", type=float, default=900, help="seconds that a run may take")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=cpu_share(), help="of every engine on the CPU")
    parser.add_argument("--output", type=Path, default=ROOT / "build/bench")
    parser.add_argument("--quick", action="store_true", help="a smoke test: 4 sequences, one round")
    found = parser.parse_args(arguments)
    if found.quick:
        found.samples, found.held_out, found.rounds = 4, 2, 1
    return found


def prepare(said: argparse.Namespace, folder: Path) -> tuple[Path, tuple[torch.Tensor, ...], torch.Tensor]:
    """The model as every engine reads it, the calibration sequences of each round, the held-out ones."""
    vocabulary = int(json.loads((STORIES / "config.json").read_text())["vocab_size"])
    if said.shape:
        shape = SHAPES[said.shape]
        shape = replace(shape, layers=said.layers or shape.layers)
        model = random_model(shape, STORIES, vocabulary, max(2048, said.length))
        calibration = random_sequences(said.rounds * said.samples, said.length, vocabulary, 1)
        held_out = random_sequences(said.held_out, said.length, vocabulary, 2)
        return model, calibration.chunk(said.rounds), held_out
    model = portable_copy(said.model, folder / "model")
    vocabulary = int(json.loads((model / "config.json").read_text())["vocab_size"])
    both = ((said.text, said.rounds * said.samples), (said.held_out_text, said.held_out))
    calibration, held_out = (
        text_sequences(model, text, count, said.length, vocabulary, folder) for text, count in both
    )
    if len(calibration) < said.rounds * said.samples:
        raise SystemExit(
            f"{said.text} has {len(calibration)} sequences of {said.length} tokens; "
            f"{said.rounds} rounds of {said.samples} do not fit"
        )
    if not len(held_out):
        raise SystemExit(f"{said.held_out_text} has no sequence of {said.length} tokens")
    return model, calibration.chunk(said.rounds), held_out


def fitting_group(config: dict[str, Any]) -> int:
    """The largest power of two, up to 128, that divides the inputs of every linear."""
    heads = config["num_attention_heads"] * (
        config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    )
    return math.gcd(LARGEST_GROUP, config["hidden_size"], config["intermediate_size"], heads)


def machine(device: torch.device) -> str:
    """The machine in words, without its name."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    cpu = f"{len(models)} x {models[0]}" if models else platform.machine()
    return f"{cpu}; measured on {device_name(device)}; torch {torch.__version__}"


def bench(said: argparse.Namespace, folder: Path) -> bool:
    """One benchmark; whether native did everything that it was asked for."""
    device = choose_device(said.device)
    torch.set_num_threads(said.threads)
    model, calibration, held_out = prepare(said, folder)
    config = json.loads((model / "config.json").read_text())
    group_size = said.group_size or fitting_group(config)
    requests = []
    for number, sample in enumerate(calibration):
        torch.save(sample, folder / f"calibration-{number}.pt")
        requests.append(Request(
            str(model), str(folder / f"calibration-{number}.pt"), said.bits, group_size, said.sym, 0.01,
            said.true_sequential, said.threads, device.type, calibration_dtype=said.calibration_dtype,
        ))  # fmt: skip

    def judge_result(output: Path) -> Verdict:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            return judge(model, output, held_out, device, Path(scratch))

    chosen = cases(said.methods, said.engines)
    before, peak = os.getloadavg()[0], product_peak(device, said.threads)
    runs, verdicts = run_rounds(
        chosen, requests, said.limit, folder, judge_result, lambda words: print(words, flush=True)
    )
    peak = max(
        peak, product_peak(device, said.threads)
    )  # others may have been busy at one of the two moments
    work = {"gptq": gptq_work(config, calibration[0].numel()).total, "awq": 0.0}
    native = {method: runs[f"{NATIVE}-{method}"] for method in said.methods}
    rows = [
        make_row(
            case.engine.name, case.method, runs[case.name], native[case.method],
            mean(verdicts[case.name]), work[case.method], peak,
        )
        for case in chosen
    ]  # fmt: skip
    plain = judge_plain_rounding(model, said.bits, group_size, said.sym, held_out, device, folder)
    for method in said.methods:
        last = max(number for number, row in enumerate(rows) if row.method == method)
        rows.insert(last + 1, make_row(PLAIN, method, [], [], plain, 0.0, peak))
    symmetry = "symmetric" if said.sym else "asymmetric"
    facts: dict[str, object] = {
        "model": said.shape or said.model.name,
        "sizes": f"{config['num_hidden_layers']} layers, {config['hidden_size']} wide, "
        f"{config['intermediate_size']} inside",
        "calibration": f"{said.samples} x {said.length} tokens, the same for every engine, "
        "others in every round; KL and perplexity are means over the rounds",
        "held out": f"{said.held_out} x {said.length} tokens; the float model's perplexity is "
        f"{judge_float(model, held_out, device, folder):.3f}",
        "grid": f"{said.bits} bits, groups of {group_size}, {symmetry}, no act-order, true_sequential "
        f"{str(said.true_sequential).lower()}",
        "machine": machine(device),
        "load of others": f"{before:.1f} processes were running when it began; rounds alternate: {said.rounds}",
        "matrix products": f"{peak / 1e9:.0f} GFLOP/s in float32; GPTQ needs {work['gptq'] / 1e9:.0f} GFLOP here",
        "native's GPTQ calibrates in": said.calibration_dtype
        if said.calibration_dtype != "auto"
        else str(calibration_dtype(device)).removeprefix("torch."),
        **{f"{engine.name} differs": engine.note for engine in ENGINES if engine.note},
    }
    report(said, facts, rows, runs, int(config["hidden_size"]))
    return not any(row.reason for row in rows if row.engine == NATIVE)


def report(
    said: argparse.Namespace,
    facts: dict[str, object],
    rows: list[Row],
    runs: dict[str, list[Outcome]],
    hidden_size: int,
) -> None:
    """Writes the table, the record and the picture, and prints the table."""
    text = markdown(facts, rows, bars(hidden_size), trained=not said.shape)
    said.output.mkdir(parents=True, exist_ok=True)
    (said.output / "table.md").write_text(text)
    (said.output / "table.json").write_text(document(facts, rows, runs))
    draw(rows, f"{facts['model']}: {facts['sizes']}; {facts['calibration']}", said.output / "picture")
    keep_quality(said, facts, rows)
    print(f"\n{text}\nwritten to {said.output}")


def keep_quality(said: argparse.Namespace, facts: dict[str, object], rows: list[Row]) -> None:
    """Adds what was found to what earlier runs found; random weights have no quality."""
    if said.shape:
        return
    device = device_name(choose_device(said.device))
    cell = f"{facts['model']}, {said.samples} x {said.length} tokens: {facts['grid']}; on {device}"
    file = said.output / "quality.json"
    kept = trade.merged(trade.read(file), trade.points(cell, rows))
    if not kept:
        return
    file.write_text(trade.document(kept))
    file.with_suffix(".md").write_text(trade.markdown(kept))
    trade_picture.draw(kept, file.with_suffix(""))


def main() -> None:
    """Runs the benchmark that the command line asks for."""
    return_freed_memory()
    use_whole_vectors()  # also for the peak: the best that the machine can do
    said = options(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        sys.exit(0 if bench(said, Path(name)) else 1)


if __name__ == "__main__":
    main()
