"""What a model hub reads of the card: what is known, in the hubs' words, and nothing that is not."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.engine import save_tiny_reader
from tests.support.quantizer_requests import Request, run_here
from tests.unit.quantizer.report.test_report import a_manifest

from quantization_api.manifest import MODEL_CARD_NAME, Licence, Manifest
from quantizer.report.front_matter import stated_licence
from quantizer.report.model_card import model_card

pytestmark = pytest.mark.unit

CARD = "---\nlicense: {}\nlanguage: en\n---\n# A model\n"


def front(manifest: Manifest) -> dict[str, Any]:
    """The front matter of the manifest's card."""
    found = yaml.safe_load(model_card(manifest, "file:///a").split("---\n")[1])
    assert isinstance(found, dict)
    return found


def of(path: str, licence: Licence | None = None) -> Manifest:
    """The manifest of a model that lies there."""
    manifest = a_manifest()
    changes = {"model_path": path, "licence": licence}
    return manifest.model_copy(update={"input": manifest.input.model_copy(update=changes)})


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("s3://models/stories15m", "s3://models/stories15m"),
        ("file:///cache/hub/models--owner--a-model/snapshots/abc", "owner/a-model"),
        ("s3://bucket/models--owner--a-model", "owner/a-model"),
        ("s3://bucket/models--owner", "s3://bucket/models--owner"),
    ],
)
def test_the_base_is_named_as_the_hub_does_where_that_is_known(path: str, base: str) -> None:
    found = front(of(path))
    assert found["base_model"] == base
    assert found["base_model_relation"] == "quantized"
    assert found["datasets"] == ["s3://datasets/train.txt"], (
        "what it was calibrated with, not what it was judged on"
    )
    shown = model_card(of(path), "file:///a")
    assert f"\n# {path.rpartition('/')[2] if '://' in base else 'a-model'}, GPTQ 4 bits\n" in shown
    assert "# a hub takes ids of its own only" in shown


def test_a_licence_is_never_invented() -> None:
    assert not [name for name in front(of("s3://m/x")) if name.startswith("license")]


@pytest.mark.parametrize(
    ("card", "found"),
    [
        (CARD.format("apache-2.0"), Licence(names=["apache-2.0"])),
        (CARD.format("[mit, apache-2.0]"), Licence(names=["mit", "apache-2.0"])),
        (CARD.format("apache-2.0").replace("\n", "\r\n"), Licence(names=["apache-2.0"])),
        ("\ufeff" + CARD.format("mit"), Licence(names=["mit"])),
        (
            CARD.format("other\nlicense_name: own\nlicense_link: LICENSE"),
            Licence(names=["other"], custom_name="own", link="model/LICENSE"),
        ),
        (CARD.format("other\nlicense_link: lost.txt"), Licence(names=["other"])),
        (
            CARD.format("other\nlicense_link: https://example.org/l"),
            Licence(names=["other"], link="https://example.org/l"),
        ),
        (CARD.format("mit # \x1b[31mred").replace("# ", ""), None),
        (CARD.format("'mit\\x1b[31m'").replace("'", '"'), None),
        (CARD.format("{a: b}"), None),
        (CARD.format("5"), None),
        (CARD.format("''"), None),
        (CARD.format("[") + 1000 * "[", None),
        ("---\n" + 2000 * "[" + "\n---\n", None),
        ("---\n- license\n---\n", None),
        ("license: mit\n", None),
        ("# A model\n---\nlicense: mit\n---\n", None),
        ("---\nlicense: mit\n", None),
        ("", None),
        ("\x00\x00---\n", None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_licence_is_what_the_inputs_own_card_says(card: str, found: Licence | None) -> None:
    assert stated_licence(card.encode(), ["LICENSE"]) == found


def test_bytes_that_are_no_text_say_nothing() -> None:
    assert stated_licence(b"---\nlicense: \xff\xfe\n---\n") != Licence(names=["mit"])
    assert stated_licence(b"\xff\xfe\x00") is None


@pytest.mark.parametrize(
    ("licence", "fields"),
    [
        (Licence(names=["mit"]), {"license": "mit"}),
        (Licence(names=["mit", "apache-2.0"]), {"license": ["mit", "apache-2.0"]}),
        (
            Licence(names=["other"], custom_name="own", link="model/LICENSE"),
            {"license": "other", "license_name": "own", "license_link": "model/LICENSE"},
        ),
    ],
)
def test_a_licence_is_told_in_the_words_of_hubs(licence: Licence, fields: dict[str, Any]) -> None:
    found = front(of("s3://m/x", licence))
    assert {name: found[name] for name in found if name.startswith("license")} == fields


def test_the_licence_of_the_input_is_that_of_what_a_run_makes(tmp_path: Path) -> None:
    save_tiny_reader(tmp_path / "model")
    said = "license: other\nlicense_name: own\nlicense_link: LICENSE.txt"
    (tmp_path / "model" / MODEL_CARD_NAME).write_text(f"---\n{said}\n---\n# Tiny\n")
    (tmp_path / "model" / "LICENSE.txt").write_text("You may.\n")
    request = Request(f"file://{tmp_path}/out", f"file://{tmp_path}/model", metrics=[])
    ended = run_here(request, tmp_path / "scratch")
    assert ended.code == 0, ended.log
    text = (tmp_path / "out" / MODEL_CARD_NAME).read_text()
    found = yaml.safe_load(text.split("---\n")[1])
    assert found["license"] == "other"
    assert found["license_name"] == "own"
    assert (tmp_path / "out" / found["license_link"]).read_text() == "You may.\n"
    assert found["base_model"] == f"file://{tmp_path}/model"
    assert found["datasets"] == [request.calibration]
