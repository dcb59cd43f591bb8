"""What the operator's watch costs for each event, beyond the operator's own work."""

import kopf
import pytest
from tests.support.cluster_objects import job

from quantization_operator import watch

pytestmark = pytest.mark.unit


def test_an_event_costs_no_copy_of_the_object() -> None:
    """kopf copies and compares whole objects for handlers of changes; there are none."""
    persistence = watch.kopf_settings().persistence
    body = kopf.Body(job())
    assert persistence.diffbase_storage.build(body=body) == {}
    assert persistence.diffbase_storage.fetch(body=body) is None
    essence = kopf.BodyEssence()
    assert persistence.progress_storage.clear(essence=essence) is essence
