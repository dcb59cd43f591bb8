"""An upload that is stopped ends soon, whatever the storage does."""

import socket
import time
from pathlib import Path

import pytest

from quantization_api.pod import StorageAccess
from quantizer.store.interface import OUTPUT
from quantizer.store.patience import Patience
from quantizer.store.s3 import S3Store

pytestmark = pytest.mark.unit


class StoppedError(Exception):
    pass


@pytest.mark.timeout(60)
def test_an_upload_that_is_stopped_does_not_wait_for_a_storage_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    (tmp_path / "file").write_bytes(b"x")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        access = StorageAccess(endpoint=f"http://127.0.0.1:{nobody.getsockname()[1]}")
        store = S3Store("bucket", "key", OUTPUT, access, Patience(300))
        began = time.monotonic()

        def stop() -> None:
            if time.monotonic() > began + 2:
                raise StoppedError

        with pytest.raises(StoppedError):
            store.put_file("file", tmp_path / "file", stop)
    assert time.monotonic() - began < 20
