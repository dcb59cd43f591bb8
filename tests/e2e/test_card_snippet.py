"""The code of the model card, run as it is printed, on a processor, with nothing installed but what the card names."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.support.choice import mostly_nightly
from tests.support.quantizer_requests import Request, run_here
from tests.support.reference import SCRIPTS, interpreter_from

from quantization_api.manifest import MODEL_CARD_NAME

pytestmark = pytest.mark.e2e

SECONDS = 600
GPTQ = {"type": "GptqQuantizer", "data_config": "calibration", "group_size": 32}
AWQ = {"type": "AutoAWQQuantizer", "data_config": "calibration", "q_group_size": 32}
CASES: dict[str, dict[str, Any]] = {
    "gptq": GPTQ,
    "gptq, symmetric": {**GPTQ, "sym": True},
    "gptq_v2": {**GPTQ, "checkpoint_format": "gptq_v2"},
    "compressed-tensors": {**GPTQ, "checkpoint_format": "compressed-tensors", "sym": True},
    "compressed-tensors, zero points": {**GPTQ, "checkpoint_format": "compressed-tensors"},
    "awq": AWQ,
    "float, by AWQ": {**AWQ, "export_compatible": True},
    "float, rotated": {"type": "QuaRot", "rotate": True},
    "quarot, in the format of GPTQ": {
        "type": "QuaRot",
        "rotate": True,
        "w_rtn": True,
        "w_bits": 4,
        "w_groupsize": 32,
    },
    "quarot": {
        "type": "QuaRot",
        "rotate": True,
        "w_rtn": True,
        "w_bits": 4,
        "a_bits": 8,
        "k_bits": 4,
        "v_bits": 4,
    },
}
EVERY_TIME = ("compressed-tensors, zero points", "quarot")


def block(card: str, language: str) -> str:
    """The last block of code in a language; the recipe's is the only other one."""
    return card.rpartition(f"```{language}\n")[2].partition("```")[0]


def installed(python: str, command: str, folder: Path) -> Path:
    """A folder with what `pip install` of the card would bring, out of the readers' environment."""
    words = shlex.split(command)
    assert words[:2] == ["pip", "install"], command
    listed = subprocess.run(
        [python, str(SCRIPTS / "needed_packages.py"), *words[2:]], check=True, capture_output=True, text=True
    )
    folder.mkdir()
    for entry in listed.stdout.splitlines():
        (folder / Path(entry).name).symlink_to(entry)
    return folder


@pytest.mark.parametrize("case", mostly_nightly(CASES, EVERY_TIME))
def test_the_code_of_the_card_runs_as_printed(case: str, tmp_path: Path) -> None:
    python = interpreter_from("QUANTIZATION_READER_PYTHON")
    request = Request(f"file://{tmp_path}/out", layer_pass=CASES[case], metrics=[])
    ended = run_here(request, tmp_path / "scratch")
    assert ended.code == 0, ended.log
    card = (tmp_path / "out" / MODEL_CARD_NAME).read_text()
    fetch, install = block(card, "sh").strip().splitlines()
    here = tmp_path / "here"
    here.mkdir()
    subprocess.run(["bash", "-ec", fetch], cwd=here, check=True)
    (here / "snippet.py").write_text(block(card, "python"))
    said = subprocess.run(
        [python, "-S", "snippet.py"],  # without the readers' other packages
        cwd=here,
        env={
            **os.environ,
            "PYTHONPATH": str(installed(python, install, tmp_path / "installed")),
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert said.returncode == 0, said.stderr[-3000:]
    text = said.stdout[said.stdout.index("Once upon a time") :]
    print(text)
    assert len(text.split()) > 20
