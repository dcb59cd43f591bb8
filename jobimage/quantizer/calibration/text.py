"""Rows of text from the bytes of a data file."""

import codecs
import csv
import gzip
import io
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from quantization_api.failures import Category, QuantizationError
from quantization_api.text import did_you_mean, shortened
from quantizer.boundary.bounded_json import parse_text
from quantizer.boundary.reading import reading

CORRECT = "Correct the file, or data_name and text_cols in the data config."
MOST_ROWS = 4_000_000
MAX_TEXT_BYTES = 256_000_000
LONGEST_FIELD = 16_000_000
"""Characters of a field of a table: whole books. The reader takes four bytes for each, more than once."""
LONGEST_LINE = 2 * LONGEST_FIELD
MOST_COLUMNS = 1000  # of which a name that is near is looked for
Bytes: TypeAlias = bytes | bytearray
PLAIN_SUFFIXES = (".txt", ".jsonl", ".json", ".csv")
COMPRESSED = ".gz"
SUFFIXES = (*PLAIN_SUFFIXES, *(f"{suffix}{COMPRESSED}" for suffix in PLAIN_SUFFIXES))
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_rows(data: Bytes, file_name: str, text_column: str = "text", *, by_line: bool = False) -> list[str]:
    """The rows of text in a file; those without text, also null ones, are left out.

    Args:
        data: the file's bytes, UTF-8 or UTF-16 with a byte order mark.
        file_name: its name; the suffix decides: .txt is one row as it is (or a row a line, with by_line),
            .jsonl an object a line, .json a list of objects (or {"data": [..]}), .csv with a header line; each also
            compressed, with .gz behind it. Line ends of Windows in .txt are read as those of everybody.
        text_column: field or column that holds the text.

    Raises:
        QuantizationError: DataNotFound, with the place, for what cannot be read.
    """
    with reading(Category.DATA_NOT_FOUND, f"the data file {file_name}", CORRECT):
        return _rows(data, file_name, text_column, by_line)


def _rows(data: Bytes, file_name: str, text_column: str, by_line: bool) -> list[str]:
    suffix = PurePosixPath(file_name.lower().removesuffix(COMPRESSED)).suffix
    if suffix not in PLAIN_SUFFIXES:
        supported = f"{', '.join(PLAIN_SUFFIXES)}, each also with {COMPRESSED}"
        raise _unreadable(file_name, f"its suffix is unknown; supported are {supported}")
    if file_name.lower().endswith(COMPRESSED):
        data = _decompressed(data, file_name)
    if data[:2] in UTF16:
        data = str(data, "utf-16").encode()
    if suffix == ".txt":
        rows = _lines(data) if by_line else iter([_whole(data)])
    else:
        rows = READERS[suffix](data, file_name, text_column)
    kept = list(islice((row for row in rows if row.strip()), MOST_ROWS + 1))
    if len(kept) > MOST_ROWS:
        raise _unreadable(file_name, f"it has more than {MOST_ROWS:,} rows; use part of it")
    return kept


def _decompressed(data: Bytes, file_name: str) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        text = file.read(MAX_TEXT_BYTES + 1)
    if len(text) > MAX_TEXT_BYTES:
        raise _unreadable(
            file_name, f"it has more than {MAX_TEXT_BYTES:,} bytes when decompressed; use part of it"
        )
    return text


def _opened(data: Bytes, newline: str | None) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=newline)


def _whole(data: Bytes) -> str:
    with _opened(data, None) as text:
        return text.read()


def _lines(data: Bytes) -> Iterator[str]:
    """The lines one at a time, so that the text is not there twice."""
    with _opened(data, None) as lines:
        for line in lines:
            yield line.removesuffix("\n")


def _bounded_lines(data: Bytes, file_name: str, newline: str | None) -> Iterator[str]:
    """Lines of a table, none of which is so long that a file without line ends would be in memory three times."""
    with _opened(data, newline) as lines:
        number = 0
        while line := lines.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise _unreadable(file_name, f"line {number} has more than {LONGEST_LINE:,} characters")
            yield line


def _json_lines(data: Bytes, file_name: str, text_column: str) -> Iterator[str]:
    for number, line in enumerate(_bounded_lines(data, file_name, None), start=1):
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
    csv.field_size_limit(LONGEST_FIELD)  # of the process
    reader = csv.DictReader(_bounded_lines(data, file_name, ""))  # a field keeps its line ends
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
    if value is None and column in row:  # null, or a row of a table that ends early
        return ""
    if isinstance(value, list) and value and all(type(one) is int for one in value):
        raise QuantizationError(
            Category.DATA_NOT_FOUND,
            f"the data file {file_name}: {place} has token ids in column {column!r}, and text is needed",
            "Give the text that the ids were made of; the run makes tokens of it with the model's own tokenizer.",
        )
    if not isinstance(value, str):
        found = [shortened(str(name), 50) for name in list(row)[:MOST_COLUMNS] if name != column]
        near = did_you_mean(column, found)
        raise _unreadable(
            file_name, f"{place} has no text in column {column!r}; found: {', '.join(found[:10])}{near}"
        )
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
