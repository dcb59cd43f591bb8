"""Who reads which format, and what is told about those who do not."""

import sys
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.test_reader_architectures import TRIED, WAYS
from tests.e2e.test_reader_beside_text import TRIED as TRIED_BESIDE
from tests.support.engine import awq_pass, gptq_pass, quarot_pass

from quantization_api.manifest import LinearReport
from quantization_api.passes import GptqQuantizer
from quantizer.decoder.families import ARCHITECTURES, LLAMA
from quantizer.evaluation.serving.software import PACKAGES
from quantizer.passes.awq import WORDS as AWQ_WORDS
from quantizer.passes.making import weight_pass
from quantizer.passes.written import Written
from quantizer.report import readers as table
from quantizer.report.readers import (
    ARCHITECTURES_TEST,
    BUILDER,
    COMPRESSED,
    MORE_THAN_TEXT,
    NAMED_TYPES,
    OPTIMUM,
    OTHER_LAYOUT,
    TABLE,
    Expected,
    Row,
    Tried,
    claims,
    not_read_by,
    readers,
    refusal,
    written_by,
)

pytestmark = pytest.mark.unit

SERVERS = {"vLLM", "SGLang"}
ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize(
    ("written", "servers", "others"),
    [
        (Written("gptq", 4, 128, True), SERVERS, {"gptqmodel", "onnxruntime-genai model builder"}),
        (Written("gptq", 4, 128, False), set(), {"transformers (with optimum and gptqmodel)"}),
        (Written("gptq", 3, 128, True), set(), {"transformers (with optimum and gptqmodel)"}),
        (Written("gptq", 4, 48, True), set(), set()),
        (Written("gptq_v2", 4, 128, True), set(), {"gptqmodel"}),
        (Written("compressed-tensors", 4, 128, False), SERVERS, set()),
        (Written("compressed-tensors", 3, 64, True), {"vLLM"}, {"transformers (with compressed-tensors)"}),
        (
            Written("compressed-tensors", 3, 64, False),
            set(),
            {"transformers (with compressed-tensors and dequantize=True)"},
        ),
        (Written("awq gemm", 4, 128, False), SERVERS, {"transformers (with gptqmodel)"}),
        (Written("awq gemm", 4, 16, False), set(), {"transformers (with gptqmodel)"}),
        (Written("awq gemv_fast", 4, 128, False), set(), {"AutoAWQ 0.2.9 (on a GPU)"}),
        (Written("awq marlin", 4, 128, True), set(), {"AutoAWQ 0.2.9 (on a GPU)"}),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),  # a set has no order
)
def test_readers_are_those_that_take_it(written: Written, servers: set[str], others: set[str]) -> None:
    found = set(readers(written))
    assert found & SERVERS == servers
    assert others <= found


@pytest.mark.parametrize("layout", ["gptq", "gptq_v2", "awq gemm", "compressed-tensors"])
def test_transformers_alone_takes_no_linears_that_are_conv1d(layout: str) -> None:
    found = readers(Written(layout, 4, 32, True, model_type="gpt2"))
    assert not [name for name in found if name.startswith("transformers")]
    assert not SERVERS & set(found)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_experts_are_read_by_servers_and_unpacked_by_transformers(model_type: str) -> None:
    sparse = {"model_type": model_type}
    assert readers(Written("gptq", 4, 128, True, **sparse)) == ["vLLM", "SGLang"]
    assert readers(Written("gptq", 4, 128, False, **sparse)) == []
    assert readers(Written("compressed-tensors", 4, 128, True, **sparse)) == [
        "transformers (with compressed-tensors)", "vLLM", "SGLang",
    ]  # fmt: skip
    assert readers(Written("compressed-tensors", 4, 128, False, **sparse)) == []


def test_an_architecture_that_no_reader_was_tried_with_is_read_by_none() -> None:
    written = Written("gptq", 4, 128, True, model_type="falcon")
    assert readers(written) == []
    assert refusal(written) == "vLLM and SGLang are not known to read falcon models in this format"


def test_an_architecture_that_is_added_is_read_by_none_until_a_row_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "newcomer", replace(LLAMA, model_type="newcomer"))
    found = util.find_spec(table.__name__)
    assert found is not None
    assert found.loader is not None
    again = util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, table.__name__, again)
    found.loader.exec_module(again)
    assert [row.types for row in again.TABLE] == [row.types for row in TABLE]
    assert not [row.reader for row in again.TABLE if "newcomer" in row.types]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.reader}, {row.layout}")
def test_every_claim_names_known_architectures_and_what_it_rests_on(row: Row) -> None:
    assert row.types
    assert row.types <= ARCHITECTURES.keys() | NAMED_TYPES | MORE_THAN_TEXT
    if isinstance(row.rests_on, Tried):
        assert [name for name in row.rests_on.tests if not (ROOT / name).is_file()] == []
    else:
        assert row.rests_on.files
        assert any(letter.isdigit() for letter in row.rests_on.release)


