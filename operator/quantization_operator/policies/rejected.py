"""A Job that the API server does not take: what is waited for, and what no waiting would change.

What the rules of the API itself refuse they would refuse again: the manifest is wrong. Quotas, policies and webhooks
are the cluster's, and may change their minds. The code does not tell them apart: a webhook that denies a request and
names no code is answered with 400, a ValidatingAdmissionPolicy that names no reason with 422. The words do, which are
the API server's own (k8s.io/apiserver: admission/plugin/webhook/errors, admission/plugin/policy).
"""

import re

from quantization_operator.decision import Rejection

_DENIED = re.compile(r"""admission webhook ".*" denied the request|[Pp]olicy (['"]).*\1 denied request""")
_NO_ANSWER_FROM_WEBHOOK = "failed calling webhook"
_OF_THE_MANIFEST = (400, 422)
_FORBIDDEN = 403


def answers(code: int, message: str) -> bool:
    """Whether an error is an answer about the Job, and no trouble of the API server that the next try may not meet."""
    if code in (*_OF_THE_MANIFEST, _FORBIDDEN) or _DENIED.search(message):
        return True
    return code >= 500 and _NO_ANSWER_FROM_WEBHOOK in message


def for_good(rejection: Rejection) -> bool:
    """Whether the same Job would be refused forever."""
    return rejection.taken or (rejection.code in _OF_THE_MANIFEST and not _DENIED.search(rejection.message))
