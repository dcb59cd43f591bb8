"""Tables of cases of which `make test` runs a few and `make nightly` all; and what was chosen with -m and -k."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def mostly_nightly(cases: Iterable[Any], every_time: Collection[Any]) -> list[Any]:
    """The cases as parameters of a test; those that are not in `every_time` run in `make nightly` only.

    Raises:
        ValueError: there is no such case.
    """
    cases = list(cases)
    if unknown := [case for case in every_time if case not in cases]:
        raise ValueError(f"no cases: {unknown}")
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if case in every_time else pytest.mark.nightly,
        )
        for case in cases
    ]


def chosen(request: pytest.FixtureRequest, *names: str) -> list[Any]:
    """The cases that tests of this module run, each once: for fixtures that make all of them in one go.

    names: of the parameters; of several, a case is the tuple of their values.
    """
    items = [item for item in request.session.items if item.path == request.path]
    parameters = [item.callspec.params for item in items if hasattr(item, "callspec")]
    cases = [tuple(one[name] for name in names) for one in parameters if one.keys() >= set(names)]
    return [case if len(names) > 1 else case[0] for case in dict.fromkeys(cases)]
