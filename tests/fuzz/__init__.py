"""Spoiled inputs for the quantizer: seeded mutations, each run in a process of its own, and a judge.

    python -m tests.fuzz --count 500 --seed 7

What went wrong once is in mutations.jsonl and is run again by every `make test`.
"""
