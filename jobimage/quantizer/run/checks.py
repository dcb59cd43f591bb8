"""A job that is ready to be computed: everything that can be wrong is found here, before work begins."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import torch

from quantization_api.failures import Category, QuantizationError
from quantization_api.passes import AutoAWQQuantizer, ModelBuilder, QuaRot
from quantization_api.pod import RunRequest
from quantization_api.recipe import recipe_digest
from quantization_api.workflow import Workflow
from quantizer.calibration.tokens import (
    Preprocess,
    TokenBatches,
    batches_of,
    check_length,
    encode_apart,
    naming,
)
from quantizer.checkpoint.older_transformers import OlderWords, is_older
from quantizer.checkpoint.source import Source
from quantizer.decoder.architecture import ModuleNames
from quantizer.export.plan import PROVIDERS, check_model, plan_build
from quantizer.implementations import refusals
from quantizer.passes.interface import LayerPass
from quantizer.passes.making import WeightPass, calibration_of, make_pass, module_names, needs_text
from quantizer.passes.sizes import check_sizes
from quantizer.progress.tracker import Tracker
from quantizer.report.readers import not_read_by
from quantizer.run.inputs import (
    DEFAULT_CALIBRATION,
    Model,
    check_revision,
    default_calibration,
    open_model,
    read_text,
    used_data_configs,
)
from quantizer.store.location import Location
from quantizer.store.patience import Patience

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """Where and how a run computes; nothing here changes the result.

    scratch: directory of this run. checkpoint: called often; what it raises ends the run. patience: with a storage that
    is away, of all stores of the run together.
    """

    scratch: Path
    device: torch.device
    tracker: Tracker
    checkpoint: Callable[[], None]
    now: Callable[[], datetime]
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True)
class Job:
    """A request whose inputs were found and checked.

    parameters: of the pass that rounds weights. builder: of the ONNX step after it, if there is one.
    """

    request: RunRequest
    parameters: WeightPass
    builder: ModelBuilder | None
    layer_pass: LayerPass
    modules: ModuleNames | None
    model: Model
    tokens: dict[str, TokenBatches]
    recipe: str

    @property
    def calibration(self) -> TokenBatches:
        """What the pass calibrates with; nothing for a pass that does not."""
        if not needs_text(self.parameters):
            return TokenBatches(())
        tokens = self.tokens[calibration_of(self.parameters) or DEFAULT_CALIBRATION]
        if not isinstance(self.parameters, QuaRot):
            return tokens
        return tokens.sample(
            self.parameters.calibration_nsamples,
            self.parameters.seed,
            self.parameters.calibration_batch_size,
        )

    @property
    def native(self) -> bool:
        """Whether the engine itself computes, not a stock package."""
        return isinstance(self.parameters, QuaRot) or self.parameters.implementation == "native"


def readable(source: Source) -> Source:
    """A model as the transformers of this image understands it (see implementations.older_transformers)."""
    return OlderWords(source) if is_older() else source


def check(request: RunRequest, setting: Setting) -> Job:
    """Finds and checks the inputs of a request.

    Raises:
        QuantizationError: InvalidWorkflow, ModelNotFound, ModelUnsupported, DataNotFound, DataInsufficient,
            AccessDenied, StorageUnavailable.
    """
    workflow, tracker = request.workflow, setting.tracker
    parameters, builder = _the_passes(workflow)
    stock = None if isinstance(parameters, QuaRot) or parameters.implementation == "native" else parameters
    if stock is not None:
        refusals.check(stock)
    layer_pass, modules = make_pass(parameters), module_names(parameters)
    for_onnx = _asks_for_onnx(parameters, builder, layer_pass)
    _check_places(request)
    model = open_model(
        workflow.input_model.model_path,
        request.storage,
        lambda count: tracker.count_bytes("read model", count),
        modules,
        setting.patience,
    )
    setting.checkpoint()
    check_revision(workflow.input_model, model)
    if stock is not None:
        refusals.check_model(stock, model.layout.architecture.model_type)
    if for_onnx:
        check_model(model.layout)
    check_sizes(model.layout, layer_pass)
    layer_pass.bind(model.layout)
    if sentence := not_read_by(parameters, model.layout.model_type):
        logger.info("%s", sentence)
    tokens, revisions = _read_texts(request, setting, parameters, model)
    if isinstance(parameters, QuaRot) and needs_text(parameters):
        _check_samples(parameters, tokens)
    recipe = recipe_digest(workflow, model.revision, data_revisions=revisions)
    logger.info("recipe %s", recipe)
    return Job(request, parameters, builder, layer_pass, modules, model, tokens, recipe)


def _read_texts(
    request: RunRequest, setting: Setting, parameters: WeightPass, model: Model
) -> tuple[dict[str, TokenBatches], dict[str, str]]:
    """Token batches and the text's revision, by name of the data config."""
    workflow = request.workflow
    configs = {name: workflow.data_config(name) for name in used_data_configs(workflow)}
    if needs_text(parameters) and calibration_of(parameters) is None:
        configs[DEFAULT_CALIBRATION] = default_calibration(
            request.default_calibration, model.layout.max_positions
        )
    texts: dict[str, tuple[list[str], Preprocess]] = {}
    revisions: dict[str, str] = {}
    for name, config in configs.items():
        setting.checkpoint()
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
    encoded = encode_apart(readable(model.source), setting.scratch, texts)
    tokens: dict[str, TokenBatches] = {}
    for name in texts:
        with naming(name):
            tokens[name] = batches_of(encoded[name], model.layout.vocabulary)
    return tokens, revisions


