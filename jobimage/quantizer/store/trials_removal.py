"""Removes the trials of searches that lie below an output, when nothing else is there any more."""

from collections.abc import Callable

from quantization_api.manifest import MANIFEST_NAME
from quantization_api.spec import TRIALS_NAME
from quantizer.store.interface import Store
from quantizer.store.mark import CLAIM_NAME, look, works_for
from quantizer.store.removal import Ours, remove

PREFIX = f"{TRIALS_NAME}/"


def remove_trials(
    store: Store,
    open_trial: Callable[[str], Store],
    uid: str,
    name: str,
    has_ended: Callable[[str], bool] = lambda _: False,
) -> int:
    """Removes the trials below an output whose artifact is gone; returns the number of objects.

    open_trial: the store at a place below the output. uid, name: as in `removal.remove`. An artifact that is still
    there is another job's, and so are its trials.

    Raises:
        QuantizationError: ArtifactConflict when another job is computing one of them; AccessDenied,
            StorageUnavailable.
    """
    if store.head(MANIFEST_NAME) is not None:
        return 0
    keys = list(store.list(PREFIX))
    for key in keys:
        if key.endswith(f"/{CLAIM_NAME}"):
            trial = open_trial(key.removesuffix(f"/{CLAIM_NAME}"))
            seen = look(trial)
            if seen is not None and not seen.mark.released and not works_for(uid, seen.mark.uid):
                remove(trial, Ours(), uid, name, has_ended)
    store.delete(store.list(PREFIX))
    return len(keys)
