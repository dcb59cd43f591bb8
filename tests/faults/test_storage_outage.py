"""A storage that is away for a minute costs no attempt; shorter outages are in tests/integration."""

from pathlib import Path

import pytest
from tests.support.outages import run_through_an_outage
from tests.support.quantizer_requests import MODEL, TEXT
from tests.support.s3 import S3Server

pytestmark = pytest.mark.faults


def test_an_outage_of_a_minute_costs_no_attempt(tmp_path: Path) -> None:
    with S3Server(tmp_path / "s3") as s3:
        s3.upload("models", "stories15m", MODEL)
        s3.upload("datasets", "tinystories", TEXT)
        s3.client().create_bucket(Bucket="artifacts")
        run_through_an_outage(s3, tmp_path, 60, 40)
