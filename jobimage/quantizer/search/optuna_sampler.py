"""Optuna's TPE chooses the next point: from the finished ones, with those that others compute now counted as poor.

The study is made anew from the store of trials each time, so there is no storage of Optuna's and no coordinator.
"""

from collections.abc import Sequence

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from quantization_api.search import Decoded
from quantizer.search.known import Known
from quantizer.search.space import CHAIN, Parameters, Space, shown

ATTEMPTS = 32
"""Suggestions that are asked for before a point at random is taken: TPE may suggest known ones again and again."""


def suggest(space: Space, known: Sequence[Known], objectives: int, seed: int) -> Parameters | None:
    """The next point; None if TPE keeps to known ones. The same for the same arguments.

    Args:
        objectives: number of values of each point.
        seed: of this choice.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = TPESampler(seed=seed, constant_liar=True)
    study = optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)
    for one in known:
        study.add_trial(_trial(space, one))
    before = [one.parameters for one in known]
    for _ in range(ATTEMPTS):
        trial = study.ask()
        suggested = _suggested(space, trial)
        if suggested not in before:
            return suggested
        study.tell(trial, state=TrialState.FAIL)
    return None


def _suggested(space: Space, trial: optuna.Trial) -> Parameters:
    """Defined by running: the chain decides which parameters there are."""
    parameters: Parameters = dict(space.fixed)
    chain: tuple[str, ...] | None = None
    if space.chains:
        names = ["+".join(one) for one in space.chains]
        chosen = trial.suggest_categorical(CHAIN, names)
        chain = space.chains[names.index(chosen)]
        parameters = {CHAIN: chosen, **parameters}
    for axis in space.axes_of(chain):
        words = [shown(value) for value in axis.values]
        parameters[axis.name] = axis.values[words.index(trial.suggest_categorical(axis.name, words))]
    return parameters


def _trial(space: Space, known: Known) -> FrozenTrial:
    values: dict[str, list[Decoded]] = {axis.name: list(axis.values) for axis in space.axes}
    if space.chains:
        values[CHAIN] = ["+".join(chain) for chain in space.chains]
    searched = {name: value for name, value in known.parameters.items() if name in values}
    state = TrialState.RUNNING
    if known.ended:
        state = TrialState.FAIL if known.values is None else TrialState.COMPLETE
    return create_trial(
        state=state,
        values=None if state is not TrialState.COMPLETE else known.values,
        params={name: shown(value) for name, value in searched.items()},
        distributions={
            name: CategoricalDistribution([shown(value) for value in values[name]]) for name in searched
        },
    )
