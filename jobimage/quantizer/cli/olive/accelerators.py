"""The execution provider that a run config's systems ask ModelBuilder's graph to be built for."""

from typing import Any

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
BUILT_FOR_ITSELF = (
    CUDA,
    "DmlExecutionProvider",
    "WebGpuExecutionProvider",
    "JsExecutionProvider",
    "NvTensorRTRTXExecutionProvider",
)
"""Execution providers that Olive's ModelBuilder has a graph for; for all others it builds that of a CPU."""


def execution_provider(systems: Any, target: Any) -> str:
    """The execution provider that Olive builds the graph for.

    Args:
        systems: `systems`. target: `target`, the name of one of them, or a system itself.
    """
    system = target if isinstance(target, dict) else _named(systems, target)
    if isinstance(system, dict) and isinstance(system.get("config"), dict):  # its fields may be nested
        system = {**system, **system["config"]}
    accelerators = system.get("accelerators") if isinstance(system, dict) else None
    first = accelerators[0] if isinstance(accelerators, list) and accelerators else None
    if not isinstance(first, dict):
        return CPU
    names = first.get("execution_providers")
    name = names[0] if isinstance(names, list) and names else None
    if name is None and first.get("device") == "gpu":
        return CUDA
    return name if name in BUILT_FOR_ITSELF else CPU


def _named(systems: Any, target: Any) -> Any:
    """The target among the systems; the only one where no target is named."""
    if not isinstance(systems, dict):
        return None
    if isinstance(target, str):
        return systems.get(target)
    return next(iter(systems.values())) if len(systems) == 1 else None
