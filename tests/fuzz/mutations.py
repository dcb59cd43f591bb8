"""Seeded mutations of each class of input; the same seed is the same mutation."""

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.fuzz.bases import CHECKPOINTS, JOB, SHARDED
from tests.fuzz.edits import Edit, Key, header_of, paths_of
from tests.fuzz.values import CONFIG_VALUES, HOSTILE, PATTERNS, SIZES, UNITS, VALUES, YAML

CONFIG, WEIGHTS, INDEX = "model/config.json", "model/model.safetensors", "model/model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json")


@dataclass(frozen=True)
class Mutation:
    """What is done to which sound inputs. kind: class of input, which decides what runs. model: of bases."""

    name: str
    kind: str
    model: str
    edits: tuple[Edit, ...]
    text: str = "text.txt"

    def as_line(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of_line(cls, line: str) -> "Mutation":
        """See as_line."""
        fields = json.loads(line)
        return cls(**{**fields, "edits": tuple(fields["edits"])})


def mutation(kind: str, seed: int, number: int, case: Callable[[str], Path]) -> Mutation:
    """Mutation `number` of a class. case: a sound case of a model, to look at."""
    rng = random.Random(f"{seed} {kind} {number}")
    model = rng.choice(MODELS[kind])
    maker, folder = MAKERS[kind], case(model)
    text = f"text.{rng.choice(('txt', 'jsonl', 'json', 'csv'))}" if kind == "text" else "text.txt"
    edits = [edit for _ in range(rng.choice((1, 1, 1, 2, 3))) for edit in maker(rng, folder)]
    if kind == "text":
        edits = [{**edit, "file": text} for edit in edits]
    return Mutation(f"{kind}/{seed}/{number}", kind, model, tuple(edits), text)


def of_json(rng: random.Random, folder: Path, file: str, op: str = "set", document: Any = None) -> Edit:
    """A change of a JSON document: a value, a key gone or renamed, a new key, or its bytes."""
    document = json.loads((folder / file).read_bytes()) if document is None else document
    paths = paths_of(document)
    path: tuple[Key, ...] = rng.choice(paths) if paths else ()
    how = rng.random()
    edit: Edit = {"op": op, "file": file, "path": path}
    if how < 0.1:
        return {**edit, "delete": True}
    if how < 0.15:
        return {**edit, "rename": rng.choice(HOSTILE)}
    if how < 0.2:
        return {**edit, "path": (*path[:-1], rng.choice(HOSTILE)), "value": rng.choice(VALUES)}
    if how < 0.23:
        return {**edit, "path": (), "value": rng.choice(VALUES)}
    return {**edit, "value": rng.choice(VALUES)}


def of_bytes(rng: random.Random, file: str, op: str = "bytes") -> Edit:
    """A change of a file's bytes."""
    how = rng.choice(
        ("flip", "flip", "cut", "insert", "drop", "repeat", "bom", "utf-16", "latin-1", "gzip", "twice")
    )
    edit: Edit = {"op": op, "file": file, "how": how, "at": rng.random()}
    details: dict[str, Edit] = {
        "flip": {"mask": 1 << rng.randrange(8)},
        "insert": {
            "hex": rng.choice(("00", "ff", "0a", "22", "7b", "5b", "eda080", "1b5b33316d", "c3")),
            "times": rng.choice((1, 1000, 10**6)),
        },
        "drop": {"count": rng.choice((1, 10, 1000))},
        "repeat": {"times": rng.choice((0, 2, 3))},
    }
    return {**edit, **details.get(how, {})}


def _config(rng: random.Random, folder: Path) -> list[Edit]:
    how = rng.random()
    if how < 0.08:
        return [of_bytes(rng, CONFIG)]
    if how < 0.4:
        key = rng.choice(list(CONFIG_VALUES))
        return [{"op": "set", "file": CONFIG, "path": (key,), "value": rng.choice(CONFIG_VALUES[key])}]
    if how < 0.5:
        key = rng.choice(list(CONFIG_VALUES))
        return [{"op": "set", "file": CONFIG, "path": (key,), "value": rng.choice(VALUES)}]
    return [of_json(rng, folder, CONFIG)]


def _generation(rng: random.Random, folder: Path) -> list[Edit]:
    file = "model/generation_config.json"
    return [of_json(rng, folder, file) if rng.random() < 0.7 else of_bytes(rng, file)]


def _index(rng: random.Random, folder: Path) -> list[Edit]:
    how = rng.random()
    if how < 0.1:
        times = rng.choice((10, 10**4, 10**5))
        return [
            {
                "op": "index",
                "file": INDEX,
                "name": rng.choice(("model.layers", "x", *HOSTILE[:4])),
                "times": times,
            }
        ]
    if how < 0.25:
        return [of_bytes(rng, INDEX)]
    if how < 0.45:
        name = rng.choice(list(json.loads((folder / INDEX).read_bytes())["weight_map"]))
        value = rng.choice((*HOSTILE, "model-00001-of-00002.safetensors", "config.json", "text.txt", *VALUES))
        return [{"op": "set", "file": INDEX, "path": ("weight_map", name), "value": value}]
    return [of_json(rng, folder, INDEX)]


def _header(rng: random.Random, folder: Path) -> list[Edit]:
    how = rng.random()
    if how < 0.1:
        lengths = (0, 1, 7, 10**6, 10**8, 10**8 + 1, 2**31, 2**62, 2**63, 2**64 - 1)
        return [{"op": "header-length", "file": WEIGHTS, "value": rng.choice(lengths)}]
    if how < 0.2:
        return [of_bytes(rng, WEIGHTS, "header-bytes")]
    if how < 0.3:
        return [of_bytes(rng, WEIGHTS)]
    document = json.loads(header_of((folder / WEIGHTS).read_bytes())[0])
    if how < 0.75:
        name = rng.choice([name for name in document if name != "__metadata__"])
        entry = document[name]
        path: tuple[Key, ...] = (name, rng.choice(list(entry)))
        if isinstance(entry[path[1]], list) and entry[path[1]] and rng.random() < 0.7:
            path = (*path, rng.randrange(len(entry[path[1]])))
        dtypes = ("F32", "F64", "F16", "I4", "F4", "F8_E5M2", "C64", "BOOL", "U64", "f32")
        value = rng.choice((*SIZES, *dtypes, *document[rng.choice(list(document))].values(), *VALUES))
        return [{"op": "set-header", "file": WEIGHTS, "path": path, "value": value}]
    return [of_json(rng, folder, WEIGHTS, "set-header", document)]


def _tokenizer(rng: random.Random, folder: Path) -> list[Edit]:
    file = "model/" + rng.choice(TOKENIZER_FILES[:2])
    how = rng.random()
    if how < 0.2:
        return [of_bytes(rng, file)]
    if how < 0.3:
        kind = rng.choice(("Split", "Replace"))
        pattern = {"Regex": rng.choice(PATTERNS)}
        step = {
            "type": kind,
            "pattern": pattern,
            "behavior": "Isolated",
            "invert": False,
            "content": "x" * rng.choice((1, 10**5)),
        }
        where = ("pre_tokenizer",) if kind == "Split" else ("normalizer",)
        return [
            {"op": "set", "file": "model/tokenizer.json", "path": where, "value": step},
            {"op": "text", "file": "text.txt", "unit": rng.choice(("a", "xa ", "x")), "times": 20_000},
        ]
    if how < 0.45:
        key = rng.choice(
            (
                "tokenizer_class",
                "auto_map",
                "model_max_length",
                "chat_template",
                "added_tokens_decoder",
                "extra_special_tokens",
                "backend",
            )
        )
        classes = (
            "LlamaTokenizer",
            "GPT2Tokenizer",
            "BertTokenizer",
            "T5Tokenizer",
            "Evil",
            "PreTrainedTokenizer",
            "ByT5Tokenizer",
        )
        values = (
            *classes,
            {"AutoTokenizer": ["evil.T", None]},
            {"0": {"content": "x"}},
            {"200": {"content": "y", "special": True}},
            "{% for %}",
            "{{ 9**9**9 }}",
        )
        return [
            {
                "op": "set",
                "file": "model/tokenizer_config.json",
                "path": (key,),
                "value": rng.choice((*values, *VALUES)),
            }
        ]
    if how < 0.5:
        return [{"op": "remove", "file": file}]
    if how < 0.55:
        name = rng.choice(
            (
                "tokenizer.model",
                "vocab.json",
                "merges.txt",
                "vocab.txt",
                "added_tokens.json",
                "special_tokens_map.json",
            )
        )
        made: list[Edit] = [
            {
                "op": "text",
                "file": f"model/{name}",
                "text": rng.choice((*HOSTILE, "{}", "[]", '{"a": 1}', "a b\n")),
            }
        ]
        return made + ([{"op": "remove", "file": "model/tokenizer.json"}] if rng.random() < 0.5 else [])
    return [of_json(rng, folder, file)]


def _text(rng: random.Random, folder: Path) -> list[Edit]:
    how = rng.random()
    if how < 0.35:
        return [of_bytes(rng, "text")]
    if how < 0.4:
        return [{"op": rng.choice(("remove", "folder", "pipe")), "file": "text"}]
    if how < 0.45:
        return [{"op": "sparse", "file": "text", "size": rng.choice((10**6, 10**8, 2 * 10**9, 10**12))}]
    if how < 0.5:
        row = rng.choice(('{"text": %s}\n', '[{"text": %s}]', "%s"))
        return [{"op": "text", "file": "text", "text": row % ("[" * 100_000)}]
    if how < 0.8:
        times = rng.choice((0, 1, 100, 10**4, 10**5, 10**6))
        return [{"op": "text", "file": "text", "unit": rng.choice(UNITS), "times": times}]
    return [{"op": "text", "file": "text", "text": rng.choice(HOSTILE)}]


def _artifact(rng: random.Random, folder: Path) -> list[Edit]:
    how = rng.random()
    if how < 0.6:
        file = "artifact/manifest.json"
        return [of_json(rng, folder, file) if rng.random() < 0.8 else of_bytes(rng, file)]
    objects = sorted(
        path.relative_to(folder).as_posix() for path in (folder / "artifact").rglob("*") if path.is_file()
    )
    file = rng.choice(objects)
    if how < 0.7:
        return [{"op": rng.choice(("remove", "folder", "pipe")), "file": file}]
    if how < 0.75:
        return [
            {
                "op": "link",
                "file": file,
                "to": rng.choice(("../../outside/secret.txt", "/etc/passwd", "/dev/zero", ".")),
            }
        ]
    if file.endswith(".json") and how < 0.9:
        return [of_json(rng, folder, file)]
    return [of_bytes(rng, file)]


def _olive(rng: random.Random, folder: Path) -> list[Edit]:
    file = "olive.json"
    if rng.random() < 0.2:
        return [of_bytes(rng, file)]
    if rng.random() < 0.1:
        return [
            {
                "op": "text",
                "file": file,
                "text": rng.choice((*HOSTILE, "&a [*a]", "[]", "1", '{"a": 1, "a": 2}')),
            }
        ]
    return [of_json(rng, folder, file)]


def _job(rng: random.Random, folder: Path) -> list[Edit]:
    how = rng.random()
    if how < 0.15:
        return [of_bytes(rng, JOB)]
    if how < 0.25:
        return [{"op": "text", "file": JOB, "text": rng.choice((*YAML, *HOSTILE))}]
    return [of_json(rng, folder, JOB, "set-yaml", yaml.safe_load((folder / JOB).read_text()))]


def _request(rng: random.Random, folder: Path) -> list[Edit]:
    file = "request.json"
    return [of_bytes(rng, file) if rng.random() < 0.2 else of_json(rng, folder, file)]


def _folder(rng: random.Random, folder: Path) -> list[Edit]:
    names = sorted(path.name for path in (folder / "model").iterdir())
    extra = (
        "README.md",
        "LICENSE",
        "x.json",
        "extra.safetensors",
        "pytorch_model.bin",
        "evil.py",
        "sub/x.json",
        "a\nb.json",
        "é.txt",
        "x" * 200 + ".json",
        "\udcff.json",
    )
    name = rng.choice((*names, *names, *extra))
    file, how = (
        f"model/{name}",
        rng.choice(("remove", "link", "pipe", "folder", "sparse", "rename", "text", "bytes")),
    )
    if how == "link":
        to = (
            "../outside/secret.txt",
            "/etc/passwd",
            "/dev/zero",
            "config.json",
            "nowhere",
            ".",
            "..",
            name,
            "/proc/self/environ",
        )
        return [{"op": "link", "file": file, "to": rng.choice(to)}]
    if how == "sparse":
        return [{"op": "sparse", "file": file, "size": rng.choice((10**7, 10**9, 10**11, 10**13))}]
    if how == "rename":
        return [
            {
                "op": "rename",
                "file": file,
                "to": rng.choice(
                    (
                        "x" + name,
                        name.upper(),
                        f"sub/{name}",
                        "\udcff.safetensors",
                        "model-00001-of-00002.safetensors",
                    )
                ),
            }
        ]
    if how == "text":
        return [{"op": "text", "file": file, "text": rng.choice((*HOSTILE, "{}", "[]", "import os"))}]
    return [of_bytes(rng, file) if how == "bytes" else {"op": how, "file": file}]


MAKERS: dict[str, Callable[[random.Random, Path], list[Edit]]] = {
    "config": _config,
    "generation": _generation,
    "index": _index,
    "header": _header,
    "tokenizer": _tokenizer,
    "text": _text,
    "artifact": _artifact,
    "olive": _olive,
    "job": _job,
    "request": _request,
    "folder": _folder,
}
EVERY = tuple(name for name in CHECKPOINTS if name != SHARDED)
MODELS: dict[str, tuple[str, ...]] = dict.fromkeys(MAKERS, ("llama",)) | {
    "config": EVERY,
    "header": ("llama", "gpt2", "mixtral"),
    "index": (SHARDED,),
    "folder": ("llama", SHARDED, "gpt2"),
}
SHARES = {
    "config": 6,
    "header": 3,
    "tokenizer": 3,
    "text": 2,
    "artifact": 3,
    "folder": 3,
    "index": 2,
    "job": 2,
}
"""How many of the mutations are of a class, for one of the others."""


def kinds(count: int) -> list[str]:
    """The class of each of `count` mutations, mixed evenly."""
    turn = [kind for kind in MAKERS for _ in range(SHARES.get(kind, 1))]
    return [turn[(number * 7) % len(turn)] for number in range(count)]
