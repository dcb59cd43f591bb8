"""A quantized checkpoint in the form of another runtime: the step after the passes, with I/O of its own."""
