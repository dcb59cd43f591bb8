"""Which software can serve what a pass wrote, on this machine, and which is chosen."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from quantization_api.failures import Category, QuantizationError
from quantizer.passes.written import Written

TRANSFORMERS, VLLM, ONNXRUNTIME = "transformers", "vllm", "onnxruntime"
NAMES = {TRANSFORMERS: "transformers", VLLM: "vLLM", ONNXRUNTIME: "onnxruntime"}
PYTHON_VARIABLES = {
    TRANSFORMERS: "QUANTIZATION_TRANSFORMERS_PYTHON",
    VLLM: "QUANTIZATION_VLLM_PYTHON",
}
"""Environment variables with the interpreter of an environment that has the software, if that is not this one."""
PACKAGES: dict[str, tuple[str, ...]] = {
    "gptq": ("optimum", "gptqmodel"),
    "gptq_v2": ("optimum", "gptqmodel"),
    "compressed-tensors": ("accelerate", "compressed-tensors"),
    "awq": ("gptqmodel",),
    "float": (),
    "quarot": (),
}
"""Packages that transformers needs beside itself to load a layout."""
VLLM_CPU_BITS = (4, 16)
"""What vLLM has kernels for on a processor (tests/e2e/test_vllm.py); 16: weights that are not quantized."""
LOOK = "import importlib.util, json, sys; print(json.dumps([n for n in sys.argv[1:] if importlib.util.find_spec(n)]))"
LOOK_SECONDS = 60
METRICS = "latency, throughput and peak_memory"


@dataclass(frozen=True)
class Pythons:
    """The interpreters that run the software: this one, where no other is named.

    Raises (has):
        QuantizationError: InvalidWorkflow for a named interpreter that does not run.
    """

    named: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_environment(cls) -> "Pythons":
        """As PYTHON_VARIABLES say."""
        found = {software: os.environ.get(name) for software, name in PYTHON_VARIABLES.items()}
        return cls({software: path for software, path in found.items() if path})

    def of(self, software: str) -> str:
        """The interpreter for a software."""
        return self.named.get(software, sys.executable)

    def has(self, software: str, packages: Sequence[str]) -> bool:
        """Whether its interpreter would find all packages."""
        if software not in self._found:
            self._found[software] = self._look(software)
        return set(packages) <= self._found[software]

    @cached_property
    def _found(self) -> dict[str, set[str]]:
        """The packages that were found, by software; an interpreter is asked when it is needed."""
        return {}

    def _look(self, software: str) -> set[str]:
        packages = sorted({"transformers", "vllm", "onnxruntime-genai", *sum(PACKAGES.values(), ())})
        modules = {name.replace("-", "_"): name for name in packages}
        command = [self.of(software), "-c", LOOK, *modules]
        try:
            run = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=True,
                timeout=LOOK_SECONDS,
                env=self.environment(software),
            )
        except (OSError, subprocess.SubprocessError) as error:
            variable = PYTHON_VARIABLES.get(software, "PATH")
            raise QuantizationError(
                Category.INVALID_WORKFLOW,
                f"the Python for {NAMES[software]}, {self.of(software)}, does not run: {error}",
                f"Name one with {NAMES[software]} in {variable}, or leave {METRICS} out.",
            ) from error
        return {modules[name] for name in json.loads(run.stdout)}

    def environment(self, software: str) -> dict[str, str]:
        """Variables for its processes: without credentials, and for another Python without the paths of this one."""
        foreign = software in self.named
        return {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("AWS_") and not (foreign and name in ("PYTHONPATH", "PYTHONHOME"))
        }


@dataclass(frozen=True)
class Result:
    """What decides who can serve the result of a workflow."""

    written: Written
    read_by: Sequence[str]
    """Names of the software that reads it, of report.readers."""
    on_gpu: bool
    is_graph: bool
    """Whether a ModelBuilder makes an ONNX graph of it."""


def choose(asked: str | None, result: Result, pythons: Pythons) -> str:
    """The software that serves the result.

    Args:
        asked: Metric.software.

    Raises:
        QuantizationError: InvalidWorkflow, saying why it cannot be and what to write instead.
    """
    automatic = (ONNXRUNTIME,) if result.is_graph else (VLLM, TRANSFORMERS)
    candidates = automatic if asked in (None, "auto") else (str(asked),)
    reasons = []
    for software in candidates:
        reason = _obstacle(software, result, pythons)
        if reason is None:
            return software
        reasons.append(reason)
    raise QuantizationError(
        Category.INVALID_WORKFLOW,
        f"{METRICS} cannot be measured of this result: {'; '.join(reasons)}",
        _instead(candidates, result, pythons),
    )


def choose_for_input(software: str, pythons: Pythons) -> str:
    """What serves the input model beside it: the same, but transformers where the result is an ONNX graph."""
    chosen = TRANSFORMERS if software == ONNXRUNTIME else software
    if not pythons.has(chosen, (chosen,)):
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            f"{NAMES[chosen]}, which serves the input model for comparison, is not installed",
            f"Name a Python that has it in {PYTHON_VARIABLES[chosen]}.",
        )
    return chosen


def _obstacle(software: str, result: Result, pythons: Pythons) -> str | None:
    """Why the software cannot serve the result here, or None."""
    if software == ONNXRUNTIME:
        if not result.is_graph:
            return "onnxruntime serves what a ModelBuilder makes, and passes end without one"
        return (
            None if pythons.has(ONNXRUNTIME, ("onnxruntime-genai",)) else "onnxruntime-genai is not installed"
        )
    name = NAMES[software]
    if not _reads(software, result):
        return (
            f"{name} does not read {result.written.model_type} models in the format {result.written.layout}"
        )
    if software == VLLM:
        if not pythons.has(VLLM, ("vllm",)):
            return "vLLM is not installed"
        if (
            not result.on_gpu
            and result.written.layout != "float"
            and result.written.bits not in VLLM_CPU_BITS
        ):
            return f"vLLM has no kernels for {result.written.bits} bits on a processor"
        return None
    needed = PACKAGES[result.written.layout.partition(" ")[0]]
    if missing := [package for package in needed if not pythons.has(TRANSFORMERS, (package,))]:
        return f"transformers needs {' and '.join(missing)} to load it, which {_are(missing)} not installed"
    return None


def _reads(software: str, result: Result) -> bool:
    """As the table of readers says. Weights that a reader unpacks when it loads them would be timed unpacked."""
    if software == VLLM:
        return "vLLM" in result.read_by
    if result.written.layout == "quarot":  # it needs code of the artifact, which is never run here
        return False
    return any(name.startswith("transformers") and "dequantize" not in name for name in result.read_by)


def _instead(candidates: Sequence[str], result: Result, pythons: Pythons) -> str:
    others = [name for name in NAMES if name not in candidates and _obstacle(name, result, pythons) is None]
    if others:
        return f"Write software: {' or '.join(others)}, or leave software out."
    variables = " or ".join(PYTHON_VARIABLES.values())
    return (
        f"Leave {METRICS} out, or name a Python that has the missing packages in the environment variable "
        f"{variables} of the image."
    )


def _are(names: Sequence[str]) -> str:
    return "are" if len(names) > 1 else "is"
