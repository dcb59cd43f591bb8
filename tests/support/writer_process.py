"""A writer of a tiny artifact in a process of its own, to be stopped, continued and killed by signals."""

import multiprocessing
import os
from multiprocessing.process import BaseProcess

from tests.support.writers import LAYER, OBJECTS, RECIPES, content, manifest

from quantization_api.failures import QuantizationError
from quantization_api.manifest import Manifest
from quantization_api.pod import StorageAccess
from quantizer.store import claim as claims
from quantizer.store.artifact import ArtifactWriter
from quantizer.store.interface import OUTPUT
from quantizer.store.location import Location, open_store
from quantizer.store.obtaining import Asked, already_there, obtain

PATIENCE_SECONDS = 0.4
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.support.writer_process"])


def writer(uri: str, endpoint: str | None, uid: str, number: int) -> BaseProcess:
    """Starts one. It ends with 0 when its artifact is there, else with the exit code of its failure."""
    process = _forks.Process(target=_run, args=(uri, endpoint, uid, number, dict(os.environ)), daemon=True)
    process.start()
    return process


def _run(uri: str, endpoint: str | None, uid: str, number: int, environment: dict[str, str]) -> None:
    os.environ.update(environment)  # a fork has that of the time when the server of forks began
    claims.PATIENCE_SECONDS, claims.LOOK_SECONDS, claims.RENEW_SECONDS = PATIENCE_SECONDS, 0.1, 0.1
    access = StorageAccess(endpoint=endpoint, region="us-east-1")
    store = open_store(Location.parse(uri), OUTPUT, access)
    asked = Asked(uid, f"default/{uid}", RECIPES[0])

    def make(to: ArtifactWriter) -> tuple[Manifest, bytes]:
        to.store.put_bytes(LAYER, b"a finished layer")
        for key in OBJECTS:
            to.put_bytes(key, content(key, RECIPES[0], uid, number))
        return to.finish(manifest(RECIPES[0], uid, number))

    code = 0
    try:
        if already_there(store, asked) is None:
            obtain(store, asked, make)
    except QuantizationError as error:
        code = int(error.exit_code)
    os._exit(code)
