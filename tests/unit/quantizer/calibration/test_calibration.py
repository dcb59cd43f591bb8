"""From text to token batches."""

import gzip
import io
import json
import shutil
import tracemalloc
from array import array
from pathlib import Path

import pytest
import torch
from tests.support.engine import CALIBRATION, STORIES, VALIDATION, save_tiny
from tests.support.tokens import make_batches, save_byte_tokenizer, tokenizer_of
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from quantization_api.failures import Category, QuantizationError
from quantizer.calibration.encoding import encode
from quantizer.calibration.text import read_rows
from quantizer.calibration.tokens import (
    Encoded,
    Preprocess,
    TokenBatches,
    batches_of,
    encode_apart,
    encode_rows,
)
from quantizer.checkpoint.source import DirectorySource

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """The example model's tokenizer."""
    return tokenizer_of(DirectorySource(STORIES), tmp_path_factory.mktemp("tokenizer"))


def batches(rows: list[str], tokenizer: PreTrainedTokenizerBase, preprocess: Preprocess) -> TokenBatches:
    return make_batches(rows, tokenizer, preprocess, vocabulary=32000, max_positions=256)


def test_plain_text_is_one_row_as_it_is_or_a_row_a_line() -> None:
    data = b"one\n\ntwo  \n\nthree\n"
    assert read_rows(data, "a.txt") == ["one\n\ntwo  \n\nthree\n"]
    assert read_rows(data, "a.txt", by_line=True) == ["one", "two  ", "three"]


def test_rows_come_from_the_text_column_of_every_table_format() -> None:
    rows = ["first, with comma", 'second "quoted"\nand a break', "third\u2028separator"]
    items = [{"text": row, "other": 1} for row in rows]
    assert read_rows("\n".join(json.dumps(item) for item in items).encode(), "a.jsonl") == rows
    assert (
        read_rows("\n".join(json.dumps(item, ensure_ascii=False) for item in items).encode(), "a.jsonl")
        == rows
    )
    assert read_rows(json.dumps(items).encode(), "a.json") == rows
    assert read_rows(json.dumps({"data": items}).encode(), "a.JSON") == rows
    quoted = "\n".join('"' + row.replace('"', '""') + '",1' for row in rows)
    assert read_rows(b"\xef\xbb\xbftext,other\n" + quoted.encode(), "a.csv") == rows
    assert read_rows(b'{"story": "x"}\n{"story": " "}', "a.jsonl", "story") == ["x"]


@pytest.mark.parametrize(
    ("data", "name", "sentence"),
    [
        (
            b'{"text": "x"}\n{oops',
            "a.jsonl",
            "line 2 of the data file a.jsonl cannot be used: it is not JSON",
        ),
        (b'{"story": "x"}', "a.jsonl", "line 1 has no text in column 'text'; found: story"),
        (b'{"text": 3}', "a.jsonl", "line 1 has no text in column 'text'"),
        (
            b'{"text": "x"}\n{"text": [5, 61]}',
            "a.jsonl",
            "line 2 has token ids in column 'text', and text is needed",
        ),
        (b'"x"', "a.jsonl", "line 1 is not an object"),
        (
            b'{"text": "x"}\n{"text": "a \\ud83d b"}',
            "a.jsonl",
            r"line 2 has half a surrogate pair \('\\ud83d'\) in column 'text', which is no character",
        ),
        (b'[{"text": "\\udfff"}]', "a.json", "item 1 has half a surrogate pair"),
        (b'{"rows": []}', "a.json", "neither a list of objects"),
        (b"story\nx", "a.csv", "line 2 has no text in column 'text'; found: story"),
        (b"\xff\xff", "a.txt", "is not UTF-8 text"),
        (
            b"x",
            "a.parquet",
            "its suffix is unknown; supported are .txt, .jsonl, .json, .csv, each also with .gz",
        ),
        (b"x", "a.jsonl.zst", "its suffix is unknown"),
        (b"x", "a.jsonl.gz", "a.jsonl.gz cannot be used: Not a gzipped file"),
        (
            gzip.compress(b'{"text": "x"}', mtime=0)[:-9],
            "a.jsonl.gz",
            "a.jsonl.gz cannot be used: Compressed file ended",
        ),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(data: bytes, name: str, sentence: str) -> None:
    with pytest.raises(QuantizationError, match=sentence) as caught:
        read_rows(data, name)
    assert caught.value.category is Category.DATA_NOT_FOUND


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".csv"])
def test_a_compressed_file_has_the_rows_of_the_plain_one(suffix: str) -> None:
    data = {
        ".txt": b"one\ntwo",
        ".jsonl": b'{"text": "one"}\n{"text": "two"}',
        ".json": b'[{"text": "one"}, {"text": "two"}]',
        ".csv": b"text\none\ntwo",
    }[suffix]
    halves = gzip.compress(data[:9]) + gzip.compress(data[9:])  # as files that were appended to each other
    for by_line in (True, False):
        rows = read_rows(data, f"a{suffix}", by_line=by_line)
        assert rows
        assert read_rows(halves, f"a{suffix}.GZ", by_line=by_line) == rows


