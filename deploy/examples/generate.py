"""Lets a quantized model continue a text: `python deploy/examples/generate.py DIRECTORY [PROMPT]`.

DIRECTORY is the `model/` part of an artifact. Its packed integers are turned into plain weights by the quantizer's own
reader, so this needs no GPU and no kernel; serving engines read the same directory as it is.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from quantizer.checkpoint.reader import SafetensorsReader
from quantizer.checkpoint.source import DirectorySource
from quantizer.formats.reading import stored_format


def load(directory: Path) -> PreTrainedModel:
    """A transformers model on the artifact's weights, in float32."""
    config = AutoConfig.from_pretrained(directory)
    layout = stored_format(config.to_dict()).format
    del config.quantization_config
    reader = SafetensorsReader(DirectorySource(directory))
    weights = {}
    for name in reader.tensors:
        linear, _, part = name.rpartition(".")
        if part not in layout.tensors:
            weights[name] = reader.tensor(name).float()
        elif part == layout.tensors[0]:
            stored = {each: reader.tensor(f"{linear}.{each}") for each in layout.tensors}
            weights[f"{linear}.weight"] = layout.as_read(layout.unpack(linear, stored)).float()
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    left = model.load_state_dict(weights, strict=False)
    if left.unexpected_keys or set(left.missing_keys) - set(model.all_tied_weights_keys):
        raise SystemExit(f"the artifact does not fit its config.json: {left}")
    model.tie_weights()
    model.eval()  # type: ignore[no-untyped-call]
    return model


def main() -> None:
    """Print the prompt and what the model makes of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("prompt", nargs="?", default="Once upon a time, a small robot")
    parser.add_argument("--tokens", type=int, default=48, help="how many tokens to add")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.directory)
    model = load(arguments.directory)
    inputs = tokenizer(arguments.prompt, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(  # type: ignore[operator]
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=arguments.tokens,
            do_sample=False,
        )
    print(tokenizer.decode(tokens[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()
