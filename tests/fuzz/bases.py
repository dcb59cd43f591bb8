"""Sound inputs that mutations begin with: tiny models of every architecture, texts, an artifact, job and run config."""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from tests.support.decoder_families import FAMILIES, make_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from quantizer.cli import parser

VOCABULARY = 96
STORY = "Once upon a time a small fox found a red ball and gave it to a friend who was sad. "
TEXT = STORY * 12
JOB, ARTIFACT, OUTPUT, SECRET = "job.yaml", "artifact", "out", "outside/secret.txt"
SECRET_WORDS = "the words of a file that no run may read"
SHARDED = "sharded"
CHECKPOINTS = {name: name.replace(",", "").replace(" ", "-") for name in FAMILIES} | {SHARDED: SHARDED}


def make(root: Path) -> None:
    """Writes everything below `root`, which is made."""
    root.mkdir(parents=True)
    _tokenizer(root / "tokenizer")
    for name, (model_type, fields) in FAMILIES.items():
        sized = {**fields, "vocab_size": VOCABULARY}
        _model(root, root / "models" / CHECKPOINTS[name], model_type, sized)
    _model(root, root / "models" / SHARDED, *_sized("llama"), max_shard_size="12KB")
    case(root, root / "first", "llama")
    code = parser.main(["run", "-f", str(root / "first" / JOB), "--scratch", str(root)])
    assert code == 0, "the sound inputs cannot be quantized"
    (root / "first" / OUTPUT).rename(root / ARTIFACT)
    shutil.rmtree(root / "first")


def case(root: Path, folder: Path, model: str) -> None:
    """A folder with everything that one run reads."""
    folder.mkdir(parents=True)
    shutil.copytree(root / "models" / CHECKPOINTS[model], folder / "model")
    if (root / ARTIFACT).exists():
        shutil.copytree(root / ARTIFACT, folder / ARTIFACT)
    (folder / "text.txt").write_text(TEXT)
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": STORY}) + "\n" for _ in range(12)))
    (folder / "text.json").write_text(json.dumps([{"text": STORY}] * 12))
    (folder / "text.csv").write_text("number,text\n" + "".join(f'{n},"{STORY}"\n' for n in range(12)))
    (folder / JOB).write_text(yaml.safe_dump(job(folder)))
    (folder / "olive.json").write_text(json.dumps(olive()))
    (folder / "request.json").write_text(json.dumps(request(folder)))
    (folder / "outside").mkdir()
    (folder / SECRET).write_text(SECRET_WORDS)


def job(folder: Path, text: str = "text.txt") -> dict[str, Any]:
    """A small job on the folder's model and text."""
    return {
        "apiVersion": "quantization.dev/v1alpha1",
        "kind": "QuantizationJob",
        "metadata": {"name": "fuzzed"},
        "spec": {
            "workflow": {
                "input_model": {"type": "HfModel", "model_path": f"file://{folder}/model"},
                "data_configs": [
                    {
                        "name": "cal",
                        "type": "HuggingfaceContainer",
                        "load_dataset_config": {"data_name": f"file://{folder}/{text}"},
                        "pre_process_data_config": {"max_seq_len": 16, "max_samples": 4},
                    }
                ],
                "passes": [{"type": "GptqQuantizer", "data_config": "cal", "bits": 4, "group_size": -1}],
            },
            "output": {"uri": f"file://{folder}/{OUTPUT}"},
        },
    }


def request(folder: Path) -> dict[str, Any]:
    """The same as a pod gets it."""
    spec = job(folder)["spec"]
    return {"name": "fuzzed", "namespace": "default", "uid": "5d3a", **spec, "storage": {}, "reuse": "Never"}


def olive() -> dict[str, Any]:
    """A run config of Olive."""
    return {
        "input_model": {"type": "HfModel", "model_path": "s3://models/one"},
        "data_configs": [
            {
                "name": "cal",
                "type": "HuggingfaceContainer",
                "load_dataset_config": {"data_name": "s3://texts/one.txt"},
                "pre_process_data_config": {"strategy": "join", "max_seq_len": 256, "max_samples": 64},
            }
        ],
        "evaluators": {
            "quality": {
                "metrics": [
                    {
                        "name": "perplexity",
                        "type": "accuracy",
                        "data_config": "cal",
                        "sub_types": [{"name": "perplexity", "higher_is_better": False}],
                    }
                ]
            }
        },
        "passes": {"quantize": {"type": "GptqQuantizer", "data_config": "cal", "bits": 4, "group_size": 32}},
        "pass_flows": [["quantize"]],
        "engine": {"evaluate_input_model": True},
        "evaluator": "quality",
    }


def _sized(family: str) -> tuple[str, dict[str, Any]]:
    model_type, fields = FAMILIES[family]
    return model_type, {**fields, "vocab_size": VOCABULARY}


def _model(root: Path, target: Path, model_type: str, fields: dict[str, Any], **options: Any) -> None:
    model = make_model(model_type, fields)
    model.save_pretrained(target, **options)
    for path in (root / "tokenizer").iterdir():
        shutil.copyfile(path, target / path.name)


def _tokenizer(target: Path) -> None:
    """A byte-pair tokenizer of a few dozen tokens."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(target)
