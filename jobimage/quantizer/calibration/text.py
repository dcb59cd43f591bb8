"""Rows of text from the bytes of a data file."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from quantization_api.failures import Category, QuantizationError

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
    suffix = PurePosixPath(file_name).suffix.lower()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(file_name, f"is not UTF-8 text: {error}") from error
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
        try:
            rows = [_column(row, text_column, file_name, f"line {reader.line_num}") for row in reader]
        except csv.Error as error:
            raise _unreadable(file_name, f"is no CSV: {error}") from error
    else:
        raise _unreadable(file_name, f"has a suffix that is not known; known are {', '.join(SUFFIXES)}")
    return [row for row in rows if row.strip()]


def _json(text: str, file_name: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _unreadable(file_name, f"{place} is not JSON: {error}") from error


def _column(row: Any, column: str, file_name: str, place: str) -> str:
    if not isinstance(row, dict):
        raise _unreadable(file_name, f"{place} is not an object")
    value = row.get(column)
    if not isinstance(value, str):
        found = ", ".join(str(name) for name in list(row)[:10])
        raise _unreadable(file_name, f"{place} has no text in column {column!r}; it has: {found}")
    return value


def _unreadable(file_name: str, what: str) -> QuantizationError:
    return QuantizationError(
        Category.DATA_NOT_FOUND,
        f"the data file {file_name}: {what}",
        "Correct the file, or data_name and text_cols in the data config.",
    )
