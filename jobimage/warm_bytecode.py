"""Imports what a run imports, so that the image holds the bytecode of it; executed while the image is built."""

import importlib

MODULES = (
    "boto3.session",
    "botocore.handlers",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "matplotlib.pyplot",
    "numpy",
    "prometheus_client",
    "pydantic",
    "rich.progress",
    "safetensors.torch",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "yaml",
)

for module in MODULES:
    importlib.import_module(module)
