"""Loads checkpoints where peft is installed, with and without trust in code; run in the readers' environment.

Usage: python adapter_reader.py REQUEST.pt RESULT.pt

REQUEST.pt holds {directories, tokens [sequences, tokens]}. RESULT.pt gets for each directory the logits without and
with trust in code, or the name and text of the error with which it was refused.
"""

import sys

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import is_peft_available


def logits(directory: str, tokens: torch.Tensor, trust: bool) -> torch.Tensor | str:
    """What transformers computes."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory, trust_remote_code=trust, local_files_only=True
        )
    except (ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    with torch.inference_mode():
        return model.float()(tokens).logits


def main() -> None:
    """Answers the request."""
    assert is_peft_available()
    request = torch.load(sys.argv[1], weights_only=True)
    answers = [
        [logits(directory, request["tokens"], trust) for trust in (False, True)]
        for directory in request["directories"]
    ]
    torch.save(answers, sys.argv[2])


if __name__ == "__main__":
    main()
