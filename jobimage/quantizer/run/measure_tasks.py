"""The metrics of type accuracy: tasks of lm-eval on the input model and on the stored artifact."""

from collections.abc import Callable, Mapping

from quantizer.checkpoint.source import Source
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.whole import WholeModel, require_room, write
from quantizer.evaluation.measurement import Measurement
from quantizer.evaluation.streamed import OnProgress
from quantizer.evaluation.tasks.figures import measurement
from quantizer.evaluation.tasks.requests import Found
from quantizer.evaluation.tasks.scoring import score
from quantizer.evaluation.views import FloatView, View, open_view
from quantizer.run.checks import Job
from quantizer.run.setting import Setting

TASK_MODELS = 2
"""Models that the tasks are put to, one after the other."""


def measure_tasks(
    job: Job,
    setting: Setting,
    layout: DecoderLayout,
    artifact: Source,
    on_progress: OnProgress,
    on_model: Callable[[], None],
) -> dict[str, Measurement]:
    """By the metric's name. All requests of all metrics walk the layers of a model together.

    Args:
        layout: the input model, as the transformers of this image understands it.
        on_model: called after each model.

    Raises:
        QuantizationError: ArtifactCorrupt, DataNotFound; HostOutOfMemory or GpuOutOfMemory where tasks let the model
            write and it does not fit into memory.
    """
    if not job.tasks:
        return {}
    found = []
    for open_model in (
        lambda: FloatView(layout, setting.device),
        lambda: open_view(artifact, setting.device, job.weight_pass.modules),
    ):
        found.append(_figures(job, setting, open_model(), on_progress))
        on_model()
    return {
        name: measurement(asked.suite.metric, found[0][name], found[1][name])
        for name, asked in job.tasks.items()
    }


def _figures(
    job: Job, setting: Setting, view: View, on_progress: OnProgress
) -> dict[str, Mapping[str, Found]]:
    """What one model gives, by metric and task."""
    from quantizer.evaluation.tasks.harness import judge  # brings lm-eval, which only these metrics need

    asked = job.tasks
    pairs = [pair for one in asked.values() for pair in one.requests.pairs]
    answers = iter(score(view, pairs, on_progress, setting.scratch))
    texts = iter(_written(job, setting, view))
    return {
        name: judge(
            one.suite,
            one.reader,
            [next(answers) for _ in one.requests.pairs],
            [next(texts) for _ in one.requests.prompts],
        )
        for name, one in asked.items()
    }


def _written(job: Job, setting: Setting, view: View) -> list[list[int]]:
    """What a model writes behind all prompts."""
    prompts = [(one.ids, one.new) for asked in job.tasks.values() for one in asked.requests.prompts]
    if not prompts:
        return []
    require_room(job.model.layout, view.model.dtype, setting.device)
    end = view.model.layout.config.eos_token_id
    ends = frozenset(end if isinstance(end, list) else [] if end is None else [end])
    return write(WholeModel(view.model, view.layers()), prompts, ends)
