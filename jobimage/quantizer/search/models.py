"""The models of points, of which only those are kept that may still be chosen.

A point that is not the best of those that are known, or not on their front, never becomes so by more of them. So any
worker may remove its model at any time; its record stays.
"""

import logging
from collections.abc import Sequence

from quantization_api.failures import QuantizationError
from quantizer.search.front import Candidate, best, front
from quantizer.search.session import Session
from quantizer.store.removal import Ours, remove

logger = logging.getLogger(__name__)


def wanted(session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Of the points that are known, those whose models are kept: the best, and the front if it is asked for."""
    first = best(candidates, session.metrics)
    whole = front(candidates, session.metrics) if session.strategy.keep == "front" else []
    return ([] if first is None else [first]) + [one for one in whole if one is not first]


def drop_unwanted(session: Session, candidates: Sequence[Candidate], dropped: set[str]) -> None:
    """Removes the models of points that others are better than; `dropped`: recipes of those that are gone already."""
    kept = {one.record.recipe for one in wanted(session, candidates)}
    for one in candidates:
        recipe = one.record.recipe
        if one.record.state == "Finished" and recipe and recipe not in kept and recipe not in dropped:
            drop_model(session, recipe)
            dropped.add(recipe)


def drop_model(session: Session, recipe: str) -> None:
    """Removes the artifact of a point, or what there is of it. A failure is only logged: it does no harm."""
    store = session.store(session.place_of(recipe))
    try:
        if store.list():
            remove(store, Ours(), session.uid, session.name, session.has_ended)
    except QuantizationError as error:
        logger.info("the model at %s was not removed: %s", store.uri, error.message)
