"""A name in an option of the command line that nothing in the file has: refused with the nearest."""

from typing import Any

import pytest

from quantization_api.failures import QuantizationError
from quantizer.cli.olive.run_config import import_config

pytestmark = pytest.mark.unit

CONFIG: dict[str, Any] = {
    "input_model": {"type": "HfModel", "model_path": "s3://models/llama"},
    "data_configs": [{"name": "train", "load_dataset_config": {"data_name": "s3://datasets/train.txt"}}],
    "passes": {"quantize": {"type": "GptqQuantizer", "data_config": "train"}},
    "systems": {"local": {}},
}
SYSTEMS = {"drop": ["systems"]}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {**SYSTEMS, "data_names": {"tran": "s3://datasets/other.txt"}},
            "--data tran: there is no data config of this name; did you mean train?",
        ),
        ({"drop": ["sistems"]}, "--drop sistems: there is no field of this name; did you mean systems?"),
        (
            {"drop": ["systems", "data_nam"]},
            "--drop data_nam: there is no field of this name; did you mean data_name?",
        ),
    ],
)
def test_a_name_that_the_file_lacks_is_refused_with_the_nearest(
    options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(QuantizationError) as caught:
        import_config(CONFIG, name="job", output_uri="s3://artifacts/job", **options)
    assert sentence in caught.value.message


@pytest.mark.parametrize("drop", [["systems"], ["systems", "local"]])
def test_names_that_the_file_has_are_taken(drop: list[str]) -> None:
    import_config(
        CONFIG,
        name="job",
        output_uri="s3://artifacts/job",
        data_names={"train": "s3://datasets/other.txt"},
        drop=drop,
    )
