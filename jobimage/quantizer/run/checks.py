"""A job that is ready to be computed: everything that can be wrong is found here, before work begins."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantization_api.failures import Category, QuantizationError
from quantization_api.passes import ModelBuilder
from quantization_api.pod import RunRequest
from quantization_api.recipe import recipe_digest
from quantization_api.workflow import DataConfig
from quantizer.calibration.tokens import (
    Preprocess,
    TokenBatches,
    batches_of,
    check_length,
    encode_apart,
    naming,
)
from quantizer.checkpoint.older_transformers import OlderConfigs, is_older
from quantizer.checkpoint.source import Source
from quantizer.decoder.architecture import ModuleNames
from quantizer.export.plan import PROVIDERS, check_model, check_unused, plan_build
from quantizer.implementations import model_types
from quantizer.passes.making import weight_pass
from quantizer.passes.sizes import check_sizes
from quantizer.passes.weight_pass import WeightPass
from quantizer.report.readers import not_read_by
from quantizer.run import serving
from quantizer.run.inputs import (
    DEFAULT_CALIBRATION,
    Model,
    check_revision,
    default_calibration,
    open_model,
    read_text,
)
from quantizer.run.memory import check_memory
from quantizer.run.remarks import remarks
from quantizer.run.servable import check_servable
from quantizer.run.setting import Setting
from quantizer.run.task_files import AskedTasks, ask_tasks
from quantizer.store.location import Location

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A request whose inputs were found and checked."""

    request: RunRequest
    weight_pass: WeightPass[Any]
    """The pass that rounds weights."""
    builder: ModelBuilder | None
    """The ONNX step after it, if there is one."""
    model: Model
    tokens: dict[str, TokenBatches]
    """By data config."""
    calibration: TokenBatches
    """What the pass calibrates with; nothing for a pass that does not."""
    recipe: str
    tasks: Mapping[str, AskedTasks] = field(default_factory=dict)
    """What the metrics of type accuracy ask, by the metric's name."""
    remarks: tuple[str, ...] = ()
    """About what of the model's folder is not taken."""
    software: Mapping[str, str] = field(default_factory=dict)
    """What serves the result for each metric of speed or memory, by its name."""

    @property
    def served_input(self) -> serving.Model:
        """The input model, to be served."""
        return _served_input(self.request, self.model)


@dataclass
class Opened:
    """What runs of this process have read of the inputs that they share; a search's runs read each once."""

    models: dict[ModuleNames | None, Model] = field(default_factory=dict)
    """By the names of the modules, for an architecture that is not in the table."""
    tokens: dict[str, TokenBatches] = field(default_factory=dict)
    """By data config."""
    revisions: dict[str, str] = field(default_factory=dict)
    """Of the texts, by data config."""
    tasks: dict[str, AskedTasks] = field(default_factory=dict)
    """By metric. Their files lie on the scratch of the run that opened them."""


def readable(source: Source) -> Source:
    """A model as the transformers of this image understands it (see checkpoint.older_transformers)."""
    return OlderConfigs(source) if is_older() else source


def check(request: RunRequest, setting: Setting, opened: Opened | None = None) -> Job:
    """Finds and checks the inputs of a request; `opened`: what earlier runs with these inputs have read.

    Raises:
        QuantizationError: InvalidWorkflow, ModelNotFound, ModelUnsupported, DataNotFound, DataInsufficient,
            AccessDenied, StorageUnavailable.
    """
    workflow, tracker, opened = request.workflow, setting.tracker, opened or Opened()
    chosen, last = weight_pass(*workflow.passes), workflow.passes[-1]
    builder = last if isinstance(last, ModelBuilder) else None
    for_onnx = _asks_for_onnx(chosen, builder)
    check_places(request)
    model = open_once(request, setting, chosen.modules, opened)
    if chosen.package is not None:
        model_types.check_model(chosen.package, model.layout.model_type, model.layout.reader.method)
    if for_onnx:
        check_model(model.layout)
        check_unused(model.layout.check_tensors().unused)
    check_sizes(model.layout, chosen.layer_pass)
    if scarce := check_memory(model.layout, setting.device, whole=chosen.package is not None):
        logger.warning("%s", scarce)
    served_input = _served_input(request, model)
    software = check_servable(workflow, chosen, model.layout, served_input, setting.machine)
    transform = chosen.layer_pass.bind(model.layout).transform
    said = remarks(
        model.source.list(), model.broken, model.layout, copies_unused=not transform.changes_hidden
    )
    for sentence in said:
        logger.warning("%s", sentence)
    refused = not_read_by(chosen, model.layout.model_type)
    if notice := " ".join(filter(None, (f"{refused}." if refused else "", scarce))):
        tracker.notice(notice)
    configs = data_configs(request, chosen, model)
    read_texts(request, setting, configs, model, opened)
    tokens = {name: opened.tokens[name] for name in configs}
    tasks = open_tasks(request, setting, model, opened)
    calibration = TokenBatches(())
    if chosen.needs_text:
        calibration = chosen.calibration(tokens[chosen.data_config or DEFAULT_CALIBRATION])
    setting.stop_check()
    check_revision(
        workflow.input_model, model
    )  # reads all weights: everything else that can be wrong was found
    recipe = recipe_digest(workflow, model.revision, data_revisions=data_revisions(opened, configs, tasks))
    logger.info("recipe %s", recipe)
    return Job(request, chosen, builder, model, tokens, calibration, recipe, tasks, said, software)


