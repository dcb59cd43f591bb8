"""What a mutation may end with: a named category and its exit code, or a sound result; in time, within memory."""

import contextlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from pydantic import ValidationError
from tests.fuzz import bases, edits
from tests.fuzz.mutations import Mutation
from tests.fuzz.running import BYTES, Ended, in_a_process

from quantization_api.constants import REQUEST_ENV
from quantization_api.failures import CATALOGUE, Category, ExitCode
from quantization_api.pod import MAX_RESULT_BYTES, RunResult
from quantization_api.text import clean
from quantizer.cli import parser

MESSAGE = "termination.json"
LONGEST_LOG = 200_000
LOOKING = ("verify", "inspect")
"""A damaged artifact is data to them; who makes one tries again."""
NEVER = {Category.INTERNAL, Category.HOST_OUT_OF_MEMORY, Category.GPU_OUT_OF_MEMORY, Category.SCRATCH_FULL}
"""Not what is wrong with an input; the process has memory and scratch for every sound one."""
WRITTEN = ("scratch", bases.OUTPUT, bases.ARTIFACT, "manifest.yaml", "log", MESSAGE)
"""What a command may write to."""
VARIABLES = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",  # nobody listens: a mutated URI reaches no other machine
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_EC2_METADATA_DISABLED": "true",
    "QUANTIZATION_LISTEN": "127.0.0.1:0",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class Verdict:
    """outcome: category, "done", or what went wrong. fault: why it is a failure of the quantizer; "" for none."""

    outcome: str
    fault: str
    ended: Ended


def run(root: Path, folder: Path, mutation: Mutation) -> Verdict:
    """Applies a mutation to a fresh case in `folder` and runs what reads it.

    root: of bases.make.
    """
    bases.case(root, folder, mutation.model)
    if mutation.text != "text.txt":
        (folder / bases.JOB).write_text(json.dumps(bases.job(folder, mutation.text)))
    edits.apply(folder, list(mutation.edits))
    (folder / "scratch").mkdir()
    before = _outside(folder)
    verdicts = [_judged(folder, arguments, mutation) for arguments in _commands(folder, mutation)]
    worst = next((verdict for verdict in verdicts if verdict.fault), verdicts[-1])
    if not worst.fault and (fault := _trespass(folder, before)):
        return Verdict(fault, fault, worst.ended)
    return worst


def _commands(folder: Path, mutation: Mutation) -> list[list[str]]:
    scratch = ["--scratch", str(folder / "scratch"), "--device", "cpu"]
    of_job = ["run", "-f", str(folder / bases.JOB), *scratch]
    if mutation.kind == "artifact":
        artifact = str(folder / bases.ARTIFACT)
        return [["verify", artifact, *scratch], ["inspect", artifact], ["delete", artifact]]
    if mutation.kind == "olive":
        to = ["--output-uri", "s3://models/out", "-o", str(folder / "manifest.yaml")]
        return [["import", str(folder / "olive.json"), *to]]
    if mutation.kind == "request":
        return [["run", *scratch]]
    return [of_job, ["inspect", str(folder / "model")]] if mutation.kind == "header" else [of_job]


def _judged(folder: Path, arguments: list[str], mutation: Mutation) -> Verdict:
    log, message = folder / "log", folder / MESSAGE
    log.unlink(missing_ok=True)
    variables = {**VARIABLES, "QUANTIZATION_TERMINATION_LOG": str(message)}
    if mutation.kind == "request":
        text = (folder / "request.json").read_bytes().replace(b"\0", b"")[:100_000]
        variables[REQUEST_ENV] = os.fsdecode(text)

    def action() -> int:
        with mock.patch.dict(os.environ, variables):
            return parser.main(arguments)

    ended = in_a_process(action, log)
    if ended.timed_out:
        return Verdict("hang", f"still running after {ended.seconds:.0f} s", ended)
    if ended.bytes > BYTES:
        return Verdict("memory", f"{ended.bytes / 1e9:.1f} GB", ended)
    if ended.code < 0:
        return Verdict("signal", f"ended by signal {-ended.code}", ended)
    if "Traceback (most recent call last)" in ended.log:
        return Verdict("traceback", _last_error(ended.log), ended)
    if len(ended.log) > LONGEST_LOG:
        return Verdict("log", f"a log of {len(ended.log)} characters", ended)
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", ended.log):
        return Verdict("log", "control characters in the log", ended)
    return _by_category(arguments[0], ended, message)


def _by_category(command: str, ended: Ended, message: Path) -> Verdict:
    if command == "run":
        try:
            data = message.read_bytes()
            result = RunResult.model_validate_json(data)
        except (OSError, ValidationError) as error:
            return Verdict("message", f"no termination message: {str(error)[:200]}", ended)
        if len(data) > MAX_RESULT_BYTES:
            return Verdict("message", f"a termination message of {len(data)} bytes", ended)
        failure = result.failure
        if failure is not None:
            if failure.message != clean(failure.message):
                return Verdict("message", "a termination message with more than one line or controls", ended)
            return _of(command, failure.category, ended)
    elif ended.code != ExitCode.DONE:
        named = re.search(r"^(\w+): ", ended.log, re.MULTILINE)
        if named is None or named[1] not in set(Category):
            return Verdict("message", "no category on standard error", ended)
        return _of(command, Category(named[1]), ended)
    return Verdict("done" if ended.code == 0 else "code", "" if ended.code == 0 else "exit code", ended)


def _of(command: str, category: Category, ended: Ended) -> Verdict:
    if category in NEVER:
        return Verdict(category, f"told as {category}", ended)
    looked = command in LOOKING and category is Category.ARTIFACT_CORRUPT
    if ended.code != (ExitCode.DATA if looked else CATALOGUE[category].exit_code):
        return Verdict(category, f"exit code {ended.code} of {category}", ended)
    return Verdict(category, "", ended)


def _last_error(log: str) -> str:
    """The line of the last traceback that says what was raised, and where."""
    lines = log.splitlines()
    places = [line.strip() for line in lines if line.startswith("  File")]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit|Interrupt|Failed)?\b.*", line)]
    named = [line for line in raised if "Error" in line or "Exception" in line] or raised
    return f"{named[-1][:200] if named else ''} at {places[-1] if places else ''}"


def _outside(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file that no command may write to."""
    asked = _asked(folder)
    return {
        path.relative_to(folder).as_posix(): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.relative_to(folder).parts[0] not in WRITTEN
        and not path.is_dir()
        and not any(place in path.parents for place in asked)
    }


def _asked(folder: Path) -> list[Path]:
    """Places within the folder that a spoiled job names as its output."""
    found = []
    for name in (bases.JOB, "request.json"):
        with contextlib.suppress(OSError):
            text = (folder / name).read_bytes().decode(errors="replace")
            found += re.findall(r"""uri["']?: *["']?file://([^\s"',}]+)""", text)
    return [place for place in map(Path, found) if folder in place.parents]


def _trespass(folder: Path, before: dict[str, tuple[int, int]]) -> str:
    """What was read or written outside of where a command may; "" for nothing."""
    if _outside(folder) != before:
        return "wrote outside of its folders"
    if left := [path.name for path in (folder / "scratch").iterdir()]:
        return f"left {left[0]} in scratch"
    for place in (bases.OUTPUT, "log", MESSAGE):
        found = [folder / place] if (folder / place).is_file() else (folder / place).rglob("*")
        if any(
            bases.SECRET_WORDS.encode() in path.read_bytes()
            for path in found
            if path.is_file() and not path.is_symlink()
        ):
            return f"the words of a file outside are in {place}"
    return ""
