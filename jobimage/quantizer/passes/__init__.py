"""The quantization algorithms, on (weight, statistics), free of I/O."""
