"""What needs a package that an image lacks is refused in a sentence; other errors of imports are not hidden."""

import pytest

from quantization_api.failures import Category, QuantizationError
from quantizer.boundary.packages import brings

pytestmark = pytest.mark.unit


def test_a_package_that_is_not_installed_is_refused_with_what_to_write() -> None:
    with (
        pytest.raises(QuantizationError, match="sampler tpe needs no_such_package") as caught,
        brings("no_such_package", "sampler tpe", "Write sampler: random."),
    ):
        import no_such_package.samplers  # type: ignore[import-not-found]  # noqa: F401
    assert (caught.value.category, caught.value.hint) == (Category.INVALID_WORKFLOW, "Write sampler: random.")


def test_another_module_that_is_missing_is_a_fault_of_ours() -> None:
    with pytest.raises(ModuleNotFoundError), brings("optuna", "sampler tpe", ""):
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
