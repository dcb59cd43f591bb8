"""Olive's run configurations, as far as a QuantizationJob can say the same."""
