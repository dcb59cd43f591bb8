"""`kubectl quantization`: what a person asks of QuantizationJobs, by the kubectl that they have, with their own rights.

Nothing but Python and kubectl is needed: of the contract only the names of things and `text` are imported, which import
nothing themselves. The operator does not know of it.
"""