def test_a_small_file_that_becomes_a_huge_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantizer.calibration.text.MAX_TEXT_BYTES", 1000)
    with pytest.raises(QuantizationError, match="more than 1,000 bytes when decompressed") as caught:
        read_rows(gzip.compress(b"x" * 1001), "a.txt.gz")
    assert caught.value.category is Category.DATA_NOT_FOUND


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_line_ends_of_windows_are_read_as_those_of_everybody(end: str) -> None:
    text = end.join(["one", "", "two", ""]).encode()
    assert read_rows(text, "a.txt") == ["one\n\ntwo\n"]
    assert read_rows(text, "a.txt", by_line=True) == ["one", "two"]
    assert read_rows(end.join(['{"text": "one"}', '{"text": "two"}']).encode(), "a.jsonl") == ["one", "two"]
    assert read_rows(end.join(["text,n", '"one",1', '"two",2']).encode(), "a.csv") == ["one", "two"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_text(encoding: str) -> None:
    assert read_rows("ein Bär".encode(encoding), "a.txt") == ["ein Bär"]
    assert read_rows('{"text": "ein Bär"}'.encode(encoding), "a.jsonl") == ["ein Bär"]
    assert read_rows("text\nein Bär".encode(encoding), "a.csv") == ["ein Bär"]


def test_rows_whose_text_is_null_are_left_out_like_empty_ones() -> None:
    assert read_rows(b'{"text": null}\n{"text": "x"}\n{"text": ""}', "a.jsonl") == ["x"]
    assert read_rows(b'[{"text": null}, {"text": "x"}]', "a.json") == ["x"]
    assert read_rows(b"n,text\n1,x\n2\n3,y", "a.csv") == ["x", "y"]


def test_a_field_of_a_table_may_be_a_whole_book() -> None:
    book = "x" * 500_000
    assert read_rows(f'text\n"{book}"\n'.encode(), "a.csv") == [book]
    with pytest.raises(QuantizationError, match="field larger than field limit") as caught:
        read_rows(b"text\n" + b"x" * 16_000_001, "a.csv")
    assert caught.value.category is Category.DATA_NOT_FOUND


def test_join_cuts_consecutive_sequences_of_the_joined_text(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = ["Once upon a time there was a cat.", "The cat sat.", "The end of it all."] * 20
    whole = tokenizer("\n\n".join(rows), add_special_tokens=True)["input_ids"]
    made = batches(rows, tokenizer, Preprocess(max_seq_len=16))
    assert len(made.sequences) == len(whole) // 16
    assert torch.cat(made.sequences).tolist() == whole[: len(whole) // 16 * 16]
    first = batches(rows, tokenizer, Preprocess(max_seq_len=16, max_samples=3))
    assert torch.equal(torch.stack(first.sequences), torch.stack(made.sequences[:3]))


def test_a_long_data_set_is_joined_without_losing_a_joiner(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [f"Story {number} is short." for number in range(2100)]  # more than are tokenized at once
    made = batches(rows, tokenizer, Preprocess(max_seq_len=64))
    text = tokenizer.decode(torch.cat(made.sequences))
    assert "Story 1023 is short.\n\n" in text
    assert "Story 2047 is short.\n\n" in text


def test_line_by_line_makes_one_cut_sequence_of_each_row_and_pads_none(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    rows = ["One two three.", "One two three four five six seven eight nine ten.", "One two three."]
    made = batches(rows, tokenizer, Preprocess(strategy="line-by-line", max_seq_len=8))
    lengths = [len(tokenizer(row)["input_ids"]) for row in rows]
    assert [len(sequence) for sequence in made.sequences] == [min(8, length) for length in lengths]
    assert sum(batch.numel() for batch in made.batches()) == made.tokens


def test_batches_hold_equal_lengths_in_order_up_to_the_bound() -> None:
    sequences = tuple(torch.full((length,), index) for index, length in enumerate((4, 4, 4, 6, 4, 100)))
    made = TokenBatches(sequences, batch_tokens=8)
    assert [tuple(batch.shape) for batch in made.batches()] == [(2, 4), (1, 4), (1, 6), (1, 4), (1, 100)]
    assert [int(batch[0, 0]) for batch in made.batches()] == [0, 2, 3, 4, 5]


def test_a_text_shorter_than_one_sequence_says_how_many_tokens_there_are_and_are_needed(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    with pytest.raises(
        QuantizationError, match=r"the text has 5 tokens; 1 sequences of 256 need 256"
    ) as caught:
        batches(["Once upon a time there"], tokenizer, Preprocess(max_seq_len=256))
    assert caught.value.category is Category.DATA_INSUFFICIENT
    with pytest.raises(QuantizationError, match="the text has 0 tokens"):
        batches([], tokenizer, Preprocess(max_seq_len=256))


def test_fewer_sequences_than_asked_for_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = read_rows(VALIDATION.read_bytes(), VALIDATION.name)
    with pytest.raises(QuantizationError, match=r"tokens; 1000 sequences of 256 need 256000") as caught:
        batches(rows, tokenizer, Preprocess(max_seq_len=256, max_samples=1000))
    assert caught.value.category is Category.DATA_INSUFFICIENT
    with pytest.raises(QuantizationError, match=r"has 1 non-empty lines .*; 2 sequences are needed"):
        batches(["x"], tokenizer, Preprocess(strategy="line-by-line", max_seq_len=8, max_samples=2))


def test_sequences_longer_than_the_model_takes_are_an_invalid_workflow(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    with pytest.raises(
        QuantizationError, match="max_seq_len is 512, but the model takes at most 256"
    ) as caught:
        batches(["x"], tokenizer, Preprocess(max_seq_len=512))
    assert caught.value.category is Category.INVALID_WORKFLOW


def test_a_token_that_the_model_has_no_embedding_for_is_refused_where_it_occurs(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    largest = max(tokenizer("x " * 50)["input_ids"][:8])
    with pytest.raises(
        QuantizationError,
        match=f"has 32000 tokens, makes token {largest} of the text, but the model's vocabulary has only {largest} ",
    ) as caught:
        make_batches(
            ["x " * 50],
            tokenizer,
            Preprocess(max_seq_len=8, max_samples=1),
            vocabulary=largest,
            max_positions=256,
        )
    assert caught.value.category is Category.MODEL_UNSUPPORTED
    assert "resize_token_embeddings" in caught.value.hint


def test_a_token_beyond_the_vocabulary_that_never_occurs_is_no_fault(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    largest = max(tokenizer("x " * 50)["input_ids"][:8])
    made = make_batches(
        ["x " * 50],
        tokenizer,
        Preprocess(max_seq_len=8, max_samples=1),
        vocabulary=largest + 1,
        max_positions=256,
    )
    assert made.tokens


def test_a_padding_token_that_was_added_to_the_tokenizer_alone_is_no_fault(tmp_path: Path) -> None:
    size = save_byte_tokenizer(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    encoded = encode_apart(
        DirectorySource(tmp_path), tmp_path, {"a": (["one two"], Preprocess(max_seq_len=4))}
    )
    assert encoded["a"].tokens == size + 1
    assert batches_of(encoded["a"], size).tokens == 4
    with pytest.raises(QuantizationError, match=rf"makes token {size} of the text"):
        batches_of(Encoded([array("q", [5, size])], size + 1), size)


def test_the_sequences_with_tokens_beyond_the_vocabulary_are_counted_and_the_first_is_named() -> None:
    encoded = Encoded([array("q", row) for row in ([5, 6], [61, 5, 70], [6], [80])], 90)
    sentence = (
        r"makes token 70 of the text.*only 61 tokens \(2 of 4 sequences have such tokens, "
        r"the first is sequence 2\)"
    )
    with pytest.raises(QuantizationError, match=sentence) as caught:
        batches_of(encoded, 61)
    assert caught.value.category is Category.MODEL_UNSUPPORTED


def test_a_model_without_a_tokenizer_or_with_a_broken_one_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    with pytest.raises(QuantizationError, match="has no tokenizer files"):
        tokenizer_of(DirectorySource(tmp_path / "model"), tmp_path / "one")
    shutil.copy(STORIES / "tokenizer_config.json", tmp_path / "model")
    (tmp_path / "model/tokenizer.json").write_text("{")
    with pytest.raises(QuantizationError, match=r"tokenizer\.json cannot be used: it is not JSON") as caught:
        tokenizer_of(DirectorySource(tmp_path / "model"), tmp_path / "two")
    assert caught.value.category is Category.MODEL_UNSUPPORTED


def test_a_long_text_has_the_same_tokens_in_windows_as_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    text = CALIBRATION.read_text()[:60_000]
    asked: list[None] = []

    def step() -> None:
        asked.append(None)

    whole = list(encode(tokenizer, text, special=True))
    in_windows = encode(tokenizer, text, special=True, step=step, window=4000, overlap=1000)
    assert list(in_windows) == whole
    assert len(asked) == 20
    first = encode(tokenizer, text, special=True, enough=500, window=4000, overlap=1000)
    assert 500 <= len(first) < len(whole) / 4
    assert list(first) == whole[: len(first)]


def test_windows_that_never_agree_are_widened_to_the_whole_text(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "ab" * 5000  # no boundary that a tokenizer without words would find in every window
    assert list(encode(tokenizer, text, special=True, window=64, overlap=16)) == list(
        encode(tokenizer, text, special=True)
    )


def test_encoding_in_a_child_is_encoding(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = read_rows(VALIDATION.read_bytes(), VALIDATION.name, by_line=True)
    joined, lines = Preprocess(max_seq_len=64, max_samples=5), Preprocess("line-by-line", 32)
    apart = encode_apart(DirectorySource(STORIES), tmp_path, {"a": (rows, joined), "b": (rows, lines)})
    assert apart["a"].sequences == encode_rows(rows, tokenizer, joined).sequences
    assert apart["b"].sequences == encode_rows(rows, tokenizer, lines).sequences
    assert apart["a"].tokens == 32000


def test_a_tokenizer_whose_pattern_never_ends_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantizer.calibration.apart.STEP_SECONDS", 2)
    shutil.copytree(STORIES, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    path = tmp_path / "model/tokenizer.json"
    content = json.loads(path.read_text())
    split = {"type": "Split", "pattern": {"Regex": "a.*b"}, "behavior": "Isolated", "invert": False}
    path.write_text(json.dumps({**content, "pre_tokenizer": split}))
    said = {"tokenizer_class": "PreTrainedTokenizerFast"}  # takes the file as it is
    (tmp_path / "model/tokenizer_config.json").write_text(json.dumps(said))
    rows = ["a" * 250_000]
    with pytest.raises(QuantizationError) as caught:
        encode_apart(DirectorySource(tmp_path / "model"), tmp_path, {"a": (rows, Preprocess())})
    assert caught.value.category is Category.MODEL_UNSUPPORTED
    assert caught.value.message == "the tokenizer cannot be used: a step took more than 2 s of CPU time"


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_rows_are_read_without_a_second_copy_of_the_file(name: str) -> None:
    row = {"a.csv": b'"some words",1\n', "a.jsonl": b'{"text": "some words"}\n', "a.txt": b" \n"}[name]
    data = (b"text,n\n" if name == "a.csv" else b"") + b" \n" * 10**5 + row * 3
    tracemalloc.start()
    rows = read_rows(data, name, by_line=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == ([] if name == "a.txt" else ["some words"] * 3)
    assert peak < len(data) / 4


def test_more_rows_than_are_held_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantizer.calibration.text.MOST_ROWS", 3)
    assert read_rows(b"a\nb\n\nc\n", "a.txt", by_line=True) == ["a", "b", "c"]
    with pytest.raises(QuantizationError, match="has more than 3 rows"):
        read_rows(b"a\nb\nc\nd\n", "a.txt", by_line=True)


def test_a_tokenizer_that_is_a_sentencepiece_model_only_is_read(tmp_path: Path) -> None:
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    folder, made = tmp_path / "model", io.BytesIO()
    save_tiny(folder)
    lines = CALIBRATION.read_text()[:50_000].splitlines()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=made, vocab_size=90, model_type="bpe", minloglevel=2
    )
    (folder / "tokenizer.model").write_bytes(made.getvalue())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    text = "Once upon a time there was a cat."
    texts = {"a": ([text], Preprocess(strategy="line-by-line", max_seq_len=64))}
    encoded = encode_apart(DirectorySource(folder), tmp_path / "scratch", texts)["a"]
    expected = SentencePieceProcessor(model_proto=made.getvalue()).encode(text)
    assert [token for token in encoded.sequences[0] if token != 1] == expected
    assert encoded.tokens == 90
