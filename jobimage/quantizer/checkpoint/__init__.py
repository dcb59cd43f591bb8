"""Checkpoints as transformers stores them: read tensor by tensor, written shard by shard."""
