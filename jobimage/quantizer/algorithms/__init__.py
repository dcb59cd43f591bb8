"""The quantization arithmetic: tensors in, tensors out; free of I/O, models and formats."""
