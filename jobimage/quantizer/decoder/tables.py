"""Tables with a row for each token of the vocabulary, of which a run reads the rows that occur."""

from collections.abc import Iterable

from torch import Tensor, nn

from quantizer.decoder.skeleton import Skeleton


def further_tables(skeleton: Skeleton) -> dict[str, int]:
    """Other tables of the vocabulary outside the layers that are larger than the embedding: their widths, by name."""
    own = skeleton.causal.get_input_embeddings()
    elsewhere = tuple(f"{name}." for name in (skeleton.layers_name, *skeleton.beside))
    return {
        name: part.embedding_dim
        for name, part in skeleton.causal.named_modules()
        if isinstance(part, nn.Embedding)
        and part.num_embeddings == own.weight.shape[0]
        and part.embedding_dim > own.weight.shape[1]
        and not name.startswith(elsewhere)
    }


def gathered(slices: Iterable[tuple[int, Tensor]], used: Tensor) -> Tensor:
    """The rows of a table that are used.

    slices: the table, as (first row, rows), where and in what type they are wanted. used: numbers of rows, ascending.
    """
    found: Tensor | None = None
    for first, rows in slices:
        if found is None:  # zeros for a token that the table does not have
            found = rows.new_zeros((len(used), rows.shape[1]))
        inside = (used >= first) & (used < first + len(rows))
        found[inside.to(rows.device)] = rows[(used[inside] - first).to(rows.device)]
    assert found is not None
    return found
