"""Hands this machine's choice of a Python package index to an image build, as build secrets that no image keeps."""

import ast
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from local_cluster.shell import run, which


@dataclass(frozen=True, slots=True)
class PackageIndex:
    """Where packages come from, in the words of pip; all empty means the public index."""

    url: str = ""
    extra_urls: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()

    def pip_conf(self) -> str:
        """The same as a configuration file of pip."""
        lines = ["[global]"]
        if self.url:
            lines.append(f"index-url = {self.url}")
        if self.extra_urls:
            lines.append("extra-index-url = " + "\n    ".join(self.extra_urls))
        if self.trusted_hosts:
            lines.append("trusted-host = " + "\n    ".join(self.trusted_hosts))
        return "\n".join(lines) + "\n"

    def uv_toml(self) -> str:
        """The same as a configuration file of uv; it trusts the build's own certificates instead of those inside uv."""
        lines = ["native-tls = true"]
        if self.url:
            lines.append(f"index-url = {json.dumps(self.url)}")
        if self.extra_urls:
            lines.append(f"extra-index-url = {json.dumps(self.extra_urls)}")
        if self.trusted_hosts:
            lines.append(f"allow-insecure-host = {json.dumps(self.trusted_hosts)}")
        return "\n".join(lines) + "\n"


def of_this_machine(environ: Mapping[str, str] = os.environ) -> PackageIndex:
    """Read the environment and the configuration files of uv and pip; uv's word counts more, since uv does the work."""
    return choose(environ, _uv_files(environ), pip_options(_pip_config()))


def choose(environ: Mapping[str, str], uv_files: Iterable[str], pip: Mapping[str, str]) -> PackageIndex:
    """Merge what was found: environment before files, uv before pip.

    Args:
        environ: the environment variables.
        uv_files: texts of uv's configuration files, the most important first.
        pip: pip's options as `pip config list` knows them, environment included.
    """
    index = PackageIndex(
        url=environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL") or "",
        extra_urls=tuple((environ.get("UV_INDEX") or environ.get("UV_EXTRA_INDEX_URL") or "").split()),
        trusted_hosts=tuple((environ.get("UV_INSECURE_HOST") or "").split()),
    )
    for candidate in (*map(_from_uv, uv_files), _from_pip(pip)):
        index = PackageIndex(
            url=index.url or candidate.url,
            extra_urls=index.extra_urls or candidate.extra_urls,
            trusted_hosts=index.trusted_hosts or candidate.trusted_hosts,
        )
    return index


def pip_options(listing: str) -> dict[str, str]:
    """Parse the output of `pip config list`; the environment wins, then options for `install`, then global ones."""
    found: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for line in listing.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(f"{section}."):
                found[name.removeprefix(f"{section}.")] = str(ast.literal_eval(value))
    return found


def _from_pip(options: Mapping[str, str]) -> PackageIndex:
    return PackageIndex(
        url=options.get("index-url", ""),
        extra_urls=tuple(options.get("extra-index-url", "").split()),
        trusted_hosts=tuple(options.get("trusted-host", "").split()),
    )


def _from_uv(text: str) -> PackageIndex:
    config = tomllib.loads(text)
    pip = config.get("pip", {})
    named = config.get("index", [])
    default = next((item["url"] for item in named if item.get("default")), "")
    extra = [item["url"] for item in named if not item.get("default") and not item.get("explicit")]
    return PackageIndex(
        url=default or config.get("index-url") or pip.get("index-url") or "",
        extra_urls=tuple(extra or config.get("extra-index-url") or pip.get("extra-index-url") or ()),
        trusted_hosts=tuple(config.get("allow-insecure-host") or ()),
    )


def _uv_files(environ: Mapping[str, str]) -> list[str]:
    home = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    named = environ.get("UV_CONFIG_FILE")
    paths = [Path(named)] if named else [home / "uv" / "uv.toml", Path("/etc/uv/uv.toml")]
    return [path.read_text() for path in paths if path.is_file()]


def _pip_config() -> str:
    pip = which("pip3") or which("pip")
    return run(pip, "config", "list", check=False).stdout if pip else ""
