"""Edits of the files of a case, as data: a mutation that failed can be kept and applied again.

An edit is {"op": ..., "file": ..., ...}. Values of JSON that Python cannot hold or should not write are written by
name: {"$deep": 1200}, {"$digits": 5000}, {"$long": 100000}, {"$keys": 1000000}, {"$list": 100000}, {"$raw": "1e400"}.
"""

import contextlib
import gzip
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Edit = dict[str, Any]
Key = str | int

LARGEST = 50_000_000
"""A file that an earlier edit made larger is left as it is."""
PLACE = "@the value goes here@"
GENERATED: dict[str, Callable[[Any], str]] = {
    "$raw": str,
    "$deep": lambda depth: '{"a":[' * (depth // 2) + "1" + "]}" * (depth // 2),
    "$digits": lambda count: "9" * count,
    "$long": lambda count: json.dumps("é" * count),
    "$keys": lambda count: "{" + ",".join(f'"key{number}":{number}' for number in range(count)) + "}",
    "$list": lambda count: "[" + ",".join("1" for _ in range(count)) + "]",
}


def apply(root: Path, edits: list[Edit]) -> None:
    """Applies the edits in their order to the files below `root`.

    A later one does nothing where an earlier one left no target for it, or a file that it cannot read.
    """
    for number, edit in enumerate(edits):
        path = root / os.fsdecode(edit["file"].encode("utf-8", "surrogateescape"))
        expected = Exception if number else (OSError, struct.error)
        with contextlib.suppress(expected):
            if edit["op"] in MAKERS:
                if path.is_fifo():  # of an earlier edit: nobody reads it
                    path.unlink()
                MAKERS[edit["op"]](path, edit)
            elif path.is_file() and not path.is_symlink() and path.stat().st_size < LARGEST:
                CHANGERS[edit["op"]](path, edit)


def paths_of(value: Any, prefix: tuple[Key, ...] = ()) -> list[tuple[Key, ...]]:
    """The path of every value in a document, its root's apart."""
    items: list[tuple[Key, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value[:3]))
    found = []
    for key, item in items:
        found += [(*prefix, key), *paths_of(item, (*prefix, key))]
    return found


def header_of(data: bytes) -> tuple[bytes, bytes]:
    """A safetensors file as its header's JSON and the tensors' bytes."""
    (length,) = struct.unpack("<Q", data[:8])
    return data[8 : 8 + length], data[8 + length :]


def _set(path: Path, edit: Edit) -> None:
    path.write_bytes(_with_value(path.read_bytes(), edit))


def _set_header(path: Path, edit: Edit) -> None:
    header, tensors = header_of(path.read_bytes())
    header = _with_value(header, edit)
    path.write_bytes(struct.pack("<Q", len(header)) + header + tensors)


def _header_bytes(path: Path, edit: Edit) -> None:
    header, tensors = header_of(path.read_bytes())
    header = _spoiled(header, edit)
    path.write_bytes(struct.pack("<Q", len(header)) + header + tensors)


def _header_length(path: Path, edit: Edit) -> None:
    path.write_bytes(struct.pack("<Q", edit["value"]) + path.read_bytes()[8:])


def _with_value(data: bytes, edit: Edit) -> bytes:
    """A JSON document with the value at edit["path"] set, deleted ("delete") or given a second time ("twice")."""
    try:
        document: Any = json.loads(data)
        text = json.dumps(_placed(document, list(edit["path"]), edit))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return data
    value = edit.get("value")
    raw = _generated(value) if isinstance(value, dict) else None
    return text.replace(json.dumps(PLACE), json.dumps(value) if raw is None else raw).encode()


def _placed(document: Any, path: list[Key], edit: Edit) -> Any:
    if not path:
        return PLACE
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    last = path[-1]
    if edit.get("delete"):
        del holder[last]
    elif "rename" in edit:
        holder[edit["rename"]] = holder.pop(last)
    else:
        holder[last] = PLACE
    return document


def _generated(value: dict[str, Any]) -> str | None:
    (name,) = value if len(value) == 1 else ("",)
    return GENERATED[name](value[name]) if name in GENERATED else None


def _set_yaml(path: Path, edit: Edit) -> None:
    """A YAML document with a value set; written as JSON, which is YAML too.

    One with aliases stays as it is: an earlier edit may have put more values there than any memory can write out.
    """
    try:
        text = path.read_text()
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            return
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return
    path.write_text(json.dumps(document))
    _set(path, edit)


def _bytes(path: Path, edit: Edit) -> None:
    path.write_bytes(_spoiled(path.read_bytes(), edit))


def _spoiled(data: bytes, edit: Edit) -> bytes:
    """The bytes with a bit turned, cut, with other bytes put in, or as another encoding."""
    place = int(edit.get("at", 0) * len(data))
    how = edit["how"]
    if how == "flip":
        return data[:place] + bytes([data[place] ^ edit["mask"]]) + data[place + 1 :] if data else data
    if how == "cut":
        return data[:place]
    if how == "insert":
        return data[:place] + bytes.fromhex(edit["hex"]) * edit.get("times", 1) + data[place:]
    if how == "drop":
        return data[:place] + data[place + edit["count"] :]
    if how == "repeat":
        return data * edit["times"]
    return ENCODINGS[how](data)


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "bom": lambda data: b"\xef\xbb\xbf" + data,
    "utf-16": lambda data: data.decode("utf-8", "replace").encode("utf-16"),
    "latin-1": lambda data: data + "é".encode("latin-1"),
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "crlf": lambda data: data.replace(b"\n", b"\r\n"),
    "twice": lambda data: data + data,
}


def _text(path: Path, edit: Edit) -> None:
    """A file with other content: `text`, or `unit` repeated."""
    text = edit["text"] if "text" in edit else edit["unit"] * edit["times"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def _remove(path: Path, _: Edit) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _replaced(path: Path, edit: Edit, make: Callable[[], object]) -> None:
    _remove(path, edit)
    path.parent.mkdir(parents=True, exist_ok=True)
    make()


def _rename(path: Path, edit: Edit) -> None:
    target = path.parent / os.fsdecode(edit["to"].encode("utf-8", "surrogateescape"))
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)


def _sparse(path: Path, edit: Edit) -> None:
    """A file made longer by a hole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, max(edit["size"], path.stat().st_size))


def _shards(path: Path, edit: Edit) -> None:
    """An index of many entries beside the one file that there is."""
    entries = ",".join(f'"{edit["name"]}.{number}":"model.safetensors"' for number in range(edit["times"]))
    path.write_bytes(f'{{"metadata":{{}},"weight_map":{{{entries}}}}}'.encode("utf-8", "surrogatepass"))


CHANGERS: dict[str, Callable[[Path, Edit], None]] = {
    "set": _set,
    "set-yaml": _set_yaml,
    "set-header": _set_header,
    "header-bytes": _header_bytes,
    "header-length": _header_length,
    "bytes": _bytes,
    "rename": _rename,
}
MAKERS: dict[str, Callable[[Path, Edit], None]] = {
    "text": _text,
    "remove": _remove,
    "link": lambda path, edit: _replaced(path, edit, lambda: path.symlink_to(edit["to"])),
    "pipe": lambda path, edit: _replaced(path, edit, lambda: os.mkfifo(path)),
    "folder": lambda path, edit: _replaced(path, edit, path.mkdir),
    "sparse": _sparse,
    "index": _shards,
}
