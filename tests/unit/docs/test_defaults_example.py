"""docs/defaults.md: its example is a file that the operator takes, and has every field."""

import re
from pathlib import Path

import pytest
import yaml

from quantization_operator.defaults import Defaults

pytestmark = pytest.mark.unit

PAGE = Path(__file__).parents[3] / "docs/defaults.md"


def test_the_example_is_taken_and_has_every_field() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S)
    found = Defaults.model_validate(yaml.safe_load(text))
    assert found.model_fields_set == set(Defaults.model_fields)
