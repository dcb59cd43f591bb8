"""A whole run from and to an S3 server that is killed in the middle of it, and started again."""

import re
import time
from pathlib import Path

from tests.support.quantizer_requests import Request, end, start
from tests.support.s3 import S3Server


def run_through_an_outage(s3: S3Server, tmp_path: Path, seconds: float, expected: float) -> None:
    """The storage goes away while layers are computed and stored; it is told to be away for the `expected` seconds.

    The caller's own thread starts the server again: a server ends with the thread that started it (pdeathsig).
    """
    prefix = f"outage-{seconds:.0f}"
    request = Request(
        output=f"s3://artifacts/{prefix}",
        model="s3://models/stories15m",
        calibration="s3://datasets/tinystories/tinystories-calibration.txt",
        validation="s3://datasets/tinystories/tinystories-validation.txt",
        endpoint=s3.endpoint,
        samples=16,
        metrics=[],
    )
    process = start(request, tmp_path / "away", s3.environment())
    try:
        deadline = time.monotonic() + 120
        while not any(key.endswith("layer-00000.json") for key in s3.keys("artifacts", prefix)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        s3.kill()
        time.sleep(seconds)
        s3.start()
        ended = end(process, tmp_path / "away")
    finally:
        process.kill()
    assert ended.code == 0, ended.log
    told = [
        float(word)
        for word in re.findall(r"storage unreachable for (\d+) s \(giving up after 300 s\)", ended.log)
    ]
    assert told, ended.log
    assert max(told) >= expected
    assert "the storage responds again after" in ended.log
    assert ended.result.artifact is not None
