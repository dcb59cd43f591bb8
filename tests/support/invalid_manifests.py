"""All changes of the valid manifest that must be refused, and what the refusal must say."""

from tests.support.invalid import Invalid
from tests.support.invalid_jobs import INVALID_JOBS
from tests.support.invalid_passes import INVALID_PASSES
from tests.support.invalid_workflows import INVALID_WORKFLOWS
from tests.support.pod_templates import INVALID_TEMPLATES
from tests.support.searches import SEARCHES

INVALID: tuple[Invalid, ...] = (
    *INVALID_PASSES,
    *INVALID_WORKFLOWS,
    *INVALID_JOBS,
    *INVALID_TEMPLATES,
    *SEARCHES,
)
