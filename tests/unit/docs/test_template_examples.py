"""docs/template.md: each example is a template that is taken, and no field is without one."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from quantization_api.template import PodTemplate
from quantization_api.volumes import MountedVolume

pytestmark = pytest.mark.unit

PAGE = (Path(__file__).parents[3] / "docs/template.md").read_text()
EXAMPLES: list[dict[str, Any]] = [
    yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
]
ELSEWHERE = {
    *("image", "imagePullPolicy", "imagePullSecrets", "affinity", "schedulerName", "runtimeClassName"),
    "serviceAccountName",
}
"""Fields that are in the other pages, or need no example."""


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: " ".join(example))
def test_an_example_is_taken(example: dict[str, Any]) -> None:
    PodTemplate.model_validate(example)


def test_every_field_and_every_kind_of_volume_has_an_example() -> None:
    shown = {field for example in EXAMPLES for field in example}
    assert {field.alias for field in PodTemplate.model_fields.values()} == shown | ELSEWHERE
    kinds = {key for example in EXAMPLES for volume in example.get("volumes", ()) for key in volume}
    assert {field.alias for field in MountedVolume.model_fields.values()} == kinds
