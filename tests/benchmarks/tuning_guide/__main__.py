"""The figures of docs/tuning.md: `python -m tests.benchmarks.tuning_guide` (see there).

Runs a search for each question and model, with the project's own command, and writes the tables and the picture. What a
run that was cut has finished is kept, so the same command goes on. What was asked takes the place of what the page says
of the same questions and models, and the rest of the page stays: the guide can be made in pieces.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import yaml
from tests.benchmarks.tuning_guide.drawing import draw
from tests.benchmarks.tuning_guide.models import CACHE, CONVERSIONS, TEXTS, Model, converted, example
from tests.benchmarks.tuning_guide.page import joined, read, with_tables
from tests.benchmarks.tuning_guide.questions import QUESTIONS, Question, manifest
from tests.benchmarks.tuning_guide.table import Described, tables

from quantization_api import ENGINE_VERSION
from quantization_api.manifest import TrialRecord
from quantizer.checkpoint.reader import SafetensorsReader
from quantizer.checkpoint.source import DirectorySource

PAGE = Path(__file__).parents[3] / "docs/tuning.md"
MODELS: dict[str, Callable[[], Model]] = {
    "stories15m": example,
    **{name: partial(converted, name) for name in CONVERSIONS},
}


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make tuning-guide", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--models", nargs="*", choices=MODELS, default=list(MODELS), help="of the project's own"
    )
    parser.add_argument(
        "--model", type=Path, action="append", default=[], help="directory of a model of yours"
    )
    parser.add_argument("--text", type=Path, default=TEXTS[0], help="calibration text")
    parser.add_argument("--held-out-text", type=Path, default=TEXTS[1], help="text to measure on")
    names = [question.name for question in QUESTIONS]
    parser.add_argument("--questions", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--page", type=Path, default=PAGE, help="the page whose tables are written; the picture beside it"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    return parser.parse_args(arguments)


def search(question: Question, model: Model, said: argparse.Namespace) -> list[TrialRecord]:
    """The trials of a question for a model. The same search again is only read."""
    folder = CACHE / model.name
    asked = manifest(
        question,
        model.path.resolve(),
        model.config,
        (said.text.resolve(), said.held_out_text.resolve()),
        folder,
    )
    key = hashlib.sha256(json.dumps([asked, ENGINE_VERSION]).encode()).hexdigest()[:12]
    output = folder / f"{question.name}-{key}"
    asked["spec"]["output"]["uri"] = output.as_uri()
    if not (output / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        written = folder / f"{question.name}.yaml"
        written.write_text(yaml.safe_dump(asked, sort_keys=False))
        began = time.monotonic()
        command = [sys.executable, "-m", "quantizer", "run", "-f", str(written), "--device", said.device]
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            raise SystemExit(
                f"{model.name}, {question.title}: the search did not end well; it says why above"
            )
        print(f"{model.name}, {question.title}: {time.monotonic() - began:.0f} s", flush=True)
    trials = json.loads((output / "manifest.json").read_text())["trials"]
    return [TrialRecord.model_validate(trial) for trial in trials]


def described(model: Model, trials: Sequence[TrialRecord]) -> Described:
    """What the page says of a model."""
    reader = SafetensorsReader(DirectorySource(model.path))
    parameters = sum(reader.tensor(name).numel() for name in reader.tensors)
    metrics = (metric for trial in trials for metric in trial.metrics)
    before = next(metric.input for metric in metrics if metric.name == "perplexity" and metric.input)
    return Described(model.name, model.config["architectures"][0], parameters, before, model.origin)


def main() -> int:
    """Runs what is missing, and writes the page."""
    said = options()
    models = [MODELS[name]() for name in said.models]
    models += [Model(path.resolve().name, path, "given with --model") for path in said.model]
    questions = [question for question in QUESTIONS if question.name in said.questions]
    found = {
        question.name: {model.name: search(question, model, said) for model in models}
        for question in questions
    }
    trials = {model.name: [one for each in found.values() for one in each[model.name]] for model in models}
    page = said.page.read_text(encoding="utf-8")
    whole = joined(
        read(page), tables(found, [described(model, trials[model.name]) for model in models], questions)
    )
    said.page.write_text(with_tables(page, whole), encoding="utf-8")
    said.page.with_suffix(".svg").write_bytes(draw(whole).file())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
