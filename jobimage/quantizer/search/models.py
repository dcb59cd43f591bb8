"""The models of points, of which only those are kept that may still be chosen.

A point that is not the best of those that are known, or not on their front, never becomes so by more of them. So any
worker may remove its model at any time; its record stays.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quantization_api.failures import QuantizationError
from quantization_api.manifest import TrialRecord
from quantizer.search.front import best, front
from quantizer.search.session import Session
from quantizer.store.removal import Ours, remove

if TYPE_CHECKING:
    from quantizer.search.plan import Chosen

logger = logging.getLogger(__name__)


def wanted(session: Session, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Of the points that are known, those whose models are kept: the best, and the front if it is asked for."""
    first = best(records, session.metrics)
    whole = front(records, session.metrics) if session.strategy.keep == "front" else []
    return ([] if first is None else [first]) + [one for one in whole if one is not first]


def drop_unwanted(session: Session, points: Sequence["Chosen"], last: TrialRecord) -> None:
    """Removes the models of points that others are better than, now that `last` has ended."""
    records = [record for point in points if (record := point.record) is not None and record.recipe]
    records.append(last)
    kept = {record.recipe for record in wanted(session, records)}
    for record in records:
        if record.state == "Finished" and record.recipe and record.recipe not in kept:
            drop_model(session, record.recipe)


def drop_model(session: Session, recipe: str) -> None:
    """Removes the artifact of a point, or what there is of it. A failure is only logged: it does no harm."""
    store = session.store(session.place_of(recipe))
    try:
        if store.list():
            remove(store, Ours(), session.uid, session.name, session.has_ended)
    except QuantizationError as error:
        logger.info("the model at %s was not removed: %s", store.uri, error.message)