def _check_samples(parameters: QuaRot, tokens: dict[str, TokenBatches]) -> None:
    name, wanted = str(parameters.calibration_data_config), parameters.calibration_nsamples
    found = len(tokens[name].sequences)
    if found < wanted:
        raise QuantizationError(
            Category.DATA_INSUFFICIENT,
            f"data config {name} makes {found} sequences, calibration_nsamples is {wanted}",
            f"Write calibration_nsamples: {found} or less, or have the data config make more.",
        )


def _the_passes(workflow: Workflow) -> tuple[WeightPass, ModelBuilder | None]:
    first, *others = workflow.passes
    last = others[0] if others else None
    if (
        isinstance(first, WeightPass)
        and len(others) <= 1
        and (last is None or isinstance(last, ModelBuilder))
    ):
        return first, last
    types = ", ".join(item.type for item in workflow.passes)
    raise QuantizationError(
        Category.INVALID_WORKFLOW,
        "this release runs one GptqQuantizer, AutoAWQQuantizer or QuaRot, and a ModelBuilder after one of the "
        "first two if asked for; "
        f"not {types}",
    )


def _asks_for_onnx(parameters: WeightPass, builder: ModelBuilder | None, layer_pass: LayerPass) -> bool:
    """Whether the result is to become an ONNX graph; InvalidWorkflow for a format that none is made of."""
    quantization = layer_pass.format.quantization_config() if layer_pass.packs else {}
    if builder is not None:
        from quantizer.export.model_builder import check_export  # brings onnx, which only this step needs

        check_export(quantization, builder)
        return True
    if not isinstance(parameters, AutoAWQQuantizer) or not parameters.pack_model_for_onnx_conversion:
        return False
    plan_build(
        {"quantization_config": quantization}, ModelBuilder(type="ModelBuilder"), tuple(PROVIDERS.values())
    )
    return True


def _check_places(request: RunRequest) -> None:
    output = Location.parse(request.output.uri)
    if output.overlaps(Location.parse(request.workflow.input_model.model_path)):
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            f"output.uri {output.uri} and input_model.model_path lie in one another",
            "Choose an output.uri beside the model.",
        )
