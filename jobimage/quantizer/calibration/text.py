"""Rows of text from the bytes of a data file."""

import csv
import io
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from quantization_api.failures import Category, QuantizationError
from quantization_api.text import shortened
from quantizer.boundary.bounded_json import parse_text
from quantizer.boundary.reading import reading

CORRECT = "Correct the file, or data_name and text_cols in the data config."
MOST_ROWS = 4_000_000
Bytes: TypeAlias = bytes | bytearray
SUFFIXES = (".txt", ".jsonl", ".json", ".csv")


def read_rows(data: Bytes, file_name: str, text_column: str = "text", *, by_line: bool = False) -> list[str]:
    """The rows of text in a file; empty ones are left out.

    Args:
        data: the file's bytes, UTF-8.
        file_name: its name; the suffix decides: .txt is one row as it is (or a row a line, with by_line),
            .jsonl an object a line, .json a list of objects (or {"data": [..]}), .csv with a header line.
        text_column: field or column that holds the text.

    Raises:
        QuantizationError: DataNotFound, with the place, for what cannot be read.
    """
    with reading(Category.DATA_NOT_FOUND, f"the data file {file_name}", CORRECT):
        return _rows(data, file_name, text_column, by_line)


def _rows(data: Bytes, file_name: str, text_column: str, by_line: bool) -> list[str]:
    suffix = PurePosixPath(file_name).suffix.lower()
    if suffix == ".txt":
        rows = _lines(data, "\n") if by_line else iter([str(data, "utf-8-sig")])
    elif suffix in READERS:
        rows = READERS[suffix](data, file_name, text_column)
    else:
        raise _unreadable(file_name, f"its suffix is unknown; supported are {', '.join(SUFFIXES)}")
    kept = list(islice((row for row in rows if row.strip()), MOST_ROWS + 1))
    if len(kept) > MOST_ROWS:
        raise _unreadable(file_name, f"it has more than {MOST_ROWS:,} rows; use part of it")
    return kept


def _lines(data: Bytes, newline: str) -> Iterator[str]:
    """The lines one at a time, so that the text is not there twice; newline as for open()."""
    with io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=newline) as lines:
        for line in lines:
            yield line.removesuffix("\n") if newline else line


def _json_lines(data: Bytes, file_name: str, text_column: str) -> Iterator[str]:
    for number, line in enumerate(_lines(data, "\n"), start=1):
        if line.strip():
            place = f"line {number}"
            yield _column(_json(line, file_name, place), text_column, file_name, place)


def _json_items(data: Bytes, file_name: str, text_column: str) -> Iterator[str]:
    document = _json(str(data, "utf-8-sig"), file_name, "the file")
    items = document.get("data") if isinstance(document, dict) else document
    if not isinstance(items, list):
        raise _unreadable(file_name, 'it is neither a list of objects nor {"data": [..]}')
    for number, item in enumerate(items, start=1):
        yield _column(item, text_column, file_name, f"item {number}")


def _csv_rows(data: Bytes, file_name: str, text_column: str) -> Iterator[str]:
    reader = csv.DictReader(_lines(data, ""))
    for row in reader:
        yield _column(row, text_column, file_name, f"line {reader.line_num}")


READERS: dict[str, Callable[[Bytes, str, str], Iterator[str]]] = {
    ".jsonl": _json_lines,
    ".json": _json_items,
    ".csv": _csv_rows,
}


def _json(text: str, file_name: str, place: str) -> Any:
    with reading(Category.DATA_NOT_FOUND, f"{place} of the data file {file_name}", CORRECT):
        return parse_text(text)


def _column(row: Any, column: str, file_name: str, place: str) -> str:
    if not isinstance(row, dict):
        raise _unreadable(file_name, f"{place} is not an object")
    value = row.get(column)
    if not isinstance(value, str):
        found = ", ".join(shortened(str(name), 50) for name in list(row)[:10])
        raise _unreadable(file_name, f"{place} has no text in column {column!r}; found: {found}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = ascii(value[error.start])
        raise _unreadable(
            file_name,
            f"{place} has half a surrogate pair ({half}) in column {column!r}, which is no character",
        ) from error
    return value


def _unreadable(file_name: str, what: str) -> QuantizationError:
    return QuantizationError(
        Category.DATA_NOT_FOUND,
        f"the data file {file_name}: {what}",
        CORRECT,
    )
