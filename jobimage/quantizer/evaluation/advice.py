"""What to try next when a goal is missed: what finished trials show, else what the workflow leaves to change."""

from collections.abc import Sequence

from quantization_api.manifest import TrialRecord
from quantization_api.passes import AutoAWQQuantizer, GptqQuantizer, QuaRot
from quantization_api.workflow import Workflow
from quantizer.evaluation.goals import Miss, missed_goal
from quantizer.evaluation.measurement import Measurement

FEW_SEQUENCES = 128
SMALL_GROUP, LARGE_GROUP = 32, 128
WIDE = 8
MOST_STEPS = 3


def what_to_try(workflow: Workflow, missed: Sequence[Miss], trials: Sequence[TrialRecord] = ()) -> str:
    """Sentences for the hint of QualityGoalMissed."""
    steps = [*_more_to_measure(workflow, missed), *_from_trials(workflow, missed, trials)]
    wide = [miss for miss in missed if not miss.narrowly]
    if not steps or wide:
        if any(miss.metric.type == "size_on_disk" for miss in missed):
            steps += _smaller(workflow)
        if any(miss.metric.type != "size_on_disk" for miss in missed):
            steps += _better(workflow)
    steps = list(dict.fromkeys(steps))[:MOST_STEPS]
    return f"Try {'; or '.join(steps)}." if steps else "Set a goal that fits."


def _more_to_measure(workflow: Workflow, missed: Sequence[Miss]) -> list[str]:
    """For goals that only the interval misses."""
    steps = []
    for metric in (miss.metric for miss in missed if miss.narrowly):
        if metric.data_config is not None:
            options = workflow.data_config(metric.data_config).pre_process_data_config
            how = "a longer text" if options.max_samples is None else "a larger max_samples"
            steps.append(f"more text to measure on: {how} of data config {metric.data_config}")
        elif metric.limit is not None:
            steps.append(f"more documents: a larger limit of metric {metric.name}")
    return steps


def _from_trials(workflow: Workflow, missed: Sequence[Miss], trials: Sequence[TrialRecord]) -> list[str]:
    """The smallest finished point whose values meet every goal."""
    metrics = workflow.metrics()
    if not missed or not trials:
        return []
    meeting = [
        trial
        for trial in trials
        if trial.state == "Finished"
        and len(trial.metrics) == len(metrics)
        and all(
            found.output is not None and not missed_goal(metric, Measurement(found.input, found.output))
            for metric, found in zip(metrics, trial.metrics, strict=True)
        )
    ]
    if not meeting:
        return []
    best = min(meeting, key=lambda trial: (trial.size_bytes or 0, trial.number))
    chosen = ", ".join(f"{name}={value}" for name, value in best.parameters.items())
    return [f"trial {best.number}, whose values meet every goal ({chosen})"]


def _better(workflow: Workflow) -> list[str]:
    """Changes of the pass that rounds that usually cost size or time and give quality."""
    steps: list[str] = []
    for item in workflow.passes:
        if isinstance(item, GptqQuantizer):
            steps += _better_gptq(item, workflow)
        elif isinstance(item, AutoAWQQuantizer):
            steps += _better_awq(item)
        elif isinstance(item, QuaRot):
            steps += _better_quarot(item)
    return [*steps, *_more_calibration(workflow)]


def _better_gptq(item: GptqQuantizer, workflow: Workflow) -> list[str]:
    steps = []
    if item.bits < WIDE:
        steps.append(f"more bits (bits: {3 if item.bits == 2 else 4 if item.bits == 3 else 8})")
    if item.group_size == -1 or item.group_size > SMALL_GROUP:
        smaller = LARGE_GROUP if item.group_size == -1 else item.group_size // 2
        steps.append(f"smaller groups (group_size: {smaller})")
    if not item.desc_act:
        steps.append("desc_act: true with static_groups: true")
    if not any(isinstance(one, QuaRot) for one in workflow.passes):
        steps.append("a QuaRot before the GptqQuantizer")
    return steps


def _better_awq(item: AutoAWQQuantizer) -> list[str]:
    steps = []
    if item.q_group_size == -1 or item.q_group_size > SMALL_GROUP:
        smaller = LARGE_GROUP if item.q_group_size == -1 else item.q_group_size // 2
        steps.append(f"smaller groups (q_group_size: {smaller})")
    return [*steps, "a GptqQuantizer, which also has 8 bits"]


def _better_quarot(item: QuaRot) -> list[str]:
    steps = []
    if item.a_bits < WIDE:
        steps.append("more bits of activations (a_bits: 8)")
    if item.w_bits < WIDE:
        steps.append("more bits of weights (w_bits: 8)")
    if item.w_bits < 16 and item.w_rtn:
        steps.append("w_gptq: true instead of w_rtn")
    if min(item.k_bits, item.v_bits) < WIDE:
        steps.append("more bits of the cache (k_bits and v_bits: 8)")
    return steps


def _more_calibration(workflow: Workflow) -> list[str]:
    """For the first data config that a pass calibrates with and that says how little it takes."""
    fields = ("data_config", "calibration_data_config")
    named = [getattr(item, field, None) for item in workflow.passes for field in fields]
    for name in dict.fromkeys(filter(None, named)):
        samples = workflow.data_config(name).pre_process_data_config.max_samples
        if samples is not None and samples < FEW_SEQUENCES:
            return [f"more calibration text (max_samples: {FEW_SEQUENCES} of data config {name})"]
    return []


def _smaller(workflow: Workflow) -> list[str]:
    """Changes of the pass that rounds that make the result smaller."""
    steps: list[str] = []
    for item in workflow.passes:
        if isinstance(item, GptqQuantizer):
            if item.bits > 2:
                steps.append(f"fewer bits (bits: {4 if item.bits == WIDE else item.bits - 1})")
            if 0 < item.group_size < LARGE_GROUP:
                steps.append(f"larger groups (group_size: {LARGE_GROUP})")
        elif isinstance(item, AutoAWQQuantizer):
            if 0 < item.q_group_size < LARGE_GROUP:
                steps.append(f"larger groups (q_group_size: {LARGE_GROUP})")
        elif isinstance(item, QuaRot) and item.w_bits > 4:
            steps.append("fewer bits of weights (w_bits: 4)")
    return steps