def test_a_claim_that_rests_on_the_test_of_architectures_names_those_that_the_test_tries() -> None:
    tried: dict[str, set[str]] = {}
    for model_type, way in TRIED:
        tried.setdefault(WAYS[way].reader, set()).add(model_type)
    rows = [
        row for row in TABLE if isinstance(row.rests_on, Tried) and ARCHITECTURES_TEST in row.rests_on.tests
    ]
    assert {row.reader for row in rows} == tried.keys()
    for row in rows:
        assert row.types <= tried[row.reader], row.reader


def test_types_that_take_more_than_text_are_those_that_were_tried() -> None:
    assert {model_type for model_type, _ in TRIED_BESIDE} == MORE_THAN_TEXT
    for layout in ("gptq", "compressed-tensors", "awq gemm"):
        found = readers(Written(layout, 4, 128, True, model_type="gemma3"))
        assert len(found) == 1
        assert found[0].startswith("transformers"), layout


def test_what_nobody_ran_here_is_expected_not_tried() -> None:
    found = claims(Written("gptq", 4, 128, True))
    assert str(found["gptqmodel"]) == "tried"
    assert {name for name, rests_on in found.items() if isinstance(rests_on, Expected)} == SERVERS


def test_another_layout_is_only_named_where_the_server_reads_the_architecture_in_it() -> None:
    assert "checkpoint_format: gptq" in str(refusal(Written("gptq_v2", 4, 128, True)))
    assert "checkpoint_format" not in str(refusal(Written("gptq_v2", 4, 128, True, model_type="gpt2")))
    said = refusal(Written("gptq", 4, 128, False, model_type="bloom"))
    assert said is not None
    assert "vLLM refuses this artifact; it needs sym: true" in said
    assert "SGLang is not known to read bloom models in this format" in said


def test_the_model_builder_is_not_listed_for_a_sliding_window() -> None:
    assert BUILDER in readers(Written("gptq", 4, 128, True, model_type="mistral"))
    assert BUILDER not in readers(Written("gptq", 4, 128, True, model_type="mistral", windowed=True))


