"""Loads quantized checkpoints with vLLM on the processor; run in its environment.

Usage: python vllm_reader.py REQUEST.pt RESULT.pt

REQUEST.pt holds {checkpoints: [{directory, dtype, tokenizer}], tokens [sequences, tokens]}: a dtype of vLLM ("auto":
what config.json says), and whether it is to have the tokenizer, as for a model that takes images. RESULT.pt gets for
each checkpoint {likeliest [sequences, tokens - 1], logprobs [sequences, tokens - 1]}: the id that is likeliest behind
each token but the last, and the log-probability of the one that does come; or the text of the error with which the
checkpoint was refused.
"""

import gc
import os
import sys

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # its errors come here, and nothing is left running
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCHDYNAMO_DISABLE": "1",
}

import torch
from vllm import LLM, SamplingParams, TokensPrompt
from vllm.distributed import cleanup_dist_env_and_memory


def read(directory: str, dtype: str, tokens: torch.Tensor, tokenizer: bool) -> dict[str, torch.Tensor]:
    """Loads one checkpoint and reads what it expects behind each token."""
    model = LLM(
        directory,
        dtype=dtype,
        enforce_eager=True,
        max_model_len=tokens.shape[1] + 1,
        max_num_seqs=len(tokens),
        skip_tokenizer_init=not tokenizer,
        disable_log_stats=True,
    )
    prompts = [TokensPrompt(prompt_token_ids=sequence.tolist()) for sequence in tokens]
    options = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1, detokenize=False)
    answers = model.generate(prompts, options, use_tqdm=False)
    likeliest, logprobs = [], []
    for sequence, answer in zip(tokens.tolist(), answers, strict=True):
        behind = answer.prompt_logprobs[1:]
        likeliest.append(
            [next(token for token, found in place.items() if found.rank == 1) for place in behind]
        )
        logprobs.append([place[token].logprob for token, place in zip(sequence[1:], behind, strict=True)])
    return {"likeliest": torch.tensor(likeliest), "logprobs": torch.tensor(logprobs)}


def main() -> None:
    """Reads every checkpoint of the request."""
    request = torch.load(sys.argv[1], weights_only=True)
    results: list[dict[str, torch.Tensor] | str] = []
    for checkpoint in request["checkpoints"]:
        try:
            needs = checkpoint.get("tokenizer", False)
            results.append(read(checkpoint["directory"], checkpoint["dtype"], request["tokens"], needs))
        except Exception as error:  # noqa: BLE001 - a refusal comes as any type
            results.append(f"{type(error).__name__}: {error}")
        gc.collect()
        cleanup_dist_env_and_memory()
    torch.save(results, sys.argv[2])


if __name__ == "__main__":
    main()
