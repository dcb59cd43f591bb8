"""The cluster, as kubectl reaches it: its contexts, plugins for logging in and proxies hold here too."""

import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from quantization_api import GROUP, PLURAL
from quantization_api.constants import QJOB_UID_LABEL
from quantization_api.text import clean

Document = dict[str, Any]

QJOBS = f"{PLURAL}.{GROUP}"
QUANTIZERS = "app.kubernetes.io/name=quantizer,app.kubernetes.io/component=job"
"""Labels of the pods that quantize; those that remove an artifact are of another component."""
CURES = {
    r"the server doesn't have a resource type|could not find the requested resource": "QuantizationJobs are not "
    "installed in this cluster: kubectl apply --server-side -f install.yaml (or name another one with --context).",
    r"\(Forbidden\)": "Your account may not do that: ask for the role edit in this namespace.",
    r"\(NotFound\): quantizationjobs": "`kubectl quantization status` lists what is there; -n names another namespace.",
    r"connection refused|no configuration has been provided|no such host|i/o timeout": "Name the cluster with "
    "--context or --kubeconfig.",
}
"""What a person can do, by what kubectl says."""


class PluginError(Exception):
    """Something that a person must know or change, as sentences."""


@dataclass(frozen=True)
class Cluster:
    """kubectl, with the options that choose the cluster."""

    options: tuple[str, ...] = ()
    """Such as --context NAME, for every call."""
    namespace: str = ""
    """Empty: that of the context."""

    def words(self, *words: str) -> list[str]:
        """The command line of a call."""
        return ["kubectl", *self.options, *(("-n", self.namespace) if self.namespace else ()), *words]

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """What kubectl prints.

        Raises:
            PluginError: it failed, or is not there.
        """
        try:
            done = subprocess.run(
                self.words(*words), input=stdin, capture_output=True, text=True, errors="replace", check=False
            )
        except FileNotFoundError:
            raise PluginError("kubectl is not on the PATH: install it first.") from None
        if done.returncode:
            raise PluginError(explained(done.stderr or done.stdout))
        return done.stdout

    def shown(self, *words: str) -> int:
        """Let kubectl write to the screen itself; its exit code."""
        return subprocess.run(self.words(*words), check=False).returncode

    def read(self, kind: str, name: str) -> Document:
        """One object.

        Raises:
            PluginError: it is not there, or cannot be read.
        """
        found: Document = json.loads(self.kubectl("get", kind, name, "--output=json"))
        return found

    def listing(self, kind: str, *options: str) -> list[Document]:
        """Objects of a kind; options of `kubectl get`.

        Raises:
            PluginError: they cannot be read.
        """
        items: list[Document] = json.loads(self.kubectl("get", kind, "--output=json", *options))["items"]
        return items

    def job(self, name: str) -> Document:
        """A QuantizationJob."""
        return self.read(QJOBS, name)

    def pods(self, job: Document) -> list[Document]:
        """The pods that work or worked for a job and are still there, the oldest first."""
        selector = f"{QJOB_UID_LABEL}={job['metadata']['uid']},{QUANTIZERS}"
        return sorted(self.listing("pods", f"--selector={selector}"), key=created)

    def beside(self, namespace: str) -> "Cluster":
        """The same cluster, in another namespace."""
        return Cluster(self.options, namespace)


def created(item: Document) -> str:
    """When an object was made; a text that sorts as time does."""
    stamp: str = item["metadata"]["creationTimestamp"]
    return stamp


def phase_of(job: Document) -> str:
    """The phase of a job; one that the operator has not seen is Pending."""
    phase: str = job.get("status", {}).get("phase", "Pending")
    return phase


def explained(said: str) -> str:
    """kubectl's complaint in one line, and what to do about it."""
    line = clean(said).removeprefix("error: ").removeprefix("Error from server ") or "kubectl failed"
    return " ".join([line, *(cure for pattern, cure in CURES.items() if re.search(pattern, said))])


def table(rows: Iterable[Iterable[str]]) -> list[str]:
    """Rows as lines, in columns as wide as their widest cell; the last one is as long as it is."""
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)][:-1]
    return [
        "   ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in cells
    ]