def test_readers_that_want_every_linear_are_not_listed_where_some_stay_as_they_are() -> None:
    some = gptq_pass(sym=True, inside_layer_modules=[["self_attn.q_proj"]])
    written = written_by(weight_pass(some), "llama")
    assert readers(written) == [OPTIMUM]
    assert refusal(written) == "vLLM and SGLang refuse this artifact; they need no inside_layer_modules"
    whole = gptq_pass(
        sym=True, inside_layer_modules=[["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]]
    )
    assert readers(written_by(weight_pass(whole), "llama")) == [OPTIMUM, "vLLM"]
    left_out = written_by(weight_pass(awq_pass(modules_to_not_convert=["down_proj"])), "llama")
    assert {"gptqmodel", BUILDER} <= set(readers(written_by(weight_pass(awq_pass()), "llama"))) - set(
        readers(left_out)
    )


@pytest.mark.parametrize(
    ("parts", "read"),
    [
        (["mlp"], True),
        (["layers.3."], True),
        (["q_proj"], False),
        (["layers.3.mlp.up_proj"], False),
        (["down_proj"], True),
    ],
)
def test_servers_that_fuse_linears_want_all_of_them_or_none(parts: list[str], read: bool) -> None:
    written = written_by(weight_pass(awq_pass(modules_to_not_convert=parts)), "llama")
    assert (set(readers(written)) >= SERVERS) is read
    if not read:
        assert "modules_to_not_convert with all or none of q, k and v" in str(refusal(written))


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize(
    ("inside", "read"),
    [
        ([["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["self_attn.o_proj"]], True),
        ([["mlp.down_proj"]], True),
        ([["self_attn.q_proj"], ["self_attn.o_proj"]], False),
        ([["mlp.up_proj"]], False),
    ],
)
def test_so_they_do_in_compressed_tensors(inside: list[list[str]], read: bool, sym: bool) -> None:
    parameters = gptq_pass(sym=sym, checkpoint_format="compressed-tensors", inside_layer_modules=inside)
    written = written_by(weight_pass(parameters), "llama")
    assert (set(readers(written)) >= SERVERS) is read
    needed = "they need inside_layer_modules with all or none of q, k and v, and of gate and up"
    assert read or needed in str(refusal(written))


@pytest.mark.parametrize(
    ("options", "read"),
    [({}, False), ({"static_groups": True}, True), ({"group_size": -1}, True)],
)
def test_groups_whose_columns_lie_apart_are_not_read_by_vllm(options: dict[str, Any], read: bool) -> None:
    written = written_by(weight_pass(gptq_pass(sym=True, desc_act=True, **options)), "llama")
    assert ("vLLM" in readers(written)) is read
    if not read:
        assert "desc_act: false, or static_groups: true beside it" in str(refusal(written))


def test_what_servers_need_is_told_in_the_words_of_the_pass() -> None:
    parameters = quarot_pass(w_bits=3, w_groupsize=16, w_asym=True)
    needed = "they need w_asym: false, w_bits: 4 or 8, w_groupsize: -1, 32, 64 or 128"
    assert (
        refusal(written_by(weight_pass(parameters), "llama"))
        == f"vLLM and SGLang refuse this artifact; {needed}"
    )
    told = refusal(written_by(weight_pass(awq_pass(q_group_size=16, zero_point=False)), "llama"))
    assert told is not None
    assert "they need zero_point: true, q_group_size: -1, 32, 64 or 128" in told


def test_no_one_is_said_to_read_group_sizes_that_gptqmodel_refuses() -> None:
    assert not [name for name in readers(Written("gptq", 4, 48, False)) if "gptqmodel" in name]


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (Written("gptq", 4, 128, True), None),
        (Written("gptq", 3, 48, True), "they need bits: 4 or 8, group_size: -1, 32, 64 or 128"),
        (Written("gptq", 4, 128, False), "sym: false goes with checkpoint_format: compressed-tensors"),
        (Written("gptq_v2", 4, 128, True), "they need checkpoint_format: gptq or compressed-tensors"),
        (Written("compressed-tensors", 3, 64, True), "SGLang refuses this artifact; it needs bits: 4 or 8"),
        (
            Written("awq gemm", 4, 128, True, words=AWQ_WORDS),
            "vLLM and SGLang refuse this artifact; they need zero_point: true",
        ),
        (Written("awq gemm", 4, 16, False, words=AWQ_WORDS), "they need q_group_size: -1, 32, 64 or 128"),
        (Written("awq marlin", 4, 128, True), "they need version: gemm"),
    ],
    ids=str,
)
def test_what_servers_refuse_is_told_with_what_to_write(written: Written, sentence: str | None) -> None:
    told = refusal(written)
    assert (told is None) is (sentence is None)
    if sentence:
        assert sentence in str(told)


def test_layouts_that_no_server_reads_have_an_alternative() -> None:
    served = {row.layout for row in TABLE if row.reader in SERVERS}
    assert {row.layout for row in TABLE} - served <= set(OTHER_LAYOUT)
    assert not served & set(OTHER_LAYOUT)


def test_the_card_knows_what_transformers_needs_for_each_layout_that_it_reads() -> None:
    loaded = {row.layout.partition(" ")[0] for row in TABLE if row.reader.startswith("transformers")}
    assert loaded <= set(PACKAGES)


def test_the_layout_of_a_pass_is_its_checkpoint_format() -> None:
    parameters = GptqQuantizer.model_validate({"type": "GptqQuantizer", "data_config": "d", "sym": True})
    assert written_by(weight_pass(parameters), "llama") == Written("gptq", 4, 128, True)


def test_servers_read_linears_of_different_bits_where_they_have_a_scheme_for_each() -> None:
    some = gptq_pass(sym=True, target_bits=6, candidate_bits=[4, 8], candidate_group_sizes=[32])
    assert {"vLLM", "gptqmodel"} <= set(readers(written_by(weight_pass(some), "llama")))
    assert OPTIMUM not in readers(written_by(weight_pass(some), "llama"))
    assert "vLLM" not in readers(written_by(weight_pass(some), "mixtral"))


def test_a_quantized_head_is_read_where_it_was_tried_and_servers_say_what_they_need() -> None:
    head = weight_pass(gptq_pass(sym=True, group_size=32, lm_head=True))
    assert readers(written_by(head, "llama")) == ["gptqmodel", "vLLM"]
    assert readers(written_by(head, "qwen2")) == []
    tensors = gptq_pass(sym=True, group_size=32, lm_head=True, checkpoint_format="compressed-tensors")
    assert readers(written_by(weight_pass(tensors), "llama")) == [COMPRESSED, "vLLM"]
    assert "vLLM and SGLang refuse this artifact; they need lm_head: false" in str(not_read_by(head, "qwen2"))


def test_bits_that_may_be_chosen_count_until_it_is_known_which_were() -> None:
    some = weight_pass(gptq_pass(sym=True, target_bits=6, candidate_group_sizes=[32]))
    assert "vLLM refuses this artifact; it needs candidate_bits: 4 or 8" in str(not_read_by(some, "llama"))
    made = LinearReport(name="a", shape=(8, 8), error=0.1, error_rtn=0.2, bits=4, group_size=32)
    assert "vLLM" in readers(written_by(some, "llama", linears=[made, made.model_copy(update={"bits": 8})]))
    assert "vLLM" not in readers(written_by(some, "llama", linears=[made.model_copy(update={"bits": 3})]))
