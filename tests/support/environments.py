"""Python environments of other software (the stock packages, independent readers), each from its lock.

They live in the user's cache, keyed by the lock, and are made once:
`python -m tests.support.environments readers` prints the path of the interpreter. QUANTIZATION_READER_PYTHON,
QUANTIZATION_LEGACY_PYTHON and QUANTIZATION_VLLM_PYTHON name interpreters to take instead, as for the tests that are run
end to end.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("QUANTIZATION_CACHE_DIR", Path.home() / ".cache/quantization-operator")) / "venvs"
INSTEAD = {
    "readers": "QUANTIZATION_READER_PYTHON",
    "legacy": "QUANTIZATION_LEGACY_PYTHON",
    "vllm": "QUANTIZATION_VLLM_PYTHON",
}


class EnvironmentMissingError(Exception):
    """An environment could not be made; the message says why."""


def chosen_interpreter(name: str) -> Path:
    """The interpreter that the user named for an environment, or else the locked one.

    Raises:
        EnvironmentMissingError: the lock is missing, or its packages could not be installed here.
    """
    named = os.environ.get(INSTEAD.get(name, ""))
    if named:
        return Path(named)
    try:
        return interpreter(name)
    except FileNotFoundError as error:
        raise EnvironmentMissingError(f"{error.filename} is missing") from error
    except subprocess.CalledProcessError as error:
        raise EnvironmentMissingError(f"{name} could not be installed (exit {error.returncode})") from error


def find_uv() -> str:
    """The path of uv, which makes environments."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        raise SystemExit("uv is missing: run `make setup`")
    return uv


def interpreter(name: str) -> Path:
    """The interpreter of the environment locked in requirements/NAME.txt, made when it is missing."""
    lock = ROOT / f"requirements/{name}.txt"
    home = CACHE / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    python = home / "bin/python"
    if (home / "complete").exists():
        return python
    uv = find_uv()
    shutil.rmtree(home, ignore_errors=True)
    run = [uv, "venv", "--quiet", "--python", "3.11", str(home)]
    subprocess.run(run, check=True)
    install = [uv, "pip", "install", "--quiet", "--require-hashes", "--no-deps", "--python", str(python)]
    subprocess.run([*install, "-r", str(lock)], check=True)
    (home / "complete").touch()
    return python


if __name__ == "__main__":
    print(interpreter(sys.argv[1]))
