"""Runs other programs to their end, and turns a failure into an error that a person can act on."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from local_cluster.errors import ClusterError

_LINES_SHOWN = 15


class CommandError(ClusterError):
    """A program ended with an error; the message carries its command line and the end of what it said."""

    def __init__(self, command: str, returncode: int, said: str) -> None:
        super().__init__(f"`{command}` ended with exit code {returncode}:\n{said}")
        self.returncode = returncode
        self.said = said


def run(
    *argv: str | Path,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
    check: bool = True,
    capture: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a program and return its exit code and text output.

    Args:
        argv: the program and its arguments. They are shown when it fails, so a secret belongs in `stdin` or `env`.
        stdin: text for its standard input; without it the input is empty.
        env: variables added to this process's own.
        cwd: the directory it runs in.
        timeout: seconds it may take.
        check: raise when its exit code is not zero.
        capture: keep its output; False lets it write to this process's own output.

    Raises:
        CommandError: it ended with another exit code than zero, and `check` is set.
        ClusterError: the program is not installed, or took longer than `timeout`.
    """
    words = [str(word) for word in argv]
    command = shlex.join(words)
    try:
        done = subprocess.run(
            words,
            input=stdin if stdin is not None else "",
            env={**os.environ, **(env or {})},
            cwd=cwd,
            timeout=timeout,
            check=False,
            text=True,
            errors="replace",
            stdout=subprocess.PIPE if capture else None,
            stderr=subprocess.PIPE if capture else None,
        )
    except FileNotFoundError as error:
        raise ClusterError(
            f"`{words[0]}` is not on this machine; `python -m local_cluster doctor` says what is missing"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"`{command}` was not done after {timeout:.0f} s") from error
    if check and done.returncode != 0:
        said = "\n".join(((done.stderr or "") + (done.stdout or "")).strip().splitlines()[-_LINES_SHOWN:])
        raise CommandError(command, done.returncode, said or "(it said nothing)")
    return done


def which(program: str) -> Path | None:
    """Find a program on PATH or in the system directories, which an ordinary user's PATH leaves out."""
    found = shutil.which(program) or shutil.which(program, path="/usr/local/sbin:/usr/sbin:/sbin")
    return Path(found) if found else None
