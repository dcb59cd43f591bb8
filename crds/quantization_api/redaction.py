"""Takes out of a text what nobody should paste into a ticket or keep in a storage: pure.

A QuantizationJob names Secrets and holds none, and the quantizer logs none. This is for what others put beside it: an
address with a password in it, a signed link, a token in a message of a proxy.
"""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

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
SECRET_NAME = re.compile(r"(?i)(secret|token(?!izer)|password|passwd|credential|api_?key|private_?key)")
"""In the name of an environment variable whose value is a secret."""
SHORTEST = 8
"""Characters of a secret; a shorter value is a switch or a number, and hiding it would spoil the text."""


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """The values of variables that hold a secret, as their names say; not those that name a file."""
    return [
        value
        for name, value in environment.items()
        if SECRET_NAME.search(name) and not name.endswith("_FILE") and len(value) >= SHORTEST
    ]


def without_secrets(text: str, known: Iterable[str] = ()) -> str:
    """The text, with what looks like a secret hidden, and those that are known, also where a URL encodes them."""
    for secret in known:
        text = text.replace(secret, HIDDEN).replace(quote(secret, safe=""), HIDDEN)
    for pattern, shown in PATTERNS:
        text = pattern.sub(shown, text)
    return text
