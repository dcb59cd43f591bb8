"""lm-eval itself, in a child process with limits of time and memory.

It runs twice. First it is asked what its tasks want of a model (`ask`); once a model has answered, it makes figures of
the answers (`judge`). Both times it makes the same requests, since files, seeds and order are the same. Every figure is
lm-eval's own; nothing of a task runs in the process of the run.
"""

import contextlib
import io
import json
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import datasets
import huggingface_hub.constants
import lm_eval.utils
import numpy as np
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lm_eval.api.task import ConfigurableTask
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.evaluator import evaluate
from typing_extensions import override

from quantization_api.failures import Category, QuantizationError
from quantizer.boundary.reading import reading
from quantizer.calibration.apart import Step, in_a_child
from quantizer.calibration.tokens import CHILD_BYTES, load_tokenizer
from quantizer.evaluation.tasks.definitions import CORRECT, read_tasks
from quantizer.evaluation.tasks.language_model import Generate, Score, TokenLM
from quantizer.evaluation.tasks.requests import Answer, Found, Pair, Prompt, Reader, Requests, Suite

ROOM, ROOM_FOR_BYTE = CHILD_BYTES + 1_500_000_000, 40
"""Memory that reading tasks may use: a base, and for each byte of their files."""


def ask(suite: Suite, reader: Reader) -> Requests:
    """What the tasks ask of a model.

    Raises:
        QuantizationError: DataNotFound for tasks that cannot be used; ModelUnsupported for the tokenizer.
    """

    def work(step: Step) -> bytes:
        asked = Requests()

        def score(pairs: Sequence[Pair]) -> list[Answer]:
            asked.pairs.extend(pairs)
            return [(0.0, False)] * len(pairs)

        def generate(prompts: Sequence[Prompt]) -> list[list[int]]:
            asked.prompts.extend(prompts)
            return [[]] * len(prompts)

        with _loaded(suite, reader, step, score, generate) as (tasks, model):
            _ask(tasks, model, suite.limit)
        return asked.packed()

    return Requests.unpacked(_apart(suite, work))


def judge(
    suite: Suite, reader: Reader, answers: Sequence[Answer], texts: Sequence[Sequence[int]]
) -> dict[str, Found]:
    """The figures that lm-eval makes of a model's answers, by task.

    Args:
        answers, texts: to the pairs and to the prompts of `ask`, in their order.
    """
    given, made = iter(answers), iter(texts)

    def work(step: Step) -> bytes:
        def score(pairs: Sequence[Pair]) -> list[Answer]:
            return [next(given) for _ in pairs]

        def generate(prompts: Sequence[Prompt]) -> list[Sequence[int]]:
            return [next(made) for _ in prompts]

        with _loaded(suite, reader, step, score, generate) as (tasks, model):
            with _finite(suite):
                found = evaluate(
                    lm=model,
                    task_dict={"tasks": tasks},
                    limit=suite.limit,
                    bootstrap_iters=0,
                    log_samples=True,
                )
            return json.dumps(
                {name: _figure(task, name, suite.metric, found) for name, task in tasks.items()}
            ).encode()

    return {task: Found(**one) for task, one in json.loads(_apart(suite, work)).items()}


def _apart(suite: Suite, work: Callable[[Step], bytes]) -> bytes:
    room = ROOM + ROOM_FOR_BYTE * suite.size
    return in_a_child(work, room, Category.DATA_NOT_FOUND, "the tasks", CORRECT)


@contextlib.contextmanager
def _finite(suite: Suite) -> Iterator[None]:
    """lm-eval takes the exponential of a mean: of a text that a model finds impossible, it is no number."""
    try:
        yield
    except OverflowError as error:
        raise QuantizationError(
            Category.NUMERICAL_FAILURE, f"{suite.metric} of {', '.join(suite.tasks)} is infinite"
        ) from error


@contextlib.contextmanager
def _loaded(
    suite: Suite, reader: Reader, step: Step, score: Score, generate: Generate
) -> Iterator[tuple[dict[str, ConfigurableTask], TokenLM]]:
    """The tasks and a model to ask; what fails inside is the fault of the tasks. Only for the child: it stays so."""
    logging.getLogger("lm_eval").setLevel(logging.CRITICAL)
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    lm_eval.utils.env = Sandbox(step)
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    model = TokenLM(load_tokenizer(reader.tokenizer), reader.config, score, generate)
    tasks: dict[str, ConfigurableTask] = {}
    with contextlib.redirect_stderr(io.StringIO()):  # of bars
        for name, config in read_tasks(suite.folder, list(suite.tasks)).items():
            step()
            with reading(Category.DATA_NOT_FOUND, f"task {name}", CORRECT):
                config["dataset_kwargs"]["cache_dir"] = str(reader.scratch / "datasets")
                tasks[name] = _task(config, suite)
        with reading(Category.DATA_NOT_FOUND, f"tasks {', '.join(suite.tasks)}", CORRECT):
            yield tasks, model


def _task(config: dict[str, Any], suite: Suite) -> ConfigurableTask:
    task = ConfigurableTask(config=config)
    if suite.metric not in task.aggregation():
        raise ValueError(f"it has no metric {suite.metric}; it has {', '.join(task.aggregation())}")
    shots = task.get_config("num_fewshot")
    if suite.num_fewshot is not None and shots != 0:  # as lm-eval: a task that says 0 means it
        task.set_config(key="num_fewshot", value=suite.num_fewshot)
    elif shots is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    return task


def _ask(tasks: dict[str, ConfigurableTask], model: TokenLM, limit: int | None) -> None:
    """All requests, by their type and in the order in which lm-eval's `evaluate` makes them."""
    requests = defaultdict(list)
    for task in tasks.values():
        task.build_all_requests(limit=limit, rank=0, world_size=1)
        for instance in task.instances:
            requests[instance.request_type].append(instance)
    for kind, instances in requests.items():
        getattr(model, kind)([one for one in instances for _ in range(one.repeats)])


def _figure(task: ConfigurableTask, name: str, metric: str, found: dict[str, Any]) -> dict[str, Any]:
    """Of several filters the first counts, which is the strictest in lm-eval's own tasks."""
    first = next(iter(task.instances[0].filtered_resps))
    samples = [one for one in found["samples"][name] if one["filter"] == first]
    return {
        "value": float(found["results"][name][f"{metric},{first}"]),
        "documents": [np.asarray(one[metric], dtype=float).tolist() for one in samples],
    }


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment in which the templates of tasks run: lm-eval's settings, without a way to anything else."""

    def __init__(self, step: Step) -> None:
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=True)
        self.filters["regex_replace"] = lm_eval.utils.regex_replace
        self._step = step

    @override
    def from_string(self, *args: Any, **kwargs: Any) -> Any:
        self._step()  # each template has the time of a step
        return super().from_string(*args, **kwargs)
