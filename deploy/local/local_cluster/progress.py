"""Tells the user what is happening: a spinner on a terminal, one line for each finished step everywhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console


class Progress:
    """Prints steps with their duration to standard error, so that standard output stays usable in a pipe."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._clock = clock

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, markup=False)

    @contextmanager
    def step(self, text: str, quiet_below: float = 0.0) -> Iterator[Callable[[str], None]]:
        """Show `text` while the block runs, then print it with the seconds it took.

        Yields a function that replaces the text by a more detailed one (what is being waited for, how far it is).
        A step that took less than `quiet_below` seconds is not worth a line.
        """
        start = self._clock()
        if self._console.is_terminal:
            with self._console.status(text) as status:
                yield status.update
        else:
            yield self._slowly(start)
        took = self._clock() - start
        if took >= quiet_below:
            self._console.print(f"  {text}  {took:.1f} s", markup=False)

    def _slowly(self, start: float) -> Callable[[str], None]:
        """Without a terminal: a line at most every 15 s, so that a log shows life and stays short."""
        last = start

        def update(text: str) -> None:
            nonlocal last
            now = self._clock()
            if now - last >= 15:
                last = now
                self._console.print(f"  {text}", markup=False)

        return update
