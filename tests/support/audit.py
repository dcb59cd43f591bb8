"""What somebody asked of an API server, as its audit log tells it."""

import json
from dataclasses import dataclass
from pathlib import Path

POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups: ["system:serviceaccounts:{namespace}"]
- level: None
"""
FORBIDDEN = 403


@dataclass(frozen=True, order=True)
class Right:
    """A verb on a resource; of a subresource, RESOURCE/SUBRESOURCE."""

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


class Audit:
    """The log of the service accounts of a namespace."""

    def __init__(self, directory: Path, namespace: str) -> None:
        self._policy, self._log = directory / "policy.yaml", directory / "audit.log"
        self._policy.write_text(POLICY.format(namespace=namespace))

    @property
    def flags(self) -> list[str]:
        """For the API server."""
        return [f"--audit-policy-file={self._policy}", f"--audit-log-path={self._log}"]

    @property
    def length(self) -> int:
        """How much is written so far."""
        return self._log.stat().st_size if self._log.exists() else 0

    def asked(self, since: int = 0) -> list[tuple[Right, int]]:
        """What was asked for, and the code of the answer."""
        found = []
        with self._log.open("rb") as file:
            file.seek(since)
            for line in file.read().rpartition(b"\n")[0].splitlines():
                event = json.loads(line)
                reference = event.get("objectRef")
                if reference is None:
                    continue
                resource = "/".join(filter(None, (reference["resource"], reference.get("subresource"))))
                right = Right(reference.get("apiGroup", ""), resource, event["verb"])
                found.append((right, event["responseStatus"]["code"]))
        return found
