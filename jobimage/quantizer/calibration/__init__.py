"""From text to token batches."""
