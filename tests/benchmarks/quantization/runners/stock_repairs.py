"""The repairs that auto-gptq and autoawq need on a CPU: those of the job image, loaded by path.

The job image's package imports its own dependencies, which the environments of the stock packages need not have.
"""

import importlib.util
from pathlib import Path
from types import ModuleType

REPAIRS = Path(__file__).parents[4] / "jobimage/quantizer/implementations/repairs.py"


def load() -> ModuleType:
    """The module with the repairs."""
    specification = importlib.util.spec_from_file_location("stock_package_repairs", REPAIRS)
    if specification is None or specification.loader is None or not REPAIRS.exists():
        raise SystemExit(f"the repairs of the stock packages are missing: {REPAIRS}")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
