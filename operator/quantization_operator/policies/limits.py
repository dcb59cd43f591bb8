"""What is not allowed of a valid spec: by the administrator, images, service accounts, Secrets, variables and
endpoints; by Kubernetes, an output that vanishes with the pod.

Who may create a QuantizationJob may otherwise run any image with any Secret of the namespace (docs/security.md).
It is asked before each Job is made, also the one that removes an artifact: its image and Secret are the spec's, too.
"""

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from typing import Protocol
from urllib.parse import urlsplit

from quantization_api.failures import Category
from quantization_api.spec import VANISHES, QuantizationJobSpec, outlives_the_pod
from quantization_api.status import Failure
from quantization_api.volumes import MountedVolume
from quantization_operator.diagnose import failure
from quantization_operator.settings import ENV_PREFIX, OperatorSettings

METADATA_ADDRESSES = ("100.100.100.200", "fd00:ec2::254")
"""Where clouds serve instance metadata beside the link-local addresses."""
HARMLESS_VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "HF_DATASETS_OFFLINE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN"),
    *("LANG", "MKL_NUM_THREADS", "NCCL_*", "OMP_NUM_THREADS", "TZ"),
)
"""Variables that may be set where only some images may be run, and nothing else is said."""
METADATA_NAMES = ("metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal")


def refusal(spec: QuantizationJobSpec, settings: OperatorSettings) -> Failure | None:
    """Why this spec cannot be run here; None when it can."""
    sentence = next(_sentences(spec, settings), None)
    if sentence is None:
        return None
    hint = "Use what is allowed, or ask the operator's administrator to allow it."
    return failure(Category.INVALID_WORKFLOW, sentence, hint=hint)


def _sentences(spec: QuantizationJobSpec, settings: OperatorSettings) -> Iterator[str]:
    allowed = {
        "allowed_images": settings.allowed_images,
        "allowed_service_accounts": settings.allowed_service_accounts,
        "allowed_secrets": settings.allowed_secrets,
        "allowed_variables": _variables(settings),
    }
    for field, value, setting in _named(spec):
        entries = allowed[setting]
        if value and entries is not None and not _matches(value, entries):
            yield f"spec.{field}: {value} is not allowed here; allowed: {_listed(entries)} ({_variable(setting)})"
    if not outlives_the_pod(
        spec
    ):  # refused by the API server, unless it was stored before there was this rule
        yield f"spec.output: {VANISHES}"
    endpoint = spec.storage.endpoint
    if endpoint and settings.refuse_link_local_endpoints and is_metadata(urlsplit(endpoint).hostname or ""):
        yield (
            f"spec.storage.endpoint: {endpoint} is link-local, or serves a cloud's metadata; write the address of "
            f"an S3 server ({_variable('refuse_link_local_endpoints')})"
        )


def _variables(settings: OperatorSettings) -> Sequence[str] | None:
    """Who bounds the images wants to know what is run; of most libraries some variable loads code."""
    if settings.allowed_variables is None and settings.allowed_images is not None:
        return HARMLESS_VARIABLES
    return settings.allowed_variables


Named = tuple[str, str | None, str]
"""A field of the spec, what it names, and the setting that bounds it."""


class _HasName(Protocol):
    name: str


def _name(reference: _HasName | None) -> str | None:
    return reference.name if reference else None


def _named(spec: QuantizationJobSpec) -> Iterator[Named]:
    template = spec.template
    yield "template.image", template.image, "allowed_images"
    yield "template.serviceAccountName", template.service_account_name, "allowed_service_accounts"
    yield "storage.credentialsSecret.name", _name(spec.storage.credentials_secret), "allowed_secrets"
    for reference in template.image_pull_secrets:
        yield "template.imagePullSecrets", reference.name, "allowed_secrets"
    for variable in template.env:
        key = variable.value_from.secret_key_ref if variable.value_from else None
        yield "template.env", variable.name, "allowed_variables"
        yield "template.env", _name(key), "allowed_secrets"
    for source in template.env_from:
        yield "template.envFrom", f"{source.prefix}*", "allowed_variables"
        yield "template.envFrom", _name(source.secret_ref), "allowed_secrets"
    if (trusted := template.trusted_certificates) is not None:
        yield "template.trustedCertificates", _name(trusted.secret), "allowed_secrets"
    for volume in template.volumes:
        yield from _named_by(volume)


def _named_by(volume: MountedVolume) -> Iterator[Named]:
    field = "template.volumes"
    if volume.image is not None:
        yield field, volume.image.reference, "allowed_images"
    if volume.secret is not None:
        yield field, volume.secret.secret_name, "allowed_secrets"
    if volume.csi is not None:
        yield field, _name(volume.csi.node_publish_secret_ref), "allowed_secrets"
    for part in volume.projected.sources if volume.projected else ():
        yield field, _name(part.secret), "allowed_secrets"


def _matches(value: str, entries: Sequence[str]) -> bool:
    return any(value.startswith(entry[:-1]) if entry.endswith("*") else value == entry for entry in entries)


def _listed(entries: Sequence[str]) -> str:
    return ", ".join(entries) or "none, leave the field out"


def _variable(setting: str) -> str:
    return ENV_PREFIX + setting.upper()


def is_metadata(host: str) -> bool:
    """Whether a host is link-local or known to serve metadata, as far as that can be seen without a resolver."""
    address = _address(host)
    if address is None:
        return host.rstrip(".").lower() in METADATA_NAMES
    return address.is_link_local or str(address) in METADATA_ADDRESSES


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host is written as: also 2852039166, 0xa9fea9fe and 169.16689662, which resolvers take."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address
