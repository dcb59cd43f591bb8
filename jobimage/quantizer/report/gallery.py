"""Which pictures an artifact has: those that its manifest has figures for."""

from collections.abc import Iterator, Sequence

from quantization_api.manifest import Manifest
from quantizer.passes.making import recorded_pass
from quantizer.report.by_layer import bits_by_layer, ranges_by_layer
from quantizer.report.measures import Measure, measures
from quantizer.report.over_time import OVER_TIME, trials_over_time
from quantizer.report.pictures import error_by_layer, time_by_stage
from quantizer.report.points import Point, differs, trial_points
from quantizer.report.svg import Picture
from quantizer.report.trade_off import Axis, trade_off

CARD = ("bits-by-layer", "error-by-layer")
"""Beside those of a search, the pictures that the model card shows."""


def pictures(manifest: Manifest) -> list[Picture]:
    """What was chosen comes first, then what became of it."""
    shown = measures(manifest)
    found = trade_offs(trial_points(manifest), shown)
    goal = next((one for one in shown if not one.is_cost), None)
    if (over_time := trials_over_time(manifest.trials, goal)) is not None:
        found.append(over_time)
    return [*found, *_of_the_model(manifest)]


def trade_offs(points: Sequence[Point], shown: Sequence[Measure]) -> list[Picture]:
    """Each metric of quality against the size, and against each that says what serving costs."""
    costs = [Axis(one) for one in shown if one.is_cost]
    quality = [Axis(one) for one in shown if not one.is_cost]
    pairs = [(Axis(), up) for up in quality] + [(across, up) for up in quality for across in costs]
    return [drawn for across, up in pairs if (drawn := trade_off(points, across, up)) is not None]


def of_search(shown: Sequence[Picture]) -> list[Picture]:
    """Those that compare settings."""
    return [one for one in shown if one.name == OVER_TIME or "-against-" in one.name]


def for_the_card(shown: Sequence[Picture]) -> list[Picture]:
    """Those that the model card shows."""
    return [one for one in shown if one.name in CARD or one.name.endswith("-against-size")]


def _of_the_model(manifest: Manifest) -> Iterator[Picture]:
    if differs(manifest):
        written = recorded_pass(manifest.workflow["passes"]).written
        yield bits_by_layer(manifest.modules, written.bits, written.group_size)
    if manifest.modules:
        yield error_by_layer(manifest.modules)
    if manifest.ranges:
        yield ranges_by_layer(manifest.ranges)
    if manifest.seconds:
        yield time_by_stage(manifest.seconds)
