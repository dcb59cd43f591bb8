"""`report`: the page of a job's artifact, saved here and shown."""

import argparse
import re
import webbrowser
from pathlib import Path

from kubectl_quantization.cluster import Cluster, PluginError, phase_of
from kubectl_quantization.reading import read_by_pod

PAGE = re.compile(r"<!doctype html>.*</html>\n?", re.IGNORECASE | re.DOTALL)
"""The log of a pod is both of its streams: what was said beside the page is left out."""


def report_command(cluster: Cluster, options: argparse.Namespace) -> int:
    """Saves the page.

    Raises:
        PluginError: there is no artifact, it cannot be read, or the file cannot be written.
    """
    job = cluster.job(options.name)
    uri = job.get("status", {}).get("artifact", {}).get("uri")
    if uri is None:
        raise PluginError(f"{options.name} has no artifact: it is {phase_of(job)}.")
    page: Path = options.output or Path(f"{options.name}-report.html")
    found = PAGE.search(read_by_pod(cluster, job, ["report", "--output=-", uri]))
    if found is None:
        raise PluginError("What the pod printed is no report: its image may be of an older release.")
    try:
        page.write_text(found[0])
    except OSError as error:
        raise PluginError(
            f"{page} cannot be written ({error.strerror}): name another file with -o."
        ) from error
    print(page)
    if options.open and not webbrowser.open(page.absolute().as_uri()):
        print("There is no browser to open it with; open the file yourself.")
    return 0
