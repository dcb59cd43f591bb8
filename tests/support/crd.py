"""Install the generated CRD into a running API server and wait until it is served."""

import time
from pathlib import Path

import yaml
from kubernetes import client

CRD_FILE = Path(__file__).parents[2] / "crds/quantizationjobs.yaml"


def install_crd(api_client: client.ApiClient, limit_seconds: float = 30) -> None:
    """Create the CRD; returns when it is Established and its paths answer."""
    body = yaml.safe_load(CRD_FILE.read_text())
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
