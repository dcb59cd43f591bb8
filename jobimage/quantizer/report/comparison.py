"""Artifacts side by side: what each is and how good, what speaks against comparing them, and which is best."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quantization_api.manifest import Manifest
from quantization_api.status import MetricResult
from quantizer.report.differing import differ, served_apart
from quantizer.report.measures import Measure, measures
from quantizer.report.points import method
from quantizer.report.sizes import megabytes

SAME = 1e-4
"""Relative difference of two measurements of one model on one text: machines sum in another order."""


@dataclass(frozen=True)
class Compared:
    """An artifact and the number that it has in the comparison, from 1."""

    number: int
    uri: str
    manifest: Manifest

    @property
    def size_bytes(self) -> float:
        """Of the model."""
        return self.manifest.input.size_bytes / self.manifest.compression_ratio

    def result(self, name: str) -> MetricResult | None:
        """Of a metric."""
        return next((one for one in self.manifest.metrics if one.name == name), None)


@dataclass(frozen=True)
class Doubt:
    """A reason why figures do not compare."""

    sentence: str
    metric: str | None
    """The one that it is about; None: all."""


def numbered(artifacts: Sequence[tuple[str, Manifest]]) -> list[Compared]:
    """In the order in which they were asked for."""
    return [Compared(number, uri, manifest) for number, (uri, manifest) in enumerate(artifacts, 1)]


def all_measures(artifacts: Sequence[Compared]) -> list[Measure]:
    """Of all artifacts, each once."""
    return list({one.name: one for item in artifacts for one in measures(item.manifest)}.values())


def cells(item: Compared, shown: Sequence[Measure]) -> list[tuple[str, str]]:
    """The row of an artifact; of each cell what it says and what may stand below it."""
    name = item.uri.rstrip("/").rpartition("/")[2]
    results = [(one, item.result(one.name)) for one in shown]
    return [
        (f"{item.number} {name}", method(item.manifest)),
        (megabytes(item.size_bytes), ""),
        (f"{item.manifest.bits_per_weight:.3f}", ""),
        *((one.write(result.output if result else None), one.interval(result)) for one, result in results),
    ]


def head(shown: Sequence[Measure]) -> list[str]:
    """Of these rows."""
    return ["artifact", "size", "bits per weight", *(one.name for one in shown)]


def doubts(artifacts: Sequence[Compared]) -> list[Doubt]:
    """Why figures of these artifacts do not compare; empty where they do."""
    shown = all_measures(artifacts)
    revisions = {item.number: item.manifest.input.revision for item in artifacts}
    engines = {item.number: item.manifest.engine_version for item in artifacts}
    everything = [
        differ(revisions, "They were made from different models"),
        differ(engines, "They were made and measured by different versions of the engine"),
    ]
    found = [Doubt(f"{sentence}.", None) for sentence in everything if sentence]
    return found + [doubt for one in shown if (doubt := _doubt(artifacts, one))]


def compared_measures(artifacts: Sequence[Compared]) -> list[Measure]:
    """The metrics that nothing speaks against comparing."""
    found = doubts(artifacts)
    return [
        one for one in all_measures(artifacts) if not any(doubt.metric in (None, one.name) for doubt in found)
    ]


def best(artifacts: Sequence[Compared]) -> str:
    """Which is the smallest, and which is best by each metric that can be compared; or that nothing can."""
    if any(doubt.metric is None for doubt in doubts(artifacts)):
        return "These artifacts do not compare, so none is best."
    smallest = min(artifacts, key=lambda item: item.size_bytes)
    said = [f"Smallest: {_named(smallest)}, {megabytes(smallest.size_bytes)}"]
    for one in compared_measures(artifacts):
        known = [
            (result.output if one.lower_is_better else -result.output, item)
            for item in artifacts
            if (result := item.result(one.name)) and result.output is not None
        ]
        if len(known) > 1:
            loss, winner = min(known, key=lambda pair: (pair[0], pair[1].number))
            said.append(f"best {one.name}: {_named(winner)}, {one.write(abs(loss))}")
    return f"{'; '.join(said)}."


def _named(item: Compared) -> str:
    return f"{item.number} ({method(item.manifest)})"


def _doubt(artifacts: Sequence[Compared], measure: Measure) -> Doubt | None:
    """About one metric: measured on another text, or otherwise; served by other software, or on another device."""
    name = measure.name
    having = [(item, result) for item in artifacts if (result := item.result(name))]
    asked = {item.number: _asked(item.manifest, name) for item, _ in having}
    same = f"{name} of the same input model differs, so it was measured otherwise"
    before = {item.number: measure.write(result.input) for item, result in having}
    served = {item.number: result.measured_with or "unknown" for item, result in having}
    sentence = differ(asked, f"{name} was not measured on the same text in the same way")
    if not sentence and not measure.is_cost and not _agree([result.input for _, result in having]):
        sentence = differ(before, same) or f"{same}: by less than is shown here"
    if not sentence and measure.is_cost:
        sentence = served_apart(name, served)
    return Doubt(f"{sentence}.", name) if sentence else None


def _agree(values: Sequence[float | None]) -> bool:
    known = [value for value in values if value is not None]
    return not known or max(known) - min(known) <= SAME * max(map(abs, known))


def _asked(manifest: Manifest, name: str) -> str:
    """How a metric is measured, as the workflow says: its own fields but the goal, and the text and how it is cut."""
    workflow = manifest.workflow
    metrics = [metric for one in workflow.get("evaluators", []) for metric in one.get("metrics", [])]
    found: dict[str, Any] = next((metric for metric in metrics if metric.get("name") == name), {})
    own = {key: value for key, value in found.items() if key not in ("name", "goal", "data_config")}
    texts = [one for one in workflow.get("data_configs", []) if one["name"] == found.get("data_config")]
    cut = {**texts[0]["load_dataset_config"], **texts[0].get("pre_process_data_config", {})} if texts else {}
    return ", ".join(f"{key} {value}" for key, value in sorted((own | cut).items()))
