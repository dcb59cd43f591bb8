"""Import of Olive's run configs, as far as a QuantizationJob can express them."""
