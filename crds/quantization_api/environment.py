"""Environment variables of the quantizer's container: single ones, all of a ConfigMap or Secret, proxies, certificates.

Variables that load code, and those that the operator sets, are refused: they would run something other than the image.
"""

from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from quantization_api.bounded import DnsName, Quantity, SecretKey, ShortText, Text, Uri
from quantization_api.rules import KubernetesModel, Rule, exactly_one, literal

RESERVED = (
    "QUANTIZATION_REQUEST",
    "JOB_COMPLETION_INDEX",
    "HOME",
    "TMPDIR",
    "PATH",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)
"""Variables that the image, the operator or Kubernetes sets."""
LOADING = ("PYTHON", "LD_")
"""Beginnings of variables by which other code than the image's is loaded."""
RESERVED_SENTENCE = (
    "env must not set PATH, HOME, TMPDIR, QUANTIZATION_REQUEST, JOB_COMPLETION_INDEX, PYTHON* or LD_*, which say what "
    "is run, nor the keys of an S3 account, which storage.credentialsSecret names"
)
PREFIX_SENTENCE = (
    "envFrom needs a prefix that ends in _ and does not begin with PYTHON, LD_, AWS_ or QUANTIZATION_, so that no key "
    "says what is run; name single keys in env"
)
CERTIFICATE_PATH = "/etc/quantization/certificates/ca.crt"
"""Where trustedCertificates lie in the pod."""
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
"""By which OpenSSL, the libraries of Python, curl and the client of S3 find them."""

VariableName = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
]
Value = Annotated[str, StringConstraints(max_length=4096)]
Optional = Annotated[
    bool | None, Field(description="Whether the pod starts without it. If unset: it does not.")
]


class KeyReference(KubernetesModel):
    """One key of a ConfigMap or a Secret of the same namespace."""

    name: DnsName = Field(description="Name of the ConfigMap or Secret.")
    key: SecretKey = Field(description="Its key.")
    optional: Optional = None


class PodField(KubernetesModel):
    """A field of the pod."""

    field_path: ShortText = Field(description="For example metadata.name or status.hostIP.")


class ContainerResource(KubernetesModel):
    """A resource of the quantizer's container."""

    resource: ShortText = Field(description="For example limits.memory.")
    divisor: Quantity | None = Field(None, description="Unit of the value. If unset: 1.")


class ValueSource(KubernetesModel):
    """Where the value of a variable comes from."""

    config_map_key_ref: KeyReference | None = None
    secret_key_ref: KeyReference | None = None
    field_ref: PodField | None = None
    resource_field_ref: ContainerResource | None = None
    RULES: ClassVar[tuple[Rule, ...]] = (
        exactly_one(
            "valueFrom needs exactly one of",
            "configMapKeyRef",
            "secretKeyRef",
            "fieldRef",
            "resourceFieldRef",
        ),
    )


def _sets_reserved(name: str) -> bool:
    return name in RESERVED or name.startswith(LOADING)


class Variable(KubernetesModel):
    """An environment variable."""

    name: VariableName = Field(description="Name of the variable.")
    value: Value | None = Field(None, description="Its value, as it is: $(NAME) is not expanded.")
    value_from: ValueSource | None = None
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"!(self.name in {literal(list(RESERVED))}) && "
            + " && ".join(f"!self.name.startsWith('{beginning}')" for beginning in LOADING),
            message=RESERVED_SENTENCE,
            check=lambda v: RESERVED_SENTENCE if _sets_reserved(v.name) else None,
            field="name",
        ),
        exactly_one("a variable needs exactly one of", "value", "valueFrom"),
    )


class ObjectName(KubernetesModel):
    """A ConfigMap or a Secret of the same namespace."""

    name: DnsName = Field(description="Its name.")
    optional: Optional = None


class VariableSource(KubernetesModel):
    """All keys of a ConfigMap or of a Secret as variables."""

    prefix: ShortText = Field(description="Put before each key, for example HF_.")
    config_map_ref: ObjectName | None = None
    secret_ref: ObjectName | None = None
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.prefix.matches('^[A-Za-z][A-Za-z0-9_]*_$') && "
            "!self.prefix.matches('^(PYTHON|LD_|AWS_|QUANTIZATION_)')",
            message=PREFIX_SENTENCE,
            check=lambda s: None if _is_harmless(s.prefix) else PREFIX_SENTENCE,
            field="prefix",
        ),
        exactly_one("envFrom needs exactly one of", "configMapRef", "secretRef"),
    )


def _is_harmless(prefix: str) -> bool:
    words = prefix.isascii() and prefix.replace("_", "a").isalnum() and prefix[0].isalpha()
    return words and prefix.endswith("_") and not prefix.startswith((*LOADING, "AWS_", "QUANTIZATION_"))


class Proxy(KubernetesModel):
    """Proxies between the pod and the storage, registries of models and the like."""

    http_proxy: Uri | None = Field(None, description="For http:// addresses, for example http://proxy:3128.")
    https_proxy: Uri | None = Field(None, description="For https:// addresses.")
    no_proxy: Text | None = Field(
        None,
        description="Names and addresses that are reached without it, separated by commas; an S3 server in the "
        "cluster belongs here, for example .svc,.cluster.local.",
    )


class TrustedCertificates(KubernetesModel):
    """Certificates of authorities that the pod trusts, as PEM. They take the place of the image's: name all that are
    needed.
    """

    config_map: ObjectName | None = None
    secret: ObjectName | None = None
    key: SecretKey = Field("ca.crt", description="Key of the ConfigMap or Secret that holds them.")
    RULES: ClassVar[tuple[Rule, ...]] = (
        exactly_one("trustedCertificates needs exactly one of", "configMap", "secret"),
    )
