"""Rows of text from the bytes of a data file."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from quantization_api.failures import Category, QuantizationError
from quantization_api.text import shortened
from quantizer.boundary import reading
from quantizer.bounded_json import check_depth

CORRECT = "Correct the file, or data_name and text_cols in the data config."
SUFFIXES = (".txt", ".jsonl", ".json", ".csv")


def read_rows(data: bytes, file_name: str, text_column: str = "text", *, by_line: bool = False) -> list[str]:
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


def _rows(data: bytes, file_name: str, text_column: str, by_line: bool) -> list[str]:
    suffix = PurePosixPath(file_name).suffix.lower()
    text = data.decode("utf-8-sig")
    if suffix == ".txt":
        rows: Iterable[str] = text.split("\n") if by_line else [text]
    elif suffix == ".jsonl":
        lines = enumerate(text.split("\n"), start=1)
        rows = [
            _column(_json(line, file_name, f"line {number}"), text_column, file_name, f"line {number}")
            for number, line in lines
            if line.strip()
        ]
    elif suffix == ".json":
        document = _json(text, file_name, "the file")
        items = document.get("data") if isinstance(document, dict) else document
        if not isinstance(items, list):
            raise _unreadable(file_name, 'is neither a list of objects nor {"data": [..]}')
        rows = [
            _column(item, text_column, file_name, f"item {number}")
            for number, item in enumerate(items, start=1)
        ]
    elif suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows = [_column(row, text_column, file_name, f"line {reader.line_num}") for row in reader]
    else:
        raise _unreadable(file_name, f"has a suffix that is not known; known are {', '.join(SUFFIXES)}")
    return [row for row in rows if row.strip()]


def _json(text: str, file_name: str, place: str) -> Any:
    with reading(Category.DATA_NOT_FOUND, f"{place} of the data file {file_name}", CORRECT):
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ValueError(f"it is not JSON: {error}") from error
        check_depth(value)
    return value


def _column(row: Any, column: str, file_name: str, place: str) -> str:
    if not isinstance(row, dict):
        raise _unreadable(file_name, f"{place} is not an object")
    value = row.get(column)
    if not isinstance(value, str):
        found = ", ".join(shortened(str(name), 50) for name in list(row)[:10])
        raise _unreadable(file_name, f"{place} has no text in column {column!r}; it has: {found}")
    return value


def _unreadable(file_name: str, what: str) -> QuantizationError:
    return QuantizationError(
        Category.DATA_NOT_FOUND,
        f"the data file {file_name}: {what}",
        CORRECT,
    )
