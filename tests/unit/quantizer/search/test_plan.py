"""Which points a worker finds to try."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.support.searches import NAMED_PASS, dimension, search
from tests.unit.quantizer.search.test_space import space
from tests.unit.quantizer.search.test_trials import trials

from quantization_api.recipe import recipe_digest
from quantization_api.search import SearchStrategy
from quantizer.search.plan import Plan
from quantizer.search.session import Session

pytestmark = pytest.mark.unit

GRID = [dimension("bits", 2, 3, 4, 8), dimension("damp_percent", "null", "0.01", "0.1")]
"""Left out, damp_percent is 0.01: of the 12 points, four are the same as others."""


def plan(root: Path, **fields: Any) -> Plan:
    session = SimpleNamespace(
        strategy=SearchStrategy.model_validate({"search_space": GRID, **fields}),
        space=space(NAMED_PASS, search(*GRID)),
        trials=trials(root),
        recipes=SimpleNamespace(of=lambda workflow: recipe_digest(workflow, "revision")),
        metrics=[],
    )
    return Plan(cast(Session, session))


@pytest.mark.parametrize("seed", [6, 8])
def test_tpe_leaves_out_no_point_where_several_mean_the_same(tmp_path: Path, seed: int) -> None:
    here = plan(tmp_path, sampler="tpe", seed=seed)
    while here.choose():
        pass
    chosen = [str(parameters) for parameters in trials(tmp_path).slots()]
    assert len(chosen) == len(set(chosen)) == 12
    assert len(here.points()) == 8