def _served_input(request: RunRequest, model: Model) -> serving.Model:
    place, source = Location.of_input(request.workflow.input_model.model_path), readable(model.source)
    return serving.Model.at(place, source, model.layout.reader.files, as_stored=source is model.source)


def open_once(request: RunRequest, setting: Setting, modules: ModuleNames | None, opened: Opened) -> Model:
    """The input model, unless it was opened before."""
    if modules not in opened.models:
        opened.models[modules] = open_model(
            request.workflow.input_model.model_path,
            request.storage,
            lambda count: setting.tracker.count_bytes("read model", count),
            modules,
            setting.patience,
        )
        setting.stop_check()
    return opened.models[modules]


def data_configs(request: RunRequest, chosen: WeightPass[Any], model: Model) -> dict[str, DataConfig]:
    """The data configs that a workflow uses, by name, the default calibration's included."""
    workflow = request.workflow
    configs = {name: workflow.data_config(name) for name in workflow.used_data_configs()}
    if chosen.needs_text and chosen.data_config is None:
        configs[DEFAULT_CALIBRATION] = default_calibration(
            request.default_calibration, model.layout.max_positions
        )
    return configs


def read_texts(
    request: RunRequest, setting: Setting, configs: dict[str, DataConfig], model: Model, opened: Opened
) -> None:
    """Reads the texts that were not read before, and makes tokens of them."""
    texts: dict[str, tuple[list[str], Preprocess]] = {}
    revisions: dict[str, str] = {}
    for name, config in configs.items():
        if name in opened.tokens:
            continue
        setting.stop_check()
        text = read_text(
            config,
            request.storage,
            lambda count: setting.tracker.count_bytes("read data", count),
            setting.patience,
        )
        with naming(name):
            check_length(text.preprocess, model.layout.max_positions)
        revisions[name] = text.revision
        texts[name] = (text.rows, text.preprocess)
    if configs and not texts:
        return
    encoded = encode_apart(readable(model.source), setting.scratch, texts)
    for name in texts:
        with naming(name):
            opened.tokens[name] = batches_of(encoded[name], model.layout.vocabulary)
    opened.revisions.update(revisions)


def open_tasks(request: RunRequest, setting: Setting, model: Model, opened: Opened) -> dict[str, AskedTasks]:
    """The tasks of metrics, by the metric's name, unless they were opened before."""
    asked = [metric for metric in request.workflow.metrics() if metric.tasks]
    for metric in asked:
        if metric.name not in opened.tasks:
            opened.tasks[metric.name] = ask_tasks(metric, request, setting, model, readable(model.source))
    return {metric.name: opened.tasks[metric.name] for metric in asked}


def data_revisions(
    opened: Opened, configs: Mapping[str, DataConfig], tasks: Mapping[str, AskedTasks]
) -> dict[str, str]:
    """The revisions of all that a workflow reads beside the model, as a recipe digest takes them."""
    texts = {name: opened.revisions[name] for name in configs}
    return texts | {f"tasks of {name}": asked.revision for name, asked in tasks.items()}


def _asks_for_onnx(chosen: WeightPass[Any], builder: ModelBuilder | None) -> bool:
    """Whether the result becomes an ONNX graph; raises InvalidWorkflow for a format that cannot."""
    layer_pass = chosen.layer_pass
    quantization = layer_pass.format.quantization_config() if layer_pass.packs else {}
    if builder is not None:
        from quantizer.export.model_builder import check_export  # brings onnx, which only this step needs

        check_export(quantization, builder)
        return True
    if not chosen.is_for_onnx:
        return False
    plan_build(
        {"quantization_config": quantization}, ModelBuilder(type="ModelBuilder"), tuple(PROVIDERS.values())
    )
    return True


def check_places(request: RunRequest) -> None:
    """Raises InvalidWorkflow where what is written would lie in the model, or the model in it."""
    output = Location.parse(request.output.uri)
    trials = Location.parse(request.output.trials_place)
    if trials.overlaps(Location.of_input(request.workflow.input_model.model_path)):
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            f"output.trialsUri {trials.uri} and input_model.model_path overlap",
            "Choose a trialsUri beside the model's directory.",
        )
    if output.overlaps(Location.of_input(request.workflow.input_model.model_path)):
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            f"output.uri {output.uri} and input_model.model_path overlap",
            "Choose an output.uri beside the model's directory.",
        )
