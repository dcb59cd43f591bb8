"""promtool and Prometheus itself: the machine's, or those of Debian's package, which is only unpacked."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

PACKAGE = "prometheus"
PROGRAMS = ("promtool", "prometheus")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quantization-operator/promtool"


@cache
def program(name: str) -> Path:
    """One of PROGRAMS.

    Raises:
        CalledProcessError: it is not on this machine, and apt-get cannot download it.
    """
    if there := shutil.which(name):
        return Path(there)
    unpacked = CACHE / "usr/bin" / name
    if not unpacked.exists():
        _unpack()
    return unpacked


def run(*arguments: str | Path) -> str:
    """Run promtool; what it says, "" when all is well."""
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def _unpack() -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "--quiet", PACKAGE], cwd=CACHE, check=True, timeout=300)
    (package,) = CACHE.glob(f"{PACKAGE}_*.deb")
    files = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True, timeout=120
    ).stdout
    names = [f"./usr/bin/{name}" for name in PROGRAMS]
    subprocess.run(["tar", "--extract", *names], cwd=CACHE, input=files, check=True, timeout=120)
    package.unlink()
