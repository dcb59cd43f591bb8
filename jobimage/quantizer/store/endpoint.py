"""Checks of storage.endpoint.

A cloud's metadata service hands out a node's credentials at a link-local address. A user who may choose the endpoint
could point the quantizer there, so by default the operator asks for a check before every request.
"""

import ipaddress
import socket
from urllib.parse import unquote, urlsplit

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import StorageAccess

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200")))
"""Metadata services outside the link-local ranges: AWS over IPv6, Alibaba Cloud."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def check_endpoint(access: StorageAccess) -> None:
    """Raises InvalidWorkflow for an endpoint that carries credentials or has no host, and, where the access says so,
    for one with a link-local or metadata address.

    A name that does not resolve is left to the connection, which retries.
    """
    if access.endpoint is None:
        return
    host, port = _host_and_port(access.endpoint)
    if not access.refuse_link_local:
        return
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # knows 0xa9fea9fe and 2852039166 too
    except (OSError, UnicodeError):
        return
    for entry in found:
        address = ipaddress.ip_address(str(entry[4][0]).partition("%")[0])
        if is_refused(address):
            raise QuantizationError(
                Category.INVALID_WORKFLOW,
                f"storage.endpoint {access.endpoint} resolves to {address}, a link-local or metadata address",
                "Use the address of an S3 server. An administrator can allow such addresses with the operator "
                "setting refuse_link_local_endpoints: false.",
            )


def is_refused(address: Address) -> bool:
    """Whether the address, or the IPv4 address within it, is link-local or a metadata service."""
    inner = _inner(address)
    return address.is_link_local or address in METADATA or (inner is not None and is_refused(inner))


def _inner(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in NAT64 or int(address) >> 32 == 0:  # ::a.b.c.d, the old form
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _host_and_port(endpoint: str) -> tuple[str, int | None]:
    if "@" in endpoint:
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            "storage.endpoint must not contain credentials",
            "Put them in the environment; in a cluster, in a Secret that spec.storage.credentialsSecret names.",
        )
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise QuantizationError(
            Category.INVALID_WORKFLOW, f"storage.endpoint {endpoint} cannot be used: {error}"
        ) from error
    if parts.scheme not in ("http", "https") or not host:
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            f"storage.endpoint {endpoint} is not http://HOST[:PORT] or https://HOST[:PORT]",
            "Give only the scheme, host and port, for example https://s3.example.org:9000.",
        )
    return unquote(host), port
