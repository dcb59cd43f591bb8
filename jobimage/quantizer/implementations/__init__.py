"""The stock packages, auto-gptq and autoawq, behind the same artifact contract as the native engine.

`quantize` in `package.py` is the entry. The packages live in an image of their own (Containerfile.legacy) on a
transformers that the native engine does not use, so nothing here imports decoder, passes or evaluation, and
only `auto_gptq`, `auto_awq` and `repairs` import a package; they are loaded when a run asks for them.

A workflow needs these lines (whoever asks for implementation native never comes here):

    check(parameters)                                       # with the other checks, before anything is read
    model_dir = copy_model(model.source, scratch / "model")
    report = quantize(model_dir, tokens[name], parameters, scratch / "artifact", on_progress, device)
    for name in report.files:
        writer.put_file(f"{MODEL_PREFIX}{name}", scratch / "artifact" / name)

What follows (evaluate the stored artifact, goals, report, manifest last) is the same: `report` has the fields
that the engine's own has.
"""
