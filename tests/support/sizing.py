"""What jobs of common sizes need, from the shapes of their models alone.

`python -m tests.support.sizing` prints the table of docs/sizing.md. Memory is the sum of the parts that a run must
hold (tests/benchmarks/peak_memory.py names them, and measures that a run takes at most BOUND times as much). Scratch
is what lies in files: hidden states of all calibration tokens, what the widest linear of a layer reads, and the shard
that is being written.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from tests.benchmarks.peak_memory import BOUND

from quantizer.checkpoint.writer import MAX_SHARD_BYTES
from quantizer.decoder.layout import DecoderLayout
from quantizer.run.memory import FLOAT, parts

IMPORTED = 0.6e9
"""Resident bytes of the engine with torch and transformers, before there is a model."""
SEQUENCES, TOKENS = 128, 2048
GROUP, BITS = 128, 4
STORED = 2
"""Bytes of a number that is not quantized."""
HEADER = (
    "| model | layers | memory, `true_sequential` | memory, all stages at once | scratch | artifact |",
    "|---|---:|---:|---:|---:|---:|",
)


@dataclass(frozen=True)
class Shape:
    """A Llama."""

    name: str
    hidden: int
    inner: int
    layers: int
    heads: int
    shared: int
    vocabulary: int
    tied: bool = False

    def layout(self) -> DecoderLayout:
        """Its layout, without a checkpoint."""
        config = {
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": 1,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.shared,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
        }
        reader: Any = SimpleNamespace(tensors={"model.layers.0.mlp.up_proj.weight": None})
        return DecoderLayout(reader, config)


SHAPES = (
    Shape("1B (2048 wide)", 2048, 8192, 16, 32, 8, 128256, tied=True),
    Shape("8B (4096 wide)", 4096, 14336, 32, 32, 8, 128256),
    Shape("70B (8192 wide)", 8192, 28672, 80, 64, 8, 128256),
)


def row(shape: Shape) -> str:
    """One line of the table, in GB."""
    layout = shape.layout()
    held = parts(layout)
    memory = [BOUND * (IMPORTED + held.needed(one_stage)) for one_stage in (True, False)]
    tokens = SEQUENCES * TOKENS
    scratch = FLOAT * tokens * (shape.hidden + shape.inner) + MAX_SHARD_BYTES
    tables = STORED * shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    artifact = shape.layers * held.weights / FLOAT * (BITS + (16 + BITS) / GROUP) / 8 + tables
    return "| " + " | ".join(
        [shape.name, str(shape.layers), *(f"{part / 1e9:.1f} GB" for part in (*memory, scratch, artifact))]
    ) + " |"  # fmt: skip


def table() -> str:
    """The whole table, as it stands in docs/sizing.md."""
    return "\n".join([*HEADER, *map(row, SHAPES)]) + "\n"


if __name__ == "__main__":
    print(table(), end="")
