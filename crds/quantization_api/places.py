"""Places by their components: what a path, or a URI with one, may look like, and what lies in what.

A path is compared as it is written, by the API server and in Python alike. So one that could be written in several
ways is refused: //, . and .. name the same place twice.
"""

import re

DOTS = "/[.]{1,2}(/|$)"
"""A component that is . or .., in a path that begins with a slash."""

OUTPUT = "^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]|file://)(/[^/]+)+/?$"
MOUNT = "^(/[^/:]+)+$"
OWN = (
    "^/(bin|boot|dev|etc|lib|lib32|lib64|libx32|proc|root|run|sbin|scratch|sys|tmp|usr|var|"
    "opt/(app|requirements|venv))(/|$)|^/opt$"
)
"""Folders that the image or the container runtime fills: a volume there would bring other code or settings."""
ENDPOINT = r"^https?://([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?$"
"""Scheme, host and port, nothing else: no user, path, query or fragment."""


def cel(value: str, pattern: str) -> str:
    """CEL for "the value matches"."""
    return f"{value}.matches(r'{pattern}')"


def matches(value: str, pattern: str) -> bool:
    """The same in Python, where `$` alone would let a line break pass."""
    return re.search(pattern, value) is not None and "\n" not in value


def is_output(uri: str) -> bool:
    """Whether an artifact can be written there."""
    return matches(uri, OUTPUT) and not matches(uri, DOTS)


def is_mount(path: str) -> bool:
    """Whether a volume can be mounted there."""
    return matches(path, MOUNT) and not matches(path, DOTS)


def within(path: str, folder: str) -> bool:
    """Whether a path is the folder, or lies in it."""
    return f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")
