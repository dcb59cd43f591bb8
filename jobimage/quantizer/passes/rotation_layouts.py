"""What a rotation needs to know of a model (algorithms.quarot.rotation_layout): from the table of architectures, or
found (found_rotations.py)."""

from quantization_api.failures import Category, QuantizationError
from quantization_api.text import shortened
from quantizer.algorithms.quarot.rotation_layout import HeadSite, LayerLayout, ModelLayout, NormKind, NormSite
from quantizer.decoder.architecture import Block
from quantizer.decoder.folding import FoldPlace
from quantizer.decoder.layout import DecoderLayout
from quantizer.passes.found_rotations import FoundRotation

KINDS: dict[str, NormKind] = {"rms": "rms", "rms_plus_one": "rms_plus_one", "layer_norm": "layer"}


class Layouts:
    """The layouts of a model and of its layers, from the table or found."""

    def __init__(self, model: DecoderLayout) -> None:
        self._model = model
        self._found = None if model.architecture.blocks else _tried(model)
        self.model = self._found.model if self._found else table_layout(model)

    def layer(self, index: int) -> LayerLayout:
        """Of one layer; layers may differ (experts in some)."""
        return self._found.layers[index] if self._found else layer_layout(self._model, index)


def _tried(model: DecoderLayout) -> FoundRotation:
    if not model.stream.plain:
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"rotate is true, but the layers of a {model.model_type} model take something else than hidden states "
            "[batch, tokens, width] alone, so the stream cannot be rotated",
            "Use a GptqQuantizer or an AutoAWQQuantizer without QuaRot.",
        )
    try:
        return FoundRotation(model)
    except (QuantizationError, MemoryError):
        raise
    except Exception as error:  # classes differ in how they stop at what they do not know
        said = shortened(next(iter(str(error).splitlines()), ""), 120)
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"a rotation of a {model.model_type} model cannot be tried ({type(error).__name__}: {said})",
            "Use a GptqQuantizer or an AutoAWQQuantizer without QuaRot.",
        ) from error


def table_layout(model: DecoderLayout) -> ModelLayout:
    """The layout of a model of the table."""
    architecture, final_norm = model.architecture, model.final_norm_name()
    assert final_norm is not None
    outside = model.outside_shapes()
    tables = tuple(name for name, shape in outside.items() if len(shape) == 2)
    others = [
        name for name, shape in outside.items() if len(shape) == 1 and not name.startswith(f"{final_norm}.")
    ]
    head = model.head_name()
    return ModelLayout(
        width=model.width,
        tables=(model.embedding_name(), *tables),
        final_norm=NormSite(final_norm, KINDS[architecture.norm], (head,)),
        head=head,
        tied=head == model.embedding_name(),
        layer=layer_layout(model, 0),
        embedding_norm=others[0].rpartition(".")[0] if others else None,
    )


def layer_layout(model: DecoderLayout, index: int) -> LayerLayout:
    """The layout of one layer; layers may differ (experts in some)."""
    architecture, stages = model.architecture, model.stages(index)
    blocks = architecture.blocks
    folds = model.folds(index)
    norms = tuple(
        NormSite(place.source, KINDS[architecture.norm], place.readers)
        for place in folds
        if place.kind == "norm"
    )
    writers = tuple(name for stage in stages[1::2] for name in stage.names)
    attention = next(block for block in blocks if block.kind == "attention")
    dense = len(stages[-1].names) == 1
    down = stages[-1].names[0]
    return LayerLayout(
        norms=norms,
        writers=writers,
        attention=_heads(model, attention, folds),
        down=down if dense else None,
        down_width=model.linear_shapes(index)[down][1],
        post_norms=tuple(block.post_norm for block in blocks if block.post_norm),
    )


def _heads(model: DecoderLayout, attention: Block, folds: tuple[FoldPlace, ...]) -> HeadSite:
    """From the fold of values into the output linear: its rows say where each head's values are made."""
    place = next(p for p in folds if p.kind == "linear" and p.readers == (attention.output_name,))
    assert place.rows is not None
    heads = int(model.config.num_attention_heads)
    size = len(place.rows) // heads
    starts = dict.fromkeys(int(place.rows[head * size]) for head in range(heads))
    return HeadSite(place.source, tuple(starts), attention.output_name, heads, size)
