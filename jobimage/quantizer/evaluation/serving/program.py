"""Serves a model and measures how fast: `PYTHON program.py REQUEST RESULT`, in a process of its own.

It runs in the Python of the software that serves, where this package need not be, so it imports nothing of it: only
that software, and that late. Both arguments are JSON files.

    request  {"software", "model", "device", "threads", "shapes": [[prompt, new, batch], ...], "repeats", "seconds"}
    result   {"software", "device", "shapes": [{"first": [s, ...], "each": [s, ...], "peak": bytes}, ...]}

`model` is a directory, `first` the seconds to the first token of a batch of prompts, `each` those of every later
token of a sequence, once for each repeat.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

Prompts = list[list[int]]
Seconds = tuple[float, float]
"""To the first token, and for each later one."""
Shape = Sequence[int]
"""Prompt tokens, new tokens, batch size."""
FEWEST_REPEATS = 6
"""The least and the largest of six hold the median in 97 of 100 cases, those of five in 94."""


class Server(Protocol):
    """A model, loaded by the software that serves it."""

    name: str
    vocabulary: int

    def generate(self, prompts: Prompts, new_tokens: int) -> Seconds:
        """Continues each prompt greedily by exactly so many tokens."""


class Transformers:
    """transformers, with its own cache of keys and values."""

    def __init__(self, request: dict[str, Any]) -> None:
        import torch
        import transformers
        from transformers.generation.streamers import BaseStreamer

        class Clock(BaseStreamer):
            """Told of the prompt, then of each token as it reaches the processor."""

            def __init__(self) -> None:
                self.times: list[float] = []

            def put(self, _: Any) -> None:
                """One step is done."""
                self.times.append(time.perf_counter())

            def end(self) -> None:
                """Nothing more comes."""

        torch.set_num_threads(request["threads"])
        self.name = f"transformers {transformers.__version__}"
        self._torch, self._clock, self._device = torch, Clock, request["device"]
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            request["model"],
            **{"torch_dtype" if transformers.__version__.startswith("4.") else "dtype": "auto"},
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        self._model = model.to(self._device).eval()
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])

    def generate(self, prompts: Prompts, new_tokens: int) -> Seconds:
        """As Server.generate."""
        ids, clock = self._torch.tensor(prompts, device=self._device), self._clock()
        begun = time.perf_counter()
        with self._torch.inference_mode():
            self._model.generate(
                ids,
                attention_mask=self._torch.ones_like(ids),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
                streamer=clock,
            )
        _, first, *later = clock.times
        return first - begun, (later[-1] - first) / len(later) if later else 0.0


class Vllm:
    """vLLM's engine, in this process, with room for the keys and values of the largest shape."""

    BLOCK = 128

    def __init__(self, request: dict[str, Any]) -> None:
        import vllm

        shapes = request["shapes"]
        longest = max(prompt + new for prompt, new, _ in shapes)
        batch = max(size for _, _, size in shapes)
        blocks = max(size * -(-(prompt + new) // self.BLOCK) for prompt, new, size in shapes)
        self.name, self._vllm = f"vLLM {vllm.__version__}", vllm
        self._engine = vllm.LLM(
            model=request["model"],
            skip_tokenizer_init=True,
            max_model_len=longest,
            max_num_seqs=batch,
            max_num_batched_tokens=max(longest, *(prompt * size for prompt, _, size in shapes)),
            block_size=self.BLOCK,
            kv_cache_memory_bytes=2**30,  # else it takes most of the machine, whatever the next line says
            num_gpu_blocks_override=blocks + 2,
            enable_prefix_caching=False,
            disable_log_stats=False,
            trust_remote_code=False,
        )
        self.vocabulary = int(self._engine.llm_engine.model_config.get_vocab_size())

    def generate(self, prompts: Prompts, new_tokens: int) -> Seconds:
        """As Server.generate."""
        sampling = self._vllm.SamplingParams(
            temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False
        )
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        told = [output.metrics for output in self._engine.generate(asked, sampling, use_tqdm=False)]
        first = max(one.first_token_latency for one in told)
        span = max(one.last_token_ts for one in told) - max(one.first_token_ts for one in told)
        return first, span / max(1, new_tokens - 1)


class Onnxruntime:
    """onnxruntime-genai on a graph that its model builder made."""

    def __init__(self, request: dict[str, Any]) -> None:
        import onnxruntime_genai as genai

        folder = Path(request["model"])
        config = genai.Config(str(folder))
        options = {"intra_op_num_threads": request["threads"]}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self.name, self._genai = f"onnxruntime-genai {genai.__version__}", genai
        self._model = genai.Model(config)
        described = json.loads((folder / "genai_config.json").read_text())
        self.vocabulary = int(described["model"]["vocab_size"])

    def generate(self, prompts: Prompts, new_tokens: int) -> Seconds:
        """As Server.generate."""
        length = len(prompts[0]) + new_tokens
        options = self._genai.GeneratorParams(self._model)
        options.set_search_options(
            max_length=length, min_length=length, batch_size=len(prompts), do_sample=False
        )
        generator = self._genai.Generator(self._model, options)
        begun = time.perf_counter()
        generator.append_tokens(prompts if len(prompts) > 1 else prompts[0])
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(new_tokens - 1):
            generator.generate_next_token()
        return first - begun, (time.perf_counter() - first) / max(1, new_tokens - 1)


SERVERS: dict[str, type[Transformers] | type[Vllm] | type[Onnxruntime]] = {
    "transformers": Transformers,
    "vllm": Vllm,
    "onnxruntime": Onnxruntime,
}


def measure(server: Server, shape: Shape, repeats: int, seconds: float) -> dict[str, list[float]]:
    """The times of one shape, after one run to warm up: FEWEST_REPEATS at least, then until either limit."""
    prompt, new, batch = shape
    prompts = [
        [(7919 * place + 104729 * row) % server.vocabulary for place in range(prompt)] for row in range(batch)
    ]
    server.generate(prompts, new)
    parent, begun = os.getppid(), time.monotonic()
    times: list[Seconds] = []
    while len(times) < FEWEST_REPEATS or (len(times) < repeats and time.monotonic() - begun < seconds):
        times.append(server.generate(prompts, new))
        if os.getppid() != parent:  # whoever asked is gone
            sys.exit(1)
    return {"first": [first for first, _ in times], "each": [each for _, each in times]}


def peak_memory(on_gpu: bool) -> int:
    """The most bytes of the device's memory that this process held. getrusage would count its parent's, too."""
    if on_gpu:
        import torch

        return int(torch.cuda.max_memory_reserved())
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def device_name(on_gpu: bool, threads: int) -> str:
    """The device, as its maker calls it."""
    if on_gpu:
        import torch

        return str(torch.cuda.get_device_name(0))
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"cpu: {named[0] if named else platform.machine()}, {threads} threads"


def main() -> None:
    """Measures what the request asks for; small shapes first, so that each peak of memory is its own."""
    request = json.loads(Path(sys.argv[1]).read_text())
    on_gpu, shapes = request["device"] != "cpu", request["shapes"]
    server: Server = SERVERS[request["software"]](request)
    found: dict[int, dict[str, Any]] = {}
    for index in sorted(range(len(shapes)), key=lambda i: sum(shapes[i][:2]) * shapes[i][2]):
        times = measure(server, shapes[index], request["repeats"], request["seconds"])
        found[index] = {**times, "peak": peak_memory(on_gpu)}
    result = {
        "software": server.name,
        "device": device_name(on_gpu, request["threads"]),
        "shapes": [found[index] for index in range(len(shapes))],
    }
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
