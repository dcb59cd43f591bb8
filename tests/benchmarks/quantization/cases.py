"""What is run, as data: the engines, what each is asked for, and the speed and quality the project promises.

A case is one engine with one method on one model. All cases of a run get the same model, the same token sequences and
the same grid (bits, group size, symmetry, no act-order); what an engine does differently by its design stands in
its note, so that the table can say it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Method = Literal["gptq", "awq"]
NATIVE = "native"
HERE = ""
"""The environment of the native engine: this interpreter."""


@dataclass(frozen=True)
class Engine:
    """A piece of software that quantizes.

    environment: name of its lock in requirements/, or HERE. runner: its script in runners/.
    gpu_dtype: what it loads the model in on a GPU, its own usual choice; on a CPU everyone takes float32, because
        half precision is slow there or missing.
    note: what it does that the others do not.
    """

    name: str
    environment: str
    runner: str
    methods: tuple[Method, ...]
    gpu_dtype: str = "bfloat16"
    note: str = ""
    refine: str = "standard"
    """Of native's GPTQ."""


ENGINES: tuple[Engine, ...] = (
    Engine(
        NATIVE,
        HERE,
        "run_native.py",
        ("gptq", "awq"),
        gpu_dtype="float32",
        note="reads, computes and writes layer by layer; its seconds include reading and writing",
    ),
    Engine("native-none", HERE, "run_native.py", ("gptq",), gpu_dtype="float32", refine="none"),
    Engine(
        "native-best",
        HERE,
        "run_native.py",
        ("gptq",),
        gpu_dtype="float32",
        refine="best",
        note="fits each layer's output as well, stage by stage in float32; what it fits multiplies in bfloat16 where "
        "that is faster",
    ),
    Engine("auto-gptq", "legacy", "run_auto_gptq.py", ("gptq",), gpu_dtype="float16"),
    Engine("autoawq", "legacy", "run_autoawq.py", ("awq",), gpu_dtype="float16"),
    Engine("gptqmodel", "readers", "run_gptqmodel.py", ("gptq", "awq")),
    Engine(
        "auto-round",
        "bench-auto-round",
        "run_auto_round.py",
        ("gptq",),
        note="learns for 200 steps a layer; packs while it saves, which is not in its seconds",
    ),
    Engine(
        "llm-compressor",
        "bench-llm-compressor",
        "run_llm_compressor.py",
        ("gptq", "awq"),
        note="packs while it saves, which is not in its seconds",
    ),
)


@dataclass(frozen=True)
class Case:
    """One engine with one method."""

    engine: Engine
    method: Method

    @property
    def name(self) -> str:
        """For files and logs."""
        return f"{self.engine.name}-{self.method}"


@dataclass(frozen=True)
class Bar:
    """A promise: native is at least `factor` times as fast as `peer`."""

    method: Method
    peer: str
    factor: float


SMALL_MODEL = (
    Bar("gptq", "auto-gptq", 5.0),
    Bar("gptq", "gptqmodel", 3.0),
    Bar("awq", "autoawq", 10.0),
    Bar("awq", "gptqmodel", 5.0),
)
WIDE_LAYER = (
    Bar("gptq", "auto-gptq", 2.0),
    Bar("gptq", "gptqmodel", 2.0),
    Bar("awq", "autoawq", 10.0),
)
WIDE = 2048
"""Hidden size from which on matrix products bind everyone."""


def bars(hidden_size: int) -> tuple[Bar, ...]:
    """The promises for a model of that width."""
    return WIDE_LAYER if hidden_size >= WIDE else SMALL_MODEL


PLAIN = "RTN"
NO_WORSE_THAN: Mapping[Method, tuple[str, ...]] = {"gptq": ("auto-gptq", PLAIN), "awq": ("autoawq", PLAIN)}
"""Whose KL native's is at most, at the same bits and groups, on a model that was trained."""


def cases(methods: Sequence[Method], engines: Sequence[str] = ()) -> list[Case]:
    """All cases of these methods, native first in each; engines: names to run beside native, empty for all.

    Raises:
        ValueError: an engine that is not known.
    """
    known = [engine.name for engine in ENGINES]
    unknown = sorted(set(engines) - set(known))
    if unknown:
        raise ValueError(f"there is no engine {', '.join(unknown)}; there are {', '.join(known)}")
    wanted = {NATIVE, *(engines or known)}
    return [
        Case(engine, method)
        for method in methods
        for engine in ENGINES
        if method in engine.methods and engine.name in wanted
    ]
