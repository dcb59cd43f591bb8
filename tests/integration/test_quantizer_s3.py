"""The quantizer as a pod runs it, from and to a real S3 server."""

import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.engine import save_tiny_reader
from tests.support.quantizer_requests import MODEL, TEXT, Ended, Request, end, run, run_here, start
from tests.support.s3 import S3Server

from quantization_api.failures import Category, ExitCode
from quantization_api.manifest import Manifest
from quantization_api.pod import MAX_RESULT_BYTES
from quantizer.cli import parser
from quantizer.cli.signals import Terminated
from quantizer.passes.gptq_layers import GptqLayerPass
from quantizer.passes.interface import FinishedLayer, LayerContext

pytestmark = pytest.mark.integration

WAIT_SECONDS = 120.0
LAYERS = 6  # of the example model, and of the tiny one
EXAMPLE = "s3://models/stories15m"
"""Where the figures of the result count, or a run must last: a run of it takes seconds longer."""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        server.upload("models", "stories15m", MODEL)
        save_tiny_reader(tiny := tmp_path_factory.mktemp("tiny"), num_hidden_layers=LAYERS)
        server.upload("models", "tiny", tiny)
        server.upload("datasets", "tinystories", TEXT)
        server.client().create_bucket(Bucket="artifacts")
        yield server


@pytest.fixture
def request_to(s3: S3Server, request: pytest.FixtureRequest) -> Callable[..., Request]:
    """A request that reads and writes S3; every test has an output of its own."""

    def make(**changes: object) -> Request:
        values: dict[str, object] = {
            "output": f"s3://artifacts/{re.sub('[^a-z0-9]+', '-', request.node.name)}",
            "model": "s3://models/tiny",
            "calibration": "s3://datasets/tinystories/tinystories-calibration.txt",
            "validation": "s3://datasets/tinystories/tinystories-validation.txt",
            "endpoint": s3.endpoint,
        }
        return Request(**{**values, **changes})  # type: ignore[arg-type]

    return make


LOG = ".logs/5d3a.jsonl"
"""Of the run's pod."""


def prefix(request: Request) -> str:
    return request.output.removeprefix("s3://artifacts/")


def failed_with(ended: Ended, category: Category, code: ExitCode, *words: str) -> None:
    assert ended.result.failure is not None, ended.log
    assert (ended.result.failure.category, ended.code) == (category, code), ended.log
    assert ended.result.failure.exit_code == code
    for word in words:
        assert word in ended.result.failure.message + ended.result.failure.hint


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS} s: {what}"
        time.sleep(0.05)


def staged(s3: S3Server, request: Request, key: str) -> bool:
    """Whether an attempt has stored an object of the artifact, which is not published yet."""
    attempts = s3.keys("artifacts", f"{prefix(request)}/.state/attempt-")
    return any(item.endswith(f"/{key}") for item in attempts)


def manifest_of(s3: S3Server, request: Request) -> Manifest:
    body = s3.client().get_object(Bucket="artifacts", Key=f"{prefix(request)}/manifest.json")["Body"]
    return Manifest.model_validate_json(body.read())


