"""The models that each package quantizes. What else a package cannot do, the contract refuses."""

from quantization_api.failures import Category, QuantizationError

MODEL_TYPES: dict[str, tuple[str, ...]] = {
    "auto-gptq": ("gpt_neox", "llama", "mistral", "opt", "qwen2"),
    "autoawq": ("gpt_neox", "llama", "mistral", "phi3", "qwen2", "qwen3"),
}
"""Those that can also be evaluated with the libraries of the legacy image (measured:
tests/e2e/test_implementations.py). With others a package stops halfway, or its transformers cannot load them."""


def check_model(package: str, model_type: str, stored: str = "") -> None:
    """Raises ModelUnsupported for a model that the package cannot quantize.

    stored: how the model is quantized already; "" where it is not.
    """
    if stored:
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"implementation {package} does not read a model that is quantized already ({stored})",
            "Use implementation native.",
        )
    known = MODEL_TYPES[package]
    if model_type not in known:
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"implementation {package} quantizes models of type {', '.join(known)}; "
            f"this one is of type {model_type}",
            "Use implementation native.",
        )
