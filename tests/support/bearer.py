"""Requests to an API server by whoever has a token."""

import base64
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from local_cluster.control_plane import ApiServer


class Bearer:
    """A service account, reached by its token alone."""

    def __init__(self, api: ApiServer, namespace: str, account: str) -> None:
        self._url = api.url
        self._token = api.kubectl("create", "token", account, "-n", namespace).stdout.strip()
        server = yaml.safe_load(api.kubeconfig.read_text())["clusters"][0]["cluster"]
        data = server.get("certificate-authority-data")
        self._tls = ssl.create_default_context(
            cadata=base64.b64decode(data).decode()
            if data
            else Path(server["certificate-authority"]).read_text()
        )

    def ask(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> tuple[int, str]:
        """One request; a text is sent as it is. Code and the beginning of the answer."""
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content_type}
        request = urllib.request.Request(self._url + path, method=method, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=30) as answer:
                return answer.status, answer.read(1000).decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read(1000).decode(errors="replace")
