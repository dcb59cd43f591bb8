"""Runs work that cannot be limited inside this process in a child process with its own limits.

A tokenizer's regular expressions may never finish, and its library aborts the process when memory is short. Both come
from a file of the model. A forked child costs milliseconds: everything is already loaded.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from quantization_api.failures import Category, QuantizationError
from quantizer.boundary.reading import is_of_input, reason

STEP_SECONDS = 10
"""CPU time for a step that usually takes a tenth of a second."""
PR_SET_PDEATHSIG = 1
DONE, FAILED, OUT_OF_MEMORY = b"+", b"-", b"!"

Step = Callable[[], None]
"""Called by the work at the start of each step."""


def in_a_child(work: Callable[[Step], bytes], room: int, category: Category, what: str, hint: str) -> bytes:
    """What `work` returns, computed in a child process.

    Args:
        room: bytes of memory that the work may use in addition to this process's.
        category, what, hint: of the error when a step does not finish, when the memory is not enough, and for whatever
            the work raises; see boundary.reading.reading.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _work(work, room, write_end)
    os.close(write_end)
    status = None
    try:
        with os.fdopen(read_end, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(child, 0)
    finally:
        if status is None:  # stopped: by SIGTERM, or an interrupt
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return _result(answer, os.waitstatus_to_exitcode(status), room, category, what, hint)


def _result(answer: bytes, code: int, room: int, category: Category, what: str, hint: str) -> bytes:
    kind, rest = answer[:1], answer[1:]
    if code == 0 and kind == DONE:
        return rest
    if code == 0 and kind == FAILED:
        said = json.loads(rest)
        raise QuantizationError(
            Category(said["category"] or category),
            said["message"],
            said["hint"] if said["category"] else hint,
        )
    if code == -signal.SIGXCPU:
        why = f"a step took more than {STEP_SECONDS} s of CPU time"
    elif kind == OUT_OF_MEMORY or code == -signal.SIGABRT:
        why = f"it needs more than {room // 1_000_000:,} MB of memory"
    elif code == -signal.SIGKILL:
        raise QuantizationError(
            Category.HOST_OUT_OF_MEMORY,
            f"{what}: the process reading it was killed, most likely for using too much memory",
        )
    else:
        why = f"the process reading it exited with {code}"
    raise QuantizationError(category, f"{what} cannot be used: {why}", hint)


def _work(work: Callable[[Step], bytes], room: int, write_end: int) -> NoReturn:
    """The child's whole life."""
    code = 1
    try:
        _prepare(room)
        answer = _answer(work)
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(answer)
        code = 0
    finally:
        os._exit(code)


def _answer(work: Callable[[Step], bytes]) -> bytes:
    said: dict[str, str | None]
    try:
        return DONE + work(_next_step)
    except QuantizationError as error:
        said = {"category": error.category, "message": error.message, "hint": error.hint}
    except MemoryError:
        return OUT_OF_MEMORY
    except BaseException as error:  # noqa: BLE001 - the parent raises it
        text = f"it cannot be used: {reason(error)}"
        said = {"category": None if is_of_input(error) else Category.INTERNAL, "message": text, "hint": ""}
    return FAILED + json.dumps(said).encode()


def _prepare(room: int) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = _data_bytes() + room
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    _next_step()


def _next_step() -> None:
    used = int(sum(os.times()[:2]))
    resource.setrlimit(resource.RLIMIT_CPU, (used + STEP_SECONDS, resource.RLIM_INFINITY))


def _data_bytes() -> int:
    """Bytes of writable private memory that this process has mapped, which is what RLIMIT_DATA bounds."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    return pages * resource.getpagesize()
