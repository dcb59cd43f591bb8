"""A change of the valid manifest that must be refused."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Invalid:
    """A change that must be refused, and what the refusal must say.

    server: part of the API server's answer. client: part of the message without a cluster; the same when
    not given; None when only the API server can know.
    """

    name: str
    changes: tuple[tuple[str, Any], ...]
    server: str
    client: str | None = ""

    @property
    def client_sentence(self) -> str | None:
        return self.server if self.client == "" else self.client


def bad(name: str, path: str, value: Any, server: str, client: str | None = "") -> Invalid:
    return Invalid(name, ((path, value),), server, client)
