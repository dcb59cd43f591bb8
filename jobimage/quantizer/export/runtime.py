"""onnxruntime, loaded late and without its telemetry.

The official builds for Linux send events to their maker from the moment they are loaded; a variable that
they read then turns that off for the life of the process. It is set only while they load.
"""

import importlib
import os
from typing import Any

SILENCE = {"ORT_DISABLE_TELEMETRY": "1"}


def load_silently(name: str) -> Any:
    """The module onnxruntime, or another that brings it, such as onnxruntime_genai."""
    before = {variable: os.environ.get(variable) for variable in SILENCE}
    os.environ.update(SILENCE)
    try:
        return importlib.import_module(name)
    finally:
        for variable, value in before.items():
            if value is None:
                del os.environ[variable]
            else:
                os.environ[variable] = value


def runtime_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises: classes of its own that have nothing in common but Exception."""
    module = load_silently("onnxruntime.capi.onnxruntime_pybind11_state")
    own = [
        value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Exception)
    ]
    return (RuntimeError, *own)
