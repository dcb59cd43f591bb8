"""The contract of the quantization operator: what users write, what operator and pods tell each other.

The three rooms of the house (operator, quantizer, local cluster) meet only here. Everything is a
pydantic model; the CustomResourceDefinition and the reference pages are generated from the models.
"""

GROUP = "quantization.dev"
VERSION = "v1alpha1"
KIND = "QuantizationJob"
PLURAL = "quantizationjobs"
SHORT_NAME = "qj"
API_VERSION = f"{GROUP}/{VERSION}"
ENGINE_VERSION = "0.4.1"
"""Version of what computes a result; part of every recipe digest, and the version of the distribution."""
