"""A bit that flips between a real S3 server and the quantizer: read again, or an attempt that leaves nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.choice import mostly_nightly
from tests.support.engine import save_tiny_reader
from tests.support.quantizer_requests import TEXT, Ended, Request, run_here
from tests.support.s3 import S3Server
from tests.support.s3_proxy import S3Proxy

from quantization_api.failures import Category
from quantization_api.manifest import Manifest

pytestmark = pytest.mark.integration

WEIGHTS = "/tiny/model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_reader(folder, num_hidden_layers=6)
    return folder


@pytest.fixture(scope="module")
def s3(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        client = server.client()
        client.create_bucket(Bucket="models")
        for path in model.iterdir():  # in one piece, with a checksum of the whole, as boto3 has it by default
            with path.open("rb") as body:
                client.put_object(
                    Bucket="models", Key=f"CRC32/tiny/{path.name}", Body=body, ChecksumAlgorithm="CRC32"
                )
        server.upload("datasets", "tinystories", TEXT)
        client.create_bucket(Bucket="artifacts")
        yield server


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[S3Proxy]:
    with S3Proxy(s3.endpoint) as made:
        yield made


def request(proxy: S3Proxy, output: str) -> Request:
    return Request(
        output=f"s3://artifacts/{output}",
        model="s3://models/CRC32/tiny",
        calibration="s3://datasets/tinystories/tinystories-calibration.txt",
        validation="s3://datasets/tinystories/tinystories-validation.txt",
        endpoint=proxy.endpoint,
        patience=20,
        metrics=[],
    )


def weights_of(s3: S3Server, output: str) -> dict[str, str]:
    body = s3.client().get_object(Bucket="artifacts", Key=f"{output}/manifest.json")["Body"].read()
    manifest = Manifest.model_validate_json(body)
    return {item.key: item.sha256 for item in manifest.objects if item.key.startswith("model/")}


def ended_well(ended: Ended) -> None:
    assert ended.code == 0, ended.log


def test_a_flip_in_a_range_of_the_weights_costs_an_attempt_and_never_a_wrong_artifact(
    s3: S3Server, proxy: S3Proxy, tmp_path: Path
) -> None:
    ended_well(run_here(request(proxy, "true"), tmp_path / "true", s3))
    gets = [asked for asked in proxy.requests if asked.startswith("GET") and WEIGHTS in asked]
    seen = 0

    def of_a_layer(
        method: str, path: str
    ) -> bool:  # in the middle, which is read once and not as the last one
        nonlocal seen
        seen += method == "GET" and WEIGHTS in path
        return method == "GET" and WEIGHTS in path and seen > len(gets) // 2

    fault = proxy.add("flip answer", of_a_layer)
    flipped = run_here(request(proxy, "flipped"), tmp_path / "1", s3)
    assert len(fault.done) == 1
    assert flipped.result.failure is not None, flipped.log
    assert flipped.result.failure.category is Category.STORAGE_UNAVAILABLE
    assert "does not match its checksum or an earlier read" in flipped.result.failure.message
    left = s3.keys("artifacts", "flipped/")
    assert not [key for key in left if "layer-" in key or key.endswith("manifest.json")], left
    ended_well(run_here(request(proxy, "flipped"), tmp_path / "2", s3))
    assert weights_of(s3, "flipped") == weights_of(s3, "true")


@pytest.mark.parametrize("name", mostly_nightly(["config.json", "tokenizer.json"], ["config.json"]))
def test_a_flip_in_a_small_file_is_read_again(
    s3: S3Server, proxy: S3Proxy, tmp_path: Path, name: str
) -> None:
    fault = proxy.add(
        "flip answer", lambda method, path: method == "GET" and path.split("?")[0].endswith(name)
    )
    ended = run_here(request(proxy, f"small-{name}"), tmp_path, s3)
    assert len(fault.done) == 1
    ended_well(ended)
    assert "do not match their checksum" in ended.log


def test_a_model_that_is_replaced_in_mid_run_is_no_unsupported_model(
    s3: S3Server, proxy: S3Proxy, model: Path, tmp_path: Path
) -> None:
    for path in model.iterdir():
        s3.client().upload_file(str(path), "models", f"CRC32/replaced/tiny/{path.name}")
    asked = request(proxy, "replaced")
    asked.model = "s3://models/CRC32/replaced/tiny"
    key = "CRC32/replaced/tiny/model.safetensors"
    replaced: list[bool] = []

    def replace(method: str, path: str) -> bool:
        if method == "GET" and key in path and len(proxy.requests) > 40 and not replaced:
            replaced.append(True)
            body = bytearray((model / "model.safetensors").read_bytes())
            body[-1] ^= 1
            s3.client().put_object(Bucket="models", Key=key, Body=bytes(body))
        return False

    proxy.add("cut", replace)
    ended = run_here(asked, tmp_path, s3)
    assert replaced
    assert ended.result.failure is not None, ended.log
    assert ended.result.failure.category is Category.STORAGE_UNAVAILABLE
    assert "was replaced while it was being read" in ended.result.failure.message
    assert "the next attempt" in ended.result.failure.hint


def test_an_artifact_s_object_that_is_gone_is_no_missing_model(
    s3: S3Server, proxy: S3Proxy, tmp_path: Path
) -> None:
    def remove(method: str, path: str) -> bool:
        if method == "GET" and "/gone/" in path and path.endswith("model/model.safetensors"):
            s3.client().delete_object(Bucket="artifacts", Key=path.removeprefix("/artifacts/"))
        return False

    proxy.add("cut", remove)
    asked = request(proxy, "gone")
    asked.metrics = None
    ended = run_here(asked, tmp_path, s3)
    assert ended.result.failure is not None, ended.log
    assert ended.result.failure.category is Category.ARTIFACT_CORRUPT
    assert "was deleted during the run" in ended.result.failure.message
