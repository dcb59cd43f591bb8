"""What a rule may set in a status is what a status has."""

from typing import get_type_hints

import pytest

from quantization_api.status import QuantizationJobStatus
from quantization_operator.outcome import StatusChanges

pytestmark = pytest.mark.unit


def test_the_changes_of_a_status_are_fields_of_it_with_their_types() -> None:
    fields, changes = get_type_hints(QuantizationJobStatus), get_type_hints(StatusChanges)
    assert {name: fields.get(name) for name in changes} == changes
