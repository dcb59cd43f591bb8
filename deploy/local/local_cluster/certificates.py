"""Makes the cluster's certificates with openssl: an authority, what it signs, and kubeconfigs that carry the result."""

import base64
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from local_cluster.shell import run

_DAYS = "3650"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both in PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that keeps its files, and those it issues, in one directory."""

    directory: Path
    pair: Pair

    @classmethod
    def create(cls, directory: Path, name: str) -> "Authority":
        """Create an authority called `name`, or open the one that is already there."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        pair = Pair(directory / f"{name}.crt", directory / f"{name}.key")
        if not pair.certificate.exists():
            extensions = [
                "basicConstraints=critical,CA:TRUE",
                "keyUsage=critical,keyCertSign,cRLSign,digitalSignature",
            ]
            _make(pair, _subject(name), extensions, signer=None)
        return cls(directory, pair)

    def server(self, name: str, common_name: str, addresses: Sequence[str]) -> Pair:
        """Issue a server's certificate for `addresses`, each `DNS:name` or `IP:address`, unless it exists."""
        names = f"subjectAltName={','.join(addresses)}"
        return self._issue(name, _subject(common_name), ["extendedKeyUsage=serverAuth", names])

    def client(self, name: str, user: str, group: str | None = None) -> Pair:
        """Issue the certificate by which the API server knows a user and the group it belongs to, unless it exists."""
        return self._issue(name, _subject(user, group), ["extendedKeyUsage=clientAuth"])

    def _issue(self, name: str, subject: str, extensions: Sequence[str]) -> Pair:
        pair = Pair(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        if not pair.certificate.exists():
            usage = [
                "basicConstraints=CA:FALSE",
                "keyUsage=critical,digitalSignature",
                "authorityKeyIdentifier=keyid",
            ]
            _make(pair, subject, [*usage, *extensions], signer=self.pair)
        return pair


def service_account_key(directory: Path) -> Pair:
    """Create the key that signs service-account tokens; its `certificate` is the bare public key."""
    pair = Pair(directory / "service-account.pub", directory / "service-account.key")
    if not pair.certificate.exists():
        run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", pair.key)
        pair.key.chmod(0o600)
        run("openssl", "pkey", "-in", pair.key, "-pubout", "-out", pair.certificate)
    return pair


def write_kubeconfig(path: Path, server: str, authority: Authority, client: Pair) -> None:
    """Write a kubeconfig with the certificates inside; only its owner can read it."""

    def data(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    name = "quantization-local"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [
            {
                "name": name,
                "cluster": {"server": server, "certificate-authority-data": data(authority.pair.certificate)},
            }
        ],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate-data": data(client.certificate),
                    "client-key-data": data(client.key),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        yaml.safe_dump(document, file, sort_keys=False)
    temporary.replace(path)


def _subject(name: str, group: str | None = None) -> str:
    return (f"O={group}\n" if group else "") + f"CN={name}"


def _make(pair: Pair, subject: str, extensions: Sequence[str], signer: Pair | None) -> None:
    """Make a key and a certificate; the certificate's name appears last, so that its presence means both are whole."""
    configuration = (
        "[req]\nprompt=no\ndistinguished_name=subject\nx509_extensions=extensions\n"
        f"[subject]\n{subject}\n[extensions]\nsubjectKeyIdentifier=hash\n" + "\n".join(extensions) + "\n"
    )
    temporary = pair.certificate.with_name(pair.certificate.name + ".new")
    signing = ("-CA", signer.certificate, "-CAkey", signer.key) if signer else ()
    # A configuration of our own: the system's would add extensions that differ between distributions.
    with tempfile.NamedTemporaryFile("w", suffix=".cnf") as file:
        file.write(configuration)
        file.flush()
        run(
            "openssl",
            "req",
            "-x509",
            "-config",
            file.name,
            "-days",
            _DAYS,
            *_KEY,
            *signing,
            "-keyout",
            pair.key,
            "-out",
            temporary,
        )
    pair.key.chmod(0o600)
    temporary.replace(pair.certificate)
