"""Asks a server over HTTPS whether it is ready, without any client library."""

import http.client
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from local_cluster.certificates import Pair


class Probe:
    """Asks one API server for paths, as the user that a client certificate names."""

    def __init__(self, url: str, authority: Path, client: Pair) -> None:
        self._url = url
        context = ssl.create_default_context(cafile=str(authority))
        context.load_cert_chain(client.certificate, client.key)
        # No proxy: the server is on this machine, whatever the environment says about the way to others.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def get(self, path: str, timeout: float = 2.0) -> bytes | None:
        """Return the body behind `path`, or None while the server refuses, is not there or does not answer in time."""
        try:
            with self._opener.open(self._url + path, timeout=timeout) as answer:
                body: bytes = answer.read()
                return body or b"ok"
        except (urllib.error.URLError, http.client.HTTPException, OSError):
            return None
