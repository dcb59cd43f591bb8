"""How well a quantized model does, measured layer by layer in the memory of one layer."""
