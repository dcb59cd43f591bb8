"""From a recipe to the artifact at an output: found there, finished for a killed run, or made.

Only the order of the steps; workflow.py passes the computation in.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import STATE_PREFIX, Manifest
from quantizer.store.artifact import ArtifactWriter, Output
from quantizer.store.claim import Claim, ClaimLostError
from quantizer.store.interface import StopCheck, Store, never_stop
from quantizer.store.promotion import clean_up, settle

logger = logging.getLogger(__name__)

Make = Callable[[ArtifactWriter], tuple[Manifest, bytes]]
"""Computes the artifact and finishes the writer; returns the published manifest and its bytes."""


@dataclass(frozen=True)
class Asked:
    """What a run wants at an output."""

    uid: str
    """Identity of the job, for the claim."""
    job: str
    """Name of the job, for the claim."""
    recipe: str
    reuse: bool = True
    """Whether an existing artifact will do."""
    has_ended: Callable[[str], bool] = lambda _: False
    """Whether the process with a uid is known to be gone."""
    waits: bool = True
    """Whether to watch another job's claim; if not, it is a conflict at once."""


@dataclass(frozen=True)
class Obtained:
    """The artifact."""

    manifest: Manifest
    data: bytes
    """The bytes of the manifest."""
    found: bool
    """Whether another job made it."""


def already_there(store: Store, asked: Asked, sleep: Callable[[float], None] = time.sleep) -> Obtained | None:
    """The artifact, if it already exists and may be reused.

    Raises:
        QuantizationError: ArtifactConflict when something else is there.
    """
    output = Output(store, asked.recipe)
    found = _will_do(output, asked)
    if found is not None and any(key.startswith(STATE_PREFIX) for key in output.listing):
        _tidy(store, asked, sleep)
        return _will_do(Output(store, asked.recipe), asked)
    return found


def obtain(
    store: Store,
    asked: Asked,
    make: Make,
    stop_check: StopCheck = never_stop,
    on_bytes: Callable[[int], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Obtained:
    """The artifact; made, unless another run has published it by the time we hold the claim.

    Raises:
        QuantizationError: ArtifactConflict when another job has the output; what `make` raises.
    """
    with Claim(store, asked.uid, asked.job, asked.recipe, asked.has_ended, sleep, waits=asked.waits) as claim:
        try:
            ended = settle(store, claim, stop_check)
            output = Output(store, asked.recipe)
            ours = ended is not None and ended.owner == asked.uid
            if (found := _will_do(output, asked, ours)) is not None:
                clean_up(store, claim)
                return found
            manifest, data = make(ArtifactWriter(output, claim, stop_check, on_bytes))
        except QuantizationError as error:
            _raise_if_lost(claim, error)
            raise
    return Obtained(manifest, data, found=False)


def _will_do(output: Output, asked: Asked, ours: bool = False) -> Obtained | None:
    """What is there, if it is what was asked for. ours: an earlier attempt of this job decided to publish it."""
    if output.manifest is None or not output.whole or not (asked.reuse or ours):
        return None
    logger.info("an artifact of this recipe is already at %s", output.store.uri)
    return Obtained(output.manifest, output.manifest_bytes, found=output.manifest.owner != asked.uid)


def _tidy(store: Store, asked: Asked, sleep: Callable[[float], None]) -> None:
    """Removes the state of a run that was killed after publishing, unless that run may still be alive."""
    try:
        with Claim(store, asked.uid, asked.job, asked.recipe, asked.has_ended, sleep, waits=False) as claim:
            settle(store, claim)
            clean_up(store, claim)
    except QuantizationError as error:
        logger.info("the state beside the artifact was not removed: %s", error.message)


def _raise_if_lost(claim: Claim, error: QuantizationError) -> None:
    """Raises the loss of the claim instead, if that explains the error: another run has changed the output."""
    if error.category is Category.STORAGE_UNAVAILABLE or isinstance(error, ClaimLostError):
        return
    try:
        claim.renew()
    except ClaimLostError as lost:
        raise lost from error
    except QuantizationError as other:
        logger.info("the claim cannot be renewed: %s", other.message)
