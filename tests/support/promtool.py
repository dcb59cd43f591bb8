"""promtool, which evaluates rules of Prometheus: the machine's, or that of Debian's package, which is only unpacked."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

PACKAGE = "prometheus"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quantization-operator/promtool"


@cache
def promtool() -> Path:
    """The program.

    Raises:
        CalledProcessError: it is not on this machine, and apt-get cannot download it.
    """
    if there := shutil.which("promtool"):
        return Path(there)
    program = CACHE / "usr/bin/promtool"
    if not program.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "--quiet", PACKAGE], cwd=CACHE, check=True, timeout=300)
        (package,) = CACHE.glob(f"{PACKAGE}_*.deb")
        files = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True, timeout=120
        ).stdout
        subprocess.run(
            ["tar", "--extract", "./usr/bin/promtool"], cwd=CACHE, input=files, check=True, timeout=120
        )
        package.unlink()
    return program


def run(*arguments: str | Path) -> str:
    """Run it; what it says, "" when all is well."""
    done = subprocess.run(
        [promtool(), *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr
