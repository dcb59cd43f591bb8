"""The models of the guide: the example, two that are made from it, and a user's own."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.benchmarks.tuning_guide.conversion import to_gemma3, to_qwen3, train
from tests.benchmarks.tuning_guide.questions import LENGTH
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

CACHE = (
    Path(os.environ.get("QUANTIZATION_CACHE_DIR", Path.home() / ".cache/quantization-operator"))
    / "tuning-guide"
)
EXAMPLES = Path(__file__).parents[3] / "deploy/examples"
STORIES = EXAMPLES / "stories15m"
TEXTS = (EXAMPLES / "text/tinystories-calibration.txt", EXAMPLES / "text/tinystories-validation.txt")
STEPS = 40
"""Of training, 1,024 tokens each."""
CONVERSIONS: dict[str, Callable[[PreTrainedModel, torch.Tensor], PreTrainedModel]] = {
    "stories-qwen3": to_qwen3,
    "stories-gemma3": to_gemma3,
}
MADE = "made.json"
"""What is known of a model that was made here; the last file of its folder."""


@dataclass(frozen=True)
class Model:
    """A model, and what the page says of it."""

    name: str
    path: Path
    origin: str

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json."""
        found: dict[str, Any] = json.loads((self.path / "config.json").read_text())
        return found


def example() -> Model:
    """The model that the project ships."""
    return Model("stories15m", STORIES, "as published")


def converted(name: str) -> Model:
    """A model of another architecture, from the cache; made when it is not there."""
    folder = CACHE / f"models/{name}-{STEPS}"
    if not (folder / MADE).exists():
        shutil.rmtree(folder, ignore_errors=True)
        seconds = _make(CONVERSIONS[name], folder)
        (folder / MADE).write_text(json.dumps({"seconds": seconds}))
    minutes = json.loads((folder / MADE).read_text())["seconds"] / 60
    tokens = f"{STEPS * 1024:,}"
    return Model(
        name, folder, f"stories15m converted, and trained here on {tokens} tokens ({minutes:.0f} min)"
    )


def _make(convert: Callable[[PreTrainedModel, torch.Tensor], PreTrainedModel], folder: Path) -> float:
    """Converts the example and trains the result; how many seconds that took."""
    print(f"making {folder.name}", flush=True)
    torch.manual_seed(0)
    began = time.monotonic()
    teacher: PreTrainedModel = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32).eval()
    text = _sequences(TEXTS[0])
    student = convert(teacher, text)
    train(student, teacher, text, STEPS)
    student.to(torch.float16).save_pretrained(folder)
    for file in STORIES.glob("tokenizer*"):
        shutil.copyfile(file, folder / file.name)
    return time.monotonic() - began


def _sequences(text: Path) -> torch.Tensor:
    """Sequences of a text, (number, LENGTH)."""
    encode = AutoTokenizer.from_pretrained(STORIES)
    tokens = encode(text.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(tokens[: len(tokens) // LENGTH * LENGTH]).view(-1, LENGTH)
