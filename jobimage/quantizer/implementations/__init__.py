"""The stock packages, auto-gptq and autoawq, behind the same artifact contract as the native engine.

`quantize` in `package.py` is the entry. The packages live in an image of their own (Containerfile.legacy) on a
transformers that the native engine does not use, so nothing here imports decoder, passes or evaluation, and
only `auto_gptq`, `auto_awq` and `repairs` import a package; they are loaded when a run asks for them.

A run copies the model to scratch (local_model), has a package quantize it there, and uploads the files; see
run.steps. Everything after that is the same for package and engine.
"""
