"""What of a model's folder did not become the artifact as it was.

In sentences for the log, the manifest and the model card.
"""

from collections.abc import Collection, Iterator, Sequence

from quantization_api.text import clean
from quantizer.checkpoint.data_types import word
from quantizer.checkpoint.side_files import CODE
from quantizer.checkpoint.weight_files import adapter_files, unread_weights
from quantizer.decoder.layout import DecoderLayout

NAMED = 3


def remarks(
    files: Collection[str], broken: Sequence[str], layout: DecoderLayout, *, copies_unused: bool
) -> tuple[str, ...]:
    """The sentences; none for an ordinary model.

    Args:
        files: names of the files of the model's folder.
        broken: names of documents there that are links to nothing.
        layout: of the model.
        copies_unused: whether tensors that the model does not use are in the artifact.
    """
    found = [
        *_of_weights(files, layout),
        *_of_the_folder(broken, layout),
        *_of_tensors(layout, copies_unused),
    ]
    return tuple(clean(sentence) for sentence in found)


def _of_weights(files: Collection[str], layout: DecoderLayout) -> Iterator[str]:
    """Which were read, and as what."""
    read = layout.reader.files
    if layout.reader.method:
        yield (
            f"The input model is quantized ({layout.reader.method}): its weights were read as "
            f"{word(layout.reader.dtype)}, and all figures compare with these."
        )
    if scales := layout.reader.left_out:
        yield f"{_named(scales)} {_was(scales)} left out: scales by which activations were rounded."
    if adapter := adapter_files(files):
        yield (
            f"An adapter lies beside the model ({_named(adapter)}). It was neither applied nor copied: the weights are "
            f"those of {_named(read)}. If it is not merged into them, merge it first (merge_and_unload of peft)."
        )
    if others := unread_weights(files, read):
        yield f"{_named(others)} {_was(others)} not read: the weights are those of {_named(read)}."


def _of_the_folder(broken: Sequence[str], layout: DecoderLayout) -> Iterator[str]:
    """Files beside the weights, and what config.json says otherwise than the artifact's."""
    if broken:
        yield f"{_named(broken)} {_was(broken)} not copied: a link to a file that does not exist."
    if CODE in layout.raw_config:
        yield (
            f"config.json names code of the model ({CODE}). Such code is never run: the model was read as the "
            f"{layout.model_type} of transformers, and the artifact names no code of the model."
        )
    if layout.unties:
        yield (
            f"config.json ties the head to the embedding, but {layout.own_head_name()} has other values. That head was "
            "used, as transformers does, and the artifact's config.json says tie_word_embeddings: false."
        )
    if layout.wrong_dtype:
        stored = word(layout.reader.dtype)
        yield (
            f"config.json says {word(layout.wrong_dtype)}, but the weights are in {stored}, and so says the artifact's "
            "config.json unless the pass stores another type."
        )


def _of_tensors(layout: DecoderLayout, copies_unused: bool) -> Iterator[str]:
    """Those that were not quantized with the rest, or left out."""
    extra = layout.check_tensors()
    if beside := layout.bytes_beside:
        yield (
            "Only the decoder of text was quantized, and it was calibrated on text. "
            f"{_named(tuple(beside))} ({sum(beside.values()) / 1e6:,.1f} MB) {_was(tuple(beside))} copied as stored. "
            "Figures are of text alone: they do not say how well the model still answers about images or sound."
        )
    if extra.left_out:
        yield (
            f"{_named(extra.left_out)} {_was(extra.left_out)} left out: values that are computed today, or biases that "
            "are zero."
        )
    if extra.unused:
        became = (
            "copied as they are"
            if copies_unused
            else "left out: the hidden states that they read are rotated"
        )
        yield f"Tensors that a {layout.model_type} model does not use ({_named(extra.unused)}) were {became}."


def _was(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _named(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    if len(names) <= NAMED:
        return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
