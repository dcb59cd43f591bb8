"""Files written by people, YAML or JSON, with bounds, so that no file takes long or much memory to read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from quantizer.boundary.bounded_json import MAX_DEPTH, check_size, decoded

MAX_FILE_BYTES = 2_000_000
"""The API server does not accept larger objects either."""
MAX_ALIASES = 100


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        OSError: it cannot be read. ValueError: it is not a regular file, or too large.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    check_size(path.stat().st_size, MAX_FILE_BYTES)
    return path.read_bytes()


def yaml_documents(data: bytes) -> Iterator[Any]:
    """The documents in YAML.

    The parser's events are checked first, so that documents with too deep nesting or too many aliases are never built.

    Raises:
        ValueError: it is not YAML, too deep, or has too many aliases.
    """
    text = decoded(data)
    try:
        _check_events(text)
        yield from yaml.safe_load_all(text)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {' '.join(str(error).split())}") from error


def _check_events(text: str) -> None:
    depth = aliases = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        if aliases > MAX_ALIASES:
            raise ValueError(f"it has more than {MAX_ALIASES} aliases")
