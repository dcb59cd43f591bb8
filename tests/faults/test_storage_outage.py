"""A storage that is away for 20 s, or a minute, costs no attempt; one of two seconds is in tests/integration."""

from pathlib import Path

import pytest
from tests.support.outages import run_through_an_outage
from tests.support.quantizer_requests import MODEL, TEXT
from tests.support.s3 import S3Server

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(("seconds", "told_at_least"), [(20, 10), (60, 40)])
def test_an_outage_costs_no_attempt(tmp_path: Path, seconds: int, told_at_least: int) -> None:
    with S3Server(tmp_path / "s3") as s3:
        s3.upload("models", "stories15m", MODEL)
        s3.upload("datasets", "tinystories", TEXT)
        s3.client().create_bucket(Bucket="artifacts")
        run_through_an_outage(s3, tmp_path, seconds, told_at_least)
