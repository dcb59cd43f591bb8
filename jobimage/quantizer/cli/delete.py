"""`quantizer delete`: removes an artifact, and nothing else."""

import argparse

from rich.console import Console

from quantizer.cli.asked import access_of, check_artifact
from quantizer.cli.ending import guarded
from quantizer.cli.signals import Stopping
from quantizer.run.local_identity import has_ended, local_uid
from quantizer.store.location import Location, open_store


def delete_command(options: argparse.Namespace) -> int:
    """Deletes; exit code 0 means that everything asked for is gone."""

    def action(_: Console, stopping: Stopping) -> None:
        if (
            options.uid is None and options.recipe is None
        ):  # a job's pod that comes back finds nothing: that is fine
            check_artifact(options.uri)
        from quantizer.store.interface import OUTPUT
        from quantizer.store.kept_logs import remove_logs
        from quantizer.store.removal import Ours, remove
        from quantizer.store.trials_removal import remove_trials

        access = access_of(options, refuse_link_local=options.refuse_link_local)
        stopping.unwinds = True
        place = Location.parse(options.uri)
        store = open_store(place, OUTPUT, access)
        uid = options.uid or local_uid()
        name = f"removal for {uid}"
        removed = remove(store, Ours(options.recipe, options.uid), uid, name, has_ended)
        tried = remove_trials(
            store, lambda below: open_store(place.child(below), OUTPUT, access), uid, name, has_ended
        )
        whole = options.uid is None and (options.recipe is None or removed is not None)
        logs = remove_logs(store, options.uid) if whole or options.uid is not None else 0
        if removed is None and not tried and not logs:
            print(f"{store.uri}: nothing to delete")
            return
        trials = f", {tried} of trials" if tried else ""
        print(f"{store.uri}: deleted {removed or 0} objects{trials} and the state of unfinished runs")

    return guarded(action, interrupted="Run the same command to delete the rest.")
