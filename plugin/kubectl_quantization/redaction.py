"""Takes out of a text what nobody should paste into a ticket: pure.

A QuantizationJob names Secrets and holds none, and the quantizer logs none. This is for what others put beside it: an
address with a password in it, a signed link, a token in a message of a proxy.
"""

import re

HIDDEN = "[hidden]"
PATTERNS = (
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        HIDDEN,
    ),
    (re.compile(r"(?<=://)[^/\s@]+(?=@)"), HIDDEN),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), HIDDEN),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), HIDDEN),  # a JSON web token
    (re.compile(r"\b(?:hf|ghp|gho|ghs|glpat|xox[abp])[_-][\w-]{10,}"), HIDDEN),
    (re.compile(r"(?i)\b((?:bearer|basic)\s+)[\w.~+/=-]{8,}"), rf"\1{HIDDEN}"),
    (
        re.compile(
            r"(?i)((?:x-amz-(?:signature|security-token|credential)|signature|token|password|passwd|secret[_-]?access[_-]?key"
            r"|session[_-]?token|api[_-]?key|client[_-]?secret)[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;|}]{4,}"
        ),
        rf"\1{HIDDEN}",
    ),
)


def without_secrets(text: str) -> str:
    """The text, with what looks like a secret hidden."""
    for pattern, shown in PATTERNS:
        text = pattern.sub(shown, text)
    return text
