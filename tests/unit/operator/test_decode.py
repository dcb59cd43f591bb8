"""Lists are read as they arrive, one object at a time, and what is too deep costs only itself."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantization_operator.decode import DEEPEST, TOO_DEEP, ListReader, cut, loads

pytestmark = pytest.mark.unit

ITEMS: list[Any] = [{"metadata": {"name": f"n{i}", "x": 'y\\"[{ü€\U0001f600' * i}} for i in range(20)]
OTHER = {"apiVersion": "v1", "metadata": {"continue": "", "resourceVersion": "7"}}


def nested(levels: int, inner: str = "1") -> str:
    return '{"a":' * levels + inner + "}" * levels


def page(*items: str, rest: dict[str, Any] = OTHER) -> bytes:
    told = json.dumps(rest, ensure_ascii=False)
    return (told[:-1] + ', "items": [' + ", ".join(items) + '], "kind": "List"}').encode()


def read(data: bytes, step: int) -> tuple[list[Any], dict[str, Any]]:
    reader = ListReader[Any](lambda body: body)
    found: list[Any] = []
    for start in range(0, len(data), step):
        found += reader.feed(data[start : start + step])
    return found + reader.close(), reader.rest


@pytest.mark.parametrize("step", [1, 3, 100, 10**6])
def test_a_list_is_the_same_in_whatever_pieces_it_arrives(step: int) -> None:
    data = page(*(json.dumps(item, ensure_ascii=False) for item in ITEMS))
    assert read(data, step) == (ITEMS, OTHER | {"kind": "List"})


@given(st.lists(st.recursive(st.integers() | st.text() | st.none(), st.lists)), st.integers(1, 40))
def test_any_items_are_read_as_a_decoder_reads_them(items: list[Any], step: int) -> None:
    data = json.dumps({"items": items, "metadata": {}}).encode()
    assert read(data, step) == (items, {"metadata": {}})


@pytest.mark.parametrize("data", [b'{"items": null}', b'{"kind": "List"}', b"{}"])
def test_a_list_may_have_no_items(data: bytes) -> None:
    assert read(data, 4)[0] == []


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"no", b'{"items": [{}', b'{"items": [{"a"', b'{"a": "', b"\xff"]
)
def test_what_is_no_list_or_ends_too_early_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="list"):
        read(data, 3)


@pytest.mark.parametrize("levels", [500, 1200, 10_000])
def test_an_object_that_is_too_deep_costs_itself_what_lies_too_deep(levels: int) -> None:
    deep = '{"metadata": {"uid": "x"}, "spec": ' + nested(levels) + "}"
    for step in (7, 10**6):
        found, _ = read(page(json.dumps(ITEMS[1]), deep, json.dumps(ITEMS[2])), step)
        assert [found[0], found[2]] == ITEMS[1:3]
        assert found[1]["metadata"] == {"uid": "x"}
    whole = loads(deep)
    assert whole["metadata"] == {"uid": "x"}


def test_what_is_cut_out_is_told_and_nothing_else_is_lost() -> None:
    told = '{"b": "}]\\"", "c": [' + nested(DEEPEST + 5, '"}"') + ', 2], "d": 3} tail'
    found = cut(told, 0)
    assert found is not None
    short, end = found
    assert told[end:] == " tail"
    assert TOO_DEEP in short
    body = json.loads(short)
    assert (body["b"], body["c"][1], body["d"]) == ('}]"', 2, 3)
    assert cut(told[: end - 1], 0) is None
    assert cut('{"open', 0) is None
    assert cut('{"open\\', 0) is None


@pytest.mark.nightly
def test_of_a_page_of_large_objects_one_is_in_memory() -> None:
    large = json.dumps({"metadata": {"name": "x"}, "spec": ["y" * 10] * 100_000})
    data = page(*[large] * 40)
    tracemalloc.start()
    reader = ListReader[str](lambda body: str(body["metadata"]["name"]))
    found: list[str] = []
    for start in range(0, len(data), 65536):
        found += reader.feed(data[start : start + 65536])
    found += reader.close()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == ["x"] * 40
    assert most < 15 * len(large), f"{most / len(large):.1f} objects"
