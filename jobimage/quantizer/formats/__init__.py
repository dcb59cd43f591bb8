"""How quantized tensors lie on disk, one format a module; packing and reading back."""
