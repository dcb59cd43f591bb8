"""Endpoints that lead to link-local and metadata addresses, in every way to write them."""

import ipaddress
import socket

import pytest

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import StorageAccess
from quantizer.store.endpoint import check_endpoint, is_refused
from quantizer.store.interface import OUTPUT
from quantizer.store.s3 import S3Store

pytestmark = pytest.mark.unit

METADATA = [
    "http://169.254.169.254",
    "http://169.254.169.254:80",
    "http://2852039166",
    "http://0xa9fea9fe",
    "http://0251.0376.0251.0376",
    "http://169.16689662",
    "http://[::ffff:169.254.169.254]",
    "http://[::ffff:a9fe:a9fe]",
    "http://[::169.254.169.254]",
    "http://[64:ff9b::169.254.169.254]",
    "http://[2002:a9fe:a9fe::1]",
    "http://[fe80::1]",
    "http://[fe80::1%25lo]:9000",
    "http://[fd00:ec2::254]",
    "http://100.100.100.200",
    "http://169.254.170.2",
]


@pytest.mark.parametrize("endpoint", METADATA)
def test_an_address_of_a_metadata_service_is_refused(endpoint: str) -> None:
    with pytest.raises(QuantizationError, match="link-local or metadata address") as caught:
        check_endpoint(StorageAccess(endpoint=endpoint, refuse_link_local=True))
    assert caught.value.category is Category.INVALID_WORKFLOW
    assert "refuse_link_local_endpoints" in caught.value.hint
    check_endpoint(StorageAccess(endpoint=endpoint, refuse_link_local=False))


def test_a_name_is_judged_by_every_address_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = ["93.184.216.34", "169.254.169.254"]
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (it, 80)) for it in addresses],
    )
    with pytest.raises(QuantizationError, match=r"resolves to 169\.254\.169\.254"):
        check_endpoint(StorageAccess(endpoint="http://s3.example.org", refuse_link_local=True))


def test_a_name_that_leads_elsewhere_later_is_refused_then(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["93.184.216.34", "93.184.216.34"])

    def resolve(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers, "169.254.169.254"), 80))]

    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    access = StorageAccess(endpoint="http://s3.example.org", refuse_link_local=True, patience_seconds=0)
    store = S3Store("bucket", "key", OUTPUT, access)
    with pytest.raises(QuantizationError, match=r"resolves to 169\.254\.169\.254"):
        store.list()


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9000", "http://[::1]:9000", "http://10.0.0.1", None])
def test_other_addresses_are_not(endpoint: str | None) -> None:
    check_endpoint(StorageAccess(endpoint=endpoint, refuse_link_local=True))
    assert not is_refused(ipaddress.ip_address("64:ff9b::a00:1"))


@pytest.mark.parametrize(
    "endpoint",
    ["s3.example.org", "ftp://s3.example.org", "http://", "http://u:p@host", "http://[::1", "http://h:x"],
)
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(QuantizationError) as caught:
        check_endpoint(StorageAccess(endpoint=endpoint))
    assert caught.value.category is Category.INVALID_WORKFLOW


def test_a_name_that_nobody_knows_is_left_to_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    check_endpoint(StorageAccess(endpoint="http://s3.example.org", refuse_link_local=True))
