"""Install the generated CRD into a running API server and wait until it is served."""

import time
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client
from tests.support.operator_process import until

from local_cluster.control_plane import ApiServer

CRD_FILE = Path(__file__).parents[2] / "crds/quantizationjobs.yaml"


def install_crd(
    api_client: client.ApiClient, body: dict[str, Any] | None = None, limit_seconds: float = 30
) -> None:
    """Create the CRD (None: the released one); returns when it is Established and its paths answer."""
    body = yaml.safe_load(CRD_FILE.read_text()) if body is None else body
    extensions = client.ApiextensionsV1Api(api_client)
    extensions.create_custom_resource_definition(body)
    group, plural = body["spec"]["group"], body["spec"]["names"]["plural"]
    version = body["spec"]["versions"][0]["name"]
    objects = client.CustomObjectsApi(api_client)
    deadline = time.monotonic() + limit_seconds
    while True:
        try:
            objects.list_cluster_custom_object(group, version, plural)
            return
        except client.exceptions.ApiException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def until_kinds_are_served(server: ApiServer) -> None:
    """Waits until every kind that was applied is Established; one that has just been made has no conditions yet."""
    waiting = ("wait", "--for=condition=Established", "crd", "--all", "--timeout=10s")
    until("the kinds are served", lambda: server.kubectl(*waiting, check=False).returncode == 0)
