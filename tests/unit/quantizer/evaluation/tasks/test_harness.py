"""Figures of tasks: lm-eval's own run with transformers on the same files gives the same ones."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from tests.support.engine import CPU, EXAMPLES, STORIES, ignore_progress

from quantization_api.failures import Category, QuantizationError
from quantizer.calibration.tokens import copy_tokenizer
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.whole import WholeModel, write
from quantizer.evaluation.tasks.figures import ratio
from quantizer.evaluation.tasks.harness import ask, judge
from quantizer.evaluation.tasks.requests import Answer, Reader, Requests, Suite
from quantizer.evaluation.tasks.scoring import score
from quantizer.evaluation.views import FloatView

pytestmark = pytest.mark.unit

TASKS = EXAMPLES / "tasks"
SCORED = {
    "stories_next": ("acc", "acc_norm"),
    "stories_last_word": ("acc", "perplexity"),
    "stories_text": ("word_perplexity", "bits_per_byte"),
}
WRITTEN = {"stories_write": ("exact_match",)}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results and samples of lm-eval with its hf model, in the folder of the files."""
    folder = tmp_path_factory.mktemp("theirs")
    shutil.copytree(TASKS, folder / "tasks")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("accelerate", "accelerate.utils"):  # for several devices; on one it does nothing
            patch.setitem(sys.modules, name, MagicMock())
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
        from transformers import LlamaForCausalLM

        patch.chdir(folder / "tasks")
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        model = HFLM(
            pretrained=LlamaForCausalLM.from_pretrained(STORIES, dtype="float32"),
            tokenizer=str(STORIES),
            batch_size=8,
            device="cpu",
        )
        manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
        found: dict[str, Any] = lm_eval.simple_evaluate(
            model=model, tasks=[*SCORED, *WRITTEN], task_manager=manager, bootstrap_iters=0
        )
    return found


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    scratch = tmp_path_factory.mktemp("ours")
    source = DirectorySource(STORIES)
    tokenizer, _ = copy_tokenizer(source, scratch)
    return Reader(tokenizer, DecoderLayout.open(source).config, scratch)


@pytest.fixture(scope="module")
def asked(reader: Reader) -> dict[str, tuple[Requests, list[Answer], list[list[int]]]]:
    """What each task asks, and what the model answers and writes."""
    view = FloatView(DecoderLayout.open(DirectorySource(STORIES)), CPU)
    whole, found = WholeModel(view.model, view.layers()), {}
    for task, metric in {**SCORED, **WRITTEN}.items():
        requests = ask(Suite(TASKS, 1_000_000, (task,), metric[0]), reader)
        prompts = [(one.ids, one.new) for one in requests.prompts]
        answers = score(view, requests.pairs, ignore_progress, reader.scratch)
        found[task] = (requests, answers, write(whole, prompts, frozenset()))
    return found


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("task", "metric"), [(task, one) for task, metrics in SCORED.items() for one in metrics]
)
def test_figures_are_those_of_lm_evals_own_run(
    theirs: dict[str, Any],
    asked: dict[str, tuple[Requests, list[Answer], list[list[int]]]],
    reader: Reader,
    task: str,
    metric: str,
) -> None:
    found = judge(Suite(TASKS, 1_000_000, (task,), metric), reader, asked[task][1], [])[task]
    assert found.value == pytest.approx(theirs["results"][task][f"{metric},none"], rel=1e-4)
    assert len(found.documents) == 32
    assert ratio(metric, found.documents).value == pytest.approx(found.value, rel=1e-9)


@pytest.mark.nightly
def test_a_text_that_a_model_finds_impossible_is_a_fault_of_the_model(
    asked: dict[str, tuple[Requests, list[Answer], list[list[int]]]], reader: Reader
) -> None:
    answers = [(-1e6, False) for _ in asked["stories_text"][1]]
    with pytest.raises(QuantizationError, match="word_perplexity of stories_text is infinite") as caught:
        judge(Suite(TASKS, 1_000_000, ("stories_text",), "word_perplexity"), reader, answers, [])
    assert caught.value.category is Category.NUMERICAL_FAILURE


@pytest.mark.nightly
def test_what_is_written_is_judged_as_in_lm_evals_own_run(
    theirs: dict[str, Any],
    asked: dict[str, tuple[Requests, list[Answer], list[list[int]]]],
    reader: Reader,
) -> None:
    suite = Suite(TASKS, 1_000_000, ("stories_write",), "exact_match")
    found = judge(suite, reader, [], asked["stories_write"][2])["stories_write"]
    assert found.value == theirs["results"]["stories_write"]["exact_match,word"] > 0
    assert found.documents == [sample["exact_match"] for sample in theirs["samples"]["stories_write"]]


@pytest.mark.nightly
def test_log_likelihoods_are_those_of_lm_evals_own_run(
    theirs: dict[str, Any], asked: dict[str, tuple[Requests, list[Answer], list[list[int]]]]
) -> None:
    for task in ("stories_next", "stories_last_word"):
        found = asked[task][1]
        expected = [one for sample in theirs["samples"][task] for group in sample["resps"] for one in group]
        assert len(found) == len(expected) > 30
        for (likelihood, chosen), (their_likelihood, their_chosen) in zip(found, expected, strict=True):
            assert likelihood == pytest.approx(their_likelihood, abs=1e-3)
            assert chosen == their_chosen


def task_file(folder: Path, **changes: Any) -> Suite:
    """A suite of one small task with these fields."""
    task = {
        "task": "t",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "data.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": ["yes", "no"],
        "doc_to_target": "answer",
        **changes,
    }
    (folder / "t.yaml").write_text(json.dumps(task))
    (folder / "data.jsonl").write_text(
        "".join(json.dumps({"question": f"Is it {n}?", "answer": n % 2}) + "\n" for n in range(5))
    )
    return Suite(folder, 1000, ("t",), "acc")


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ nothing }}", "undefined"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "CPU time"),
        ("{{ 'a' * 9999999999 }}", "MB of memory"),
    ],
    ids=["attributes", "include", "undefined", "endless", "memory"],
)
def test_a_template_can_neither_reach_out_nor_run_for_ever(
    reader: Reader, tmp_path: Path, template: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantizer.calibration.apart.STEP_SECONDS", 2)
    with pytest.raises(QuantizationError, match=sentence) as caught:
        ask(task_file(tmp_path, doc_to_text=template), reader)
    assert caught.value.category is Category.DATA_NOT_FOUND


def test_a_metric_that_a_task_does_not_have_is_refused_with_those_it_has(
    reader: Reader, tmp_path: Path
) -> None:
    suite = replace(task_file(tmp_path), metric="exact_match")
    with pytest.raises(QuantizationError, match="it has no metric exact_match; it has acc"):
        ask(suite, reader)


def test_a_limit_and_examples_are_lm_evals(reader: Reader, tmp_path: Path) -> None:
    suite = replace(task_file(tmp_path), limit=2)
    plain, shown = ask(suite, reader), ask(replace(suite, num_fewshot=2), reader)
    assert len(plain.pairs) == len(shown.pairs) == 4
    assert len(shown.pairs[0].context) > 2 * len(plain.pairs[0].context)
