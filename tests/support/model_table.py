"""docs/models.md: what each pass does with a tiny random model of every causal language model type of transformers.

`python -m tests.support.model_table > docs/models.md` writes it; TYPES behind the command are tried alone and printed.
With `--beside` before them they are those that take more than text; without any, that table alone is printed. With
`--going-on` a type that ends in something that is no refusal has a row that says so, and the others follow.
"""

import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tests.support.causal_types import TYPES, TYPES_BESIDE, small_model
from tests.support.decoder_families import Stores, layer_weights
from tests.support.engine import CPU, gptq_pass, make_pass, quarot_pass
from tests.support.reloaded import SAME, Reloaded, alone
from tests.support.walked import walked_error
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.model import DecoderModel

Try = Callable[[str, Path, Any], "Row"]
EXACT = "exact"
TOLERANCE = 1e-6

HEAD = """# Models

What each pass does with a tiny random model of every type for which transformers {version} has a causal language model.
`make models` makes this page again; sizes of the models are in `tests/support/causal_types.py`.

- GPTQ is *exact* where a walk over one layer at a time makes the logits of transformers' whole model, within a
  millionth of the largest logit in float32, or in float64 where rounding alone makes more of a difference. The linears
  of a layer, their order and what shares an input are found by looking.
- 8 bits are the *same* where a whole run quantizes the model to 8 bits with GPTQ, and the type's own class, loaded with
  the weights that the published artifact stores, makes the logits that the quantizer makes of the artifact: within a
  hundred-thousandth of the largest, and about those of the model. An empty cell: it was not seen.
- AWQ is *exact* where GPTQ is and scales fold into the layers; the numbers are the folds of the first and of the
  last layer.
- QuaRot is *exact* where the residual stream is known, or found, and layers, embeddings and head compute the same when
  it is rotated.

Real models of a type may have values in config.json that the tiny one does not have. What cannot be computed exactly
then is refused as well, before anything is computed.

{counts}
"""
BESIDE = """
## Images and sound beside the text

Every type for which transformers has a model that continues text and takes images or sound as well. The passes work on
its decoder of text; towers and what leads from them to the decoder are copied as stored, and the artifact loads with
the model's own class. *Exact* means what it means above, for text. A rotation would have to turn what images and sound
add to the residual stream too, so QuaRot is refused where they enter it.

{counts}
"""
TABLE = """
| type | GPTQ | AWQ | QuaRot | why not |
|---|---|---|---|---|
"""
TABLE_RELOADED = """
| type | GPTQ | 8 bits | AWQ | QuaRot | why not |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """What was seen of a type; a pass that is refused has an empty cell. reloaded: None in a table without it."""

    model_type: str
    gptq: str = ""
    awq: str = ""
    quarot: str = ""
    why: str = ""
    reloaded: str | None = None

    def __str__(self) -> str:
        reloaded = [] if self.reloaded is None else [self.reloaded]
        cells = (f"`{self.model_type}`", self.gptq, *reloaded, self.awq, self.quarot, self.why)
        return f"| {' | '.join(cells)} |"


def row_of(model_type: str, folder: Path, auto: Any = AutoModelForCausalLM) -> Row:
    """Makes a model of the type, as transformers' class `auto` knows it, in an empty folder and tries the passes.

    Raises whatever is no refusal: a type must not end in anything else.
    """
    try:
        whole = small_model(model_type, auto=auto)
        whole.save_pretrained(folder / "model")
    except Exception as error:  # noqa: BLE001 - classes refuse configurations in every way there is
        return Row(model_type, why=f"not tried: no tiny model could be made ({_why_not_made(error)})")
    try:
        layout = DecoderLayout.open(DirectorySource(folder / "model"))
        model = DecoderModel(layout, CPU)
        model.try_out()
    except QuantizationError as refusal:
        if refusal.category is not Category.MODEL_UNSUPPORTED:
            raise
        return Row(model_type, why=_cell(refusal.message))
    error = walked_error(whole, model, folder)
    if (
        error >= TOLERANCE
    ):  # some models differ from themselves by more where the same text is in another batch
        error = walked_error(whole, DecoderModel(layout, CPU, torch.float64), folder)
    if error >= TOLERANCE:
        return Row(model_type, gptq=f"off by {error:.0e}")
    folds = [_folds(model, index, folder) for index in (0, layout.layers - 1)]
    quarot, why = _rotation(layout)
    awq = f"{EXACT}, {folds[0]} and {folds[1]}" if any(folds) else ""
    return Row(model_type, EXACT, awq, quarot, why)


def with_reloaded(row: Row, found: Reloaded | None) -> Row:
    """The row with what was seen where 8 bits were loaded again; None: there was nothing to load."""
    if found is None:
        return replace(row, reloaded="")
    why = "; ".join(filter(None, (row.why, found.said and f"8 bits: {_cell(found.said)}")))
    return replace(row, reloaded=found.cell, why=why)


def _why_not_made(error: Exception) -> str:
    """The kind of an error; of a package that is missing, what is said of it."""
    said = str(error).strip().partition(" but ")[0]
    return said if isinstance(error, ImportError) else type(error).__name__


def _folds(model: DecoderModel, index: int, folder: Path) -> int:
    stores = Stores(folder)
    with (
        stores("hidden", [(1, 1)], model.layout.stream.row(1)) as hidden,
        model.walk(index, layer_weights(model, index), hidden, stores) as walk,
    ):
        return sum(place.obstacle is None for place in model.folds(index, walk))


def _rotation(layout: DecoderLayout) -> tuple[str, str]:
    try:
        make_pass(quarot_pass(), gptq_pass()).bind(layout)
    except QuantizationError as refusal:
        return "", _cell(refusal.message)
    return EXACT, ""


def _cell(message: str) -> str:
    return message.replace("|", "/").replace("\n", " ")


def section(head: str, rows: list[Row]) -> str:
    """A part of the page."""
    exact = {
        name: sum(getattr(row, name).startswith(EXACT) for row in rows) for name in ("gptq", "awq", "quarot")
    }
    tried = sum("not tried" not in row.why for row in rows)
    again = sum(row.reloaded == SAME for row in rows)
    eight = "" if rows[0].reloaded is None else f"; 8 bits are the same for {again} of them"
    counts = (
        f"Of {len(rows)} types {tried} could be tried: GPTQ is exact for {exact['gptq']}{eight}; AWQ is exact for "
        f"{exact['awq']}, QuaRot for {exact['quarot']}."
    )
    table = TABLE if rows[0].reloaded is None else TABLE_RELOADED
    return (
        head.format(version=transformers.__version__, counts=counts)
        + table
        + "\n".join(map(str, rows))
        + "\n"
    )


@contextmanager
def _quiet() -> Iterator[Path]:
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def row_in_any_case(model_type: str, folder: Path, auto: Any = AutoModelForCausalLM) -> Row:
    """As `row_of`; what is raised is in the row."""
    try:
        return row_of(model_type, folder, auto)
    except Exception as error:  # noqa: BLE001 - told
        return Row(model_type, why=_cell(f"no refusal: {type(error).__name__}: {error}"))


def tried(model_types: tuple[str, ...], auto: Any = AutoModelForCausalLM, tries: Try = row_of) -> list[Row]:
    """The rows of the types, each in a folder of its own."""
    with _quiet() as folder:
        rows = []
        for name in model_types:
            (folder / name).mkdir()
            row = tries(name, folder / name, auto)
            shutil.rmtree(folder / name)
            if auto is AutoModelForCausalLM:
                row = with_reloaded(row, alone(name) if row.gptq == EXACT else None)
            rows.append(row)
        return rows


def _printed(head: str, asked: tuple[str, ...], every: tuple[str, ...], auto: Any, tries: Try) -> str:
    rows = tried(asked or every, auto, tries)
    return "\n".join(map(str, rows)) + "\n" if asked else section(head, rows)


if __name__ == "__main__":
    asked = tuple(name for name in sys.argv[1:] if not name.startswith("--"))
    tries = row_in_any_case if "--going-on" in sys.argv else row_of
    if "--beside" not in sys.argv:
        print(_printed(HEAD, asked, TYPES, AutoModelForCausalLM, tries), end="")
    if "--beside" in sys.argv or not asked:
        print(_printed(BESIDE, asked, TYPES_BESIDE, AutoModelForMultimodalLM, tries), end="")
