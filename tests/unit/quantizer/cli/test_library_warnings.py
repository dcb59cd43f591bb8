"""What a library warns of says nothing to the user of a job; what it cannot do, and our own warnings, are said."""

import logging
import os
import subprocess
import sys

import pytest

from quantizer.cli import logs

pytestmark = pytest.mark.unit

LIBRARIES = ("py.warnings", "botocore.auth", "matplotlib.font_manager", "somebodys.library")
"""py.warnings: where `logging.captureWarnings` puts what `warnings.warn` is given."""
TRANSFORMERS = """
from quantizer.cli import logs
logs.set_up(as_json=False)
from transformers.utils import logging
logging.get_logger("transformers.modeling_utils").warning("generation flags are not valid")
logging.get_logger("transformers.modeling_utils").error("cannot go on")
"""


@pytest.fixture(params=[False, True], ids=["for people", "in a pod"])
def lines(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    logs.set_up(as_json=request.param)
    return capsys


def test_a_warning_of_a_library_is_not_shown(lines: pytest.CaptureFixture[str]) -> None:
    for name in LIBRARIES:
        logging.getLogger(name).warning("generation flags are not valid")
    assert lines.readouterr().err == ""


@pytest.mark.parametrize("name", LIBRARIES)
def test_an_error_of_a_library_is_shown(lines: pytest.CaptureFixture[str], name: str) -> None:
    logging.getLogger(name).error("cannot go on")
    assert "cannot go on" in lines.readouterr().err


def test_our_own_warnings_are_shown(lines: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("quantizer.store.source").warning("read again")
    assert "read again" in lines.readouterr().err


def test_transformers_writes_by_itself_and_warns_nobody_either() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRANSFORMERS_VERBOSITY"}
    command = [sys.executable, "-c", TRANSFORMERS]
    ended = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=True)
    assert "cannot go on" in ended.stderr
    assert "generation flags" not in ended.stderr