def test_a_model_goes_from_s3_to_a_verified_artifact_in_s3(
    s3: S3Server,
    request_to: Callable[..., Request],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    request = request_to(model=EXAMPLE)
    ended = run(request, tmp_path, s3)
    assert ended.code == 0, ended.log
    artifact = ended.result.artifact
    assert artifact is not None
    assert artifact.uri == request.output
    assert artifact.reused_from is None

    manifest = manifest_of(s3, request)
    stored = {item.key for item in manifest.objects}
    assert {f"{prefix(request)}/{key}" for key in stored | {"manifest.json", LOG}} == set(
        s3.keys("artifacts", f"{prefix(request)}/")
    )
    assert {"model/model.safetensors", "model/config.json", "README.md", "report/report.html"} <= stored
    assert ended.result.recipe == manifest.recipe
    assert artifact.size_bytes == manifest.model_bytes()

    figures = {item.name: item.output for item in manifest.metrics}
    ours, plain = figures["kl_divergence"], figures["rtn_kl_divergence"]
    assert ours is not None
    assert plain is not None
    assert 0 < ours < plain
    assert [item.name for item in ended.result.metrics] == ["perplexity", "kl_divergence", "size"]
    assert len((tmp_path / "termination.json").read_bytes()) <= MAX_RESULT_BYTES
    kept = s3.client().get_object(Bucket="artifacts", Key=f"{prefix(request)}/{LOG}")["Body"].read().decode()
    assert "done: " in kept
    for secret in s3.environment().values():
        assert secret not in ended.log + kept

    for key, value in s3.environment().items():
        monkeypatch.setenv(key, value)
    assert parser.main(["verify", request.output, "--endpoint", s3.endpoint]) == 0
    assert artifact.manifest_digest in capsys.readouterr().out
    assert parser.main(["inspect", request.output, "--endpoint", s3.endpoint, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["manifestDigest"] == artifact.manifest_digest

    # an object that changes afterwards is found, by its bytes: the size stays
    key = f"{prefix(request)}/model/model.safetensors"
    body = bytearray(s3.client().get_object(Bucket="artifacts", Key=key)["Body"].read())
    body[-1] ^= 1
    s3.client().put_object(Bucket="artifacts", Key=key, Body=bytes(body))
    assert parser.main(["verify", request.output, "--endpoint", s3.endpoint]) == ExitCode.DATA
    assert "model/model.safetensors has other bytes" in capsys.readouterr().err

    # and it is removed, damaged or not, by its manifest, and nothing else is
    foreign = f"{prefix(request)}/model/notes-of-a-person.txt"
    s3.client().put_object(Bucket="artifacts", Key=foreign, Body=b"mine")
    other = ["delete", request.output, "--endpoint", s3.endpoint, f"--recipe=sha256:{'0' * 64}"]
    assert parser.main(other) == 0
    assert "nothing to delete" in capsys.readouterr().out
    assert len(s3.keys("artifacts", f"{prefix(request)}/")) == len(stored) + 3
    own = ["delete", request.output, "--endpoint", s3.endpoint, f"--recipe={manifest.recipe}"]
    assert parser.main(own) == 0
    assert f"deleted {len(stored) + 1} objects" in capsys.readouterr().out
    assert s3.keys("artifacts", f"{prefix(request)}/") == [foreign]


@pytest.mark.nightly
def test_the_same_recipe_again_is_reused_unless_the_manifest_says_never(
    s3: S3Server, request_to: Callable[..., Request], tmp_path: Path
) -> None:
    request = request_to()
    first = run_here(request, tmp_path / "1", s3)
    assert first.code == 0, first.log
    before = manifest_of(s3, request)

    again = run_here(request_to(uid="another"), tmp_path / "2", s3)
    assert again.code == 0, again.log
    assert again.result.artifact is not None
    assert again.result.artifact.reused_from == request.output
    assert again.result.metrics == first.result.metrics

    never = run_here(request_to(reuse="Never"), tmp_path / "3", s3)
    assert never.code == 0, never.log
    assert never.result.artifact is not None
    assert never.result.artifact.reused_from is None
    after = manifest_of(s3, request)
    model = {item.key: item.sha256 for item in before.objects if item.key.startswith("model/")}
    assert model == {item.key: item.sha256 for item in after.objects if item.key.startswith("model/")}

    # an artifact that lost an object is not reused but made again
    s3.client().delete_object(Bucket="artifacts", Key=f"{prefix(request)}/model/config.json")
    healed = run_here(request, tmp_path / "4", s3)
    assert healed.code == 0, healed.log
    assert healed.result.artifact is not None
    assert healed.result.artifact.reused_from is None
    assert f"{prefix(request)}/model/config.json" in s3.keys("artifacts", prefix(request))

    other = run_here(request_to(pass_options={"bits": 3}), tmp_path / "5", s3)
    failed_with(other, Category.ARTIFACT_CONFLICT, ExitCode.CANNOT_CREATE_OUTPUT, "another recipe")
    assert manifest_of(s3, request).recipe == before.recipe


def test_a_run_that_is_killed_leaves_no_manifest_and_the_next_one_succeeds(
    s3: S3Server, request_to: Callable[..., Request], tmp_path: Path
) -> None:
    request = request_to(model=EXAMPLE, samples=16)
    process = start(request, tmp_path / "1", s3.environment())
    try:
        until(lambda: staged(s3, request, "model/config.json"), "the first objects are stored")
    finally:
        process.kill()
        process.communicate()
    left = s3.keys("artifacts", prefix(request))
    assert f"{prefix(request)}/manifest.json" not in left
    assert f"{prefix(request)}/.state/claim.json" in left
    s3.client().put_object(Bucket="artifacts", Key=f"{prefix(request)}/model/left-over", Body=b"x")

    ended = run_here(request, tmp_path / "2", s3)
    assert ended.code == 0, ended.log
    left = s3.keys("artifacts", prefix(request))
    assert f"{prefix(request)}/manifest.json" in left
    assert not [key for key in left if ".state" in key or "left-over" in key]


@dataclass
class Layers:
    """The layers that runs in this process compute, by prefix. A run ends where it would begin one more than limit."""

    limit: int
    computed: list[str] = field(default_factory=list)


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> Layers:
    watched, compute = Layers(LAYERS), GptqLayerPass.run

    def run_layer(layer_pass: GptqLayerPass, layer: LayerContext) -> FinishedLayer:
        if len(watched.computed) == watched.limit:
            raise Terminated
        watched.computed.append(layer.prefix)
        return compute(layer_pass, layer)

    monkeypatch.setattr(GptqLayerPass, "run", run_layer)
    return watched


def model_of(s3: S3Server, request: Request) -> dict[str, bytes]:
    """The checkpoint of an artifact, file by file."""
    folder = f"{prefix(request)}/model/"
    return {
        key.removeprefix(folder): s3.client().get_object(Bucket="artifacts", Key=key)["Body"].read()
        for key in s3.keys("artifacts", folder)
    }


@pytest.mark.nightly
def test_finished_layers_in_s3_are_taken_over_by_a_run_with_nothing_on_scratch(
    s3: S3Server, request_to: Callable[..., Request], tmp_path: Path, layers: Layers
) -> None:
    request, whole = request_to(metrics=[]), request_to(output="s3://artifacts/undisturbed", metrics=[])
    undisturbed = run_here(whole, tmp_path / "undisturbed", s3)
    assert undisturbed.code == 0, undisturbed.log
    every = [f"model.layers.{index}." for index in range(LAYERS)]
    assert layers.computed == every

    layers.computed, layers.limit = [], 4
    stopped = run_here(request, tmp_path / "1", s3)
    failed_with(stopped, Category.DISRUPTED, ExitCode.TERMINATED)
    left = s3.keys("artifacts", f"{prefix(request)}/")
    assert f"{prefix(request)}/manifest.json" not in left
    assert len([key for key in left if ".state/" in key and key.endswith(".safetensors")]) == 4

    layers.computed, layers.limit = [], LAYERS
    ended = run_here(request, tmp_path / "2", s3)
    assert ended.code == 0, ended.log
    assert layers.computed == every[4:]
    assert "took over 4 layers from an earlier attempt" in ended.log
    assert model_of(s3, request) == model_of(s3, whole)
    assert manifest_of(s3, request).modules == manifest_of(s3, whole).modules
    objects = {item.key for item in manifest_of(s3, request).objects} | {"manifest.json", LOG}
    assert {f"{prefix(request)}/{key}" for key in objects} == set(s3.keys("artifacts", f"{prefix(request)}/"))
    uploads = s3.client().list_multipart_uploads(Bucket="artifacts", Prefix=f"{prefix(request)}/")
    assert not uploads.get("Uploads")


def test_sigterm_ends_a_run_cleanly_with_143(
    s3: S3Server, request_to: Callable[..., Request], tmp_path: Path
) -> None:
    request = request_to(model=EXAMPLE, samples=16)
    process = start(request, tmp_path, s3.environment())
    try:
        until(lambda: staged(s3, request, "model/config.json"), "the first objects are stored")
        process.send_signal(signal.SIGTERM)
        ended = end(process, tmp_path)
    finally:
        process.kill()
    failed_with(ended, Category.DISRUPTED, ExitCode.TERMINATED, "SIGTERM")
    assert f"{prefix(request)}/manifest.json" not in s3.keys("artifacts", prefix(request))
    assert not list(tmp_path.glob("run-*")), "scratch is not removed"


@pytest.mark.nightly
def test_a_goal_that_is_missed_publishes_nothing(
    s3: S3Server, request_to: Callable[..., Request], tmp_path: Path
) -> None:
    goal = {"type": "threshold", "value": 0.0001}
    metric = {"name": "kl", "type": "kl_divergence", "data_config": "held_out", "goal": goal}
    request = request_to(model=EXAMPLE, metrics=[metric])
    ended = run_here(request, tmp_path, s3)
    failed_with(ended, Category.QUALITY_GOAL_MISSED, ExitCode.DATA, "kl", "0.0001")
    left = [key.removeprefix(f"{prefix(request)}/") for key in s3.keys("artifacts", f"{prefix(request)}/")]
    assert all(
        re.fullmatch(r"\.state/(claim|[0-9a-f]{16}/layer-\d{5})\.(json|safetensors)|" + re.escape(LOG), key)
        for key in left
    )
    assert len(left) == 2 + 2 * LAYERS, "the finished layers are not kept for the next attempt"


def test_two_processes_of_one_job_publish_one_artifact(
    s3: S3Server, request_to: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_to(metrics=[])
    processes = [start(request, tmp_path / str(number), s3.environment()) for number in (1, 2)]
    ends = [end(process, tmp_path / str(number)) for number, process in enumerate(processes, start=1)]
    assert 0 in [ended.code for ended in ends], ends
    for ended in ends:
        assert ended.code in (0, ExitCode.CANNOT_CREATE_OUTPUT), ended.log
    for key, value in s3.environment().items():
        monkeypatch.setenv(key, value)
    assert parser.main(["verify", request.output, "--endpoint", s3.endpoint]) == 0
    manifest = manifest_of(s3, request)
    assert manifest.owner == request.uid
    there = {key.removeprefix(f"{prefix(request)}/") for key in s3.keys("artifacts", f"{prefix(request)}/")}
    assert {key for key in there if not key.startswith((".state/", ".logs/"))} == {
        "manifest.json",
        *(item.key for item in manifest.objects),
    }

    # who only uses it takes nothing away with it
    used = run_here(request_to(metrics=[], uid="another"), tmp_path / "3", s3)
    assert used.result.artifact is not None
    assert used.result.artifact.reused_from == request.output
    deleting = ["delete", request.output, "--endpoint", s3.endpoint, f"--recipe={manifest.recipe}"]
    assert parser.main([*deleting, "--uid=another"]) == 0
    assert manifest_of(s3, request) == manifest
    assert parser.main([*deleting, f"--uid={request.uid}"]) == 0
    assert s3.keys("artifacts", f"{prefix(request)}/") == []


def test_somebody_elses_objects_are_never_touched(
    s3: S3Server, request_to: Callable[..., Request], tmp_path: Path
) -> None:
    request = request_to()
    s3.client().put_object(Bucket="artifacts", Key=f"{prefix(request)}/model/precious", Body=b"x")
    ended = run_here(request, tmp_path, s3)
    failed_with(ended, Category.ARTIFACT_CONFLICT, ExitCode.CANNOT_CREATE_OUTPUT, "model/precious")
    assert s3.keys("artifacts", prefix(request)) == [f"{prefix(request)}/model/precious"]


def test_a_wrong_secret_is_access_denied(
    s3: S3Server, request_to: Callable[..., Request], tmp_path: Path
) -> None:
    ended = run_here(request_to(), tmp_path, s3, AWS_SECRET_ACCESS_KEY="wrong")
    failed_with(ended, Category.ACCESS_DENIED, ExitCode.ACCESS_DENIED, "secret")


def test_no_credentials_at_all_are_access_denied(request_to: Callable[..., Request], tmp_path: Path) -> None:
    ended = run_here(request_to(), tmp_path, None, HOME=str(tmp_path))
    failed_with(ended, Category.ACCESS_DENIED, ExitCode.ACCESS_DENIED, "credentials")


@pytest.mark.parametrize("model", ["s3://models/nothing", "s3://no-such-bucket/model"])
def test_an_empty_model_path_is_model_not_found(
    s3: S3Server, request_to: Callable[..., Request], tmp_path: Path, model: str
) -> None:
    ended = run_here(request_to(model=model), tmp_path, s3)
    failed_with(ended, Category.MODEL_NOT_FOUND, ExitCode.NOT_FOUND, model)


def test_a_text_that_is_too_short_is_data_insufficient(
    s3: S3Server, request_to: Callable[..., Request], tmp_path: Path
) -> None:
    s3.client().put_object(Bucket="datasets", Key="short.txt", Body=b"Once upon a time.")
    ended = run_here(request_to(calibration="s3://datasets/short.txt"), tmp_path, s3)
    failed_with(ended, Category.DATA_INSUFFICIENT, ExitCode.DATA, "calibration", "tokens")


def test_a_text_that_is_not_there_is_data_not_found(
    s3: S3Server, request_to: Callable[..., Request], tmp_path: Path
) -> None:
    ended = run_here(request_to(validation="s3://datasets/nothing.txt"), tmp_path, s3)
    failed_with(ended, Category.DATA_NOT_FOUND, ExitCode.NOT_FOUND, "held_out")


def test_a_group_size_that_does_not_fit_stops_before_anything_is_written(
    s3: S3Server, request_to: Callable[..., Request], tmp_path: Path
) -> None:
    request = request_to(model=EXAMPLE, pass_options={"group_size": 128})
    ended = run_here(request, tmp_path, s3)
    failed_with(ended, Category.INVALID_WORKFLOW, ExitCode.INVALID_WORKFLOW, "128", "288")
    assert s3.keys("artifacts", prefix(request)) == []


def test_an_output_bucket_that_is_not_there_is_named(
    s3: S3Server, request_to: Callable[..., Request], tmp_path: Path
) -> None:
    ended = run_here(request_to(output="s3://no-such-bucket/x"), tmp_path, s3)
    failed_with(ended, Category.INVALID_WORKFLOW, ExitCode.INVALID_WORKFLOW, "no bucket no-such-bucket")


@pytest.fixture(params=["nobody listens", "nobody answers"])
def dead_endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "nobody answers":
            listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_dead_endpoint_is_storage_unavailable(
    s3: S3Server, request_to: Callable[..., Request], tmp_path: Path, dead_endpoint: str
) -> None:
    ended = run_here(request_to(endpoint=dead_endpoint, patience=1), tmp_path, s3)
    failed_with(ended, Category.STORAGE_UNAVAILABLE, ExitCode.TRY_AGAIN)


def test_progress_and_metrics_are_served_while_it_runs(
    s3: S3Server, request_to: Callable[..., Request], tmp_path: Path
) -> None:
    import urllib.request

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    extra = {**s3.environment(), "QUANTIZATION_LISTEN": f"127.0.0.1:{port}"}
    process = start(request_to(model=EXAMPLE), tmp_path, extra)
    seen: list[dict[str, object]] = []
    scraped: list[str] = []

    def poll(done: threading.Event) -> None:
        while not done.wait(0.1):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=5) as answer:
                    seen.append(json.load(answer))
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    scraped.append(answer.read().decode())
            except OSError:
                continue  # it does not listen yet, or no more

    done = threading.Event()
    poller = threading.Thread(target=poll, args=(done,))
    poller.start()
    try:
        ended = end(process, tmp_path)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    finally:
        done.set()
        poller.join()
    assert ended.code == 0, ended.log
    percents = [int(str(item["percent"])) for item in seen]
    assert percents == sorted(percents)
    assert {"quantize", "evaluate"} <= {item["stage"] for item in seen}
    assert any(item.get("layers") == 6 and "etaSeconds" in item for item in seen)
    last = scraped[-1]
    for name in ("stage_seconds_total", "tokens_total", "bytes_total", "layers_done", "peak_memory_bytes"):
        assert f"quantizer_{name}" in last
