"""The port at which a pod says how far it is may be another container's."""

import socket

import pytest
from tests.support.manifests import manifest

from quantization_api.failures import QuantizationError
from quantization_api.pod import RunRequest
from quantization_api.spec import QuantizationJobSpec
from quantizer.cli.execution import Here, progress_server
from quantizer.progress.tracker import Tracker

pytestmark = pytest.mark.unit


def test_a_port_that_another_container_has_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    spec = QuantizationJobSpec.model_validate(manifest()["spec"])
    request = RunRequest.from_spec("job", "team", "1", spec)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert progress_server(Here(listen=listen, may_be_deaf=True), Tracker(), request) is None
        assert "the run goes on" in caplog.text
        with pytest.raises(QuantizationError, match="cannot listen"):
            progress_server(Here(listen=listen), Tracker(), request)
