"""Who reads which format, and what is told about those who do not."""

import pytest

from quantization_api.passes import GptqQuantizer
from quantizer.report.readers import OTHER_LAYOUT, TABLE, Written, readers, readers_of, refusal

pytestmark = pytest.mark.unit

SERVERS = {"vLLM", "SGLang"}


@pytest.mark.parametrize(
    ("written", "servers", "others"),
    [
        (Written("gptq", 4, 128, True), SERVERS, {"gptqmodel", "onnxruntime-genai model builder"}),
        (Written("gptq", 4, 128, False), set(), {"gptqmodel"}),
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
            Written("awq gemm", 4, 128, True),
            "vLLM and SGLang refuse this artifact; they need zero_point: true",
        ),
        (Written("awq gemm", 4, 16, False), "they need q_group_size: -1, 32, 64 or 128"),
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
    assert {row.layout for row in TABLE} - served == set(OTHER_LAYOUT)


def test_the_layout_of_a_pass_is_its_checkpoint_format() -> None:
    parameters = GptqQuantizer.model_validate({"type": "GptqQuantizer", "data_config": "d", "sym": True})
    assert readers_of(parameters) == readers(Written("gptq", 4, 128, True))
