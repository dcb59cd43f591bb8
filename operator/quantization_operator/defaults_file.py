"""The file of an administrator's defaults: read at the start, and again when it has changed."""

import logging
from collections.abc import Callable
from pathlib import Path

import yaml
from pydantic import ValidationError

from quantization_api.faults import sentences
from quantization_operator.defaults import Defaults

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Between two looks at whether the file has changed. A kubelet takes up to a minute to bring a changed ConfigMap."""
LARGEST_FILE = 256 * 1024


class DefaultsError(ValueError):
    """The file cannot be used; the message says why."""


def read(path: Path) -> Defaults:
    """The defaults in a file; none where there is no file: the ConfigMap is optional.

    Raises:
        DefaultsError: it is no such file.
    """
    try:
        text = path.read_text()[: LARGEST_FILE + 1]
    except FileNotFoundError:
        return Defaults()
    except (OSError, ValueError) as error:
        raise DefaultsError(f"{path} cannot be read: {error}") from None
    if len(text) > LARGEST_FILE:
        raise DefaultsError(f"{path} has more than {LARGEST_FILE} characters")
    return _parsed(path, text)


def _parsed(path: Path, text: str) -> Defaults:
    try:
        return Defaults.model_validate(yaml.safe_load(text) or {})
    except (yaml.YAMLError, RecursionError) as error:
        raise DefaultsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise DefaultsError(f"{path}: {'; '.join(sentences(error, 'defaults')[:4])}") from None


class DefaultsFile:
    """The defaults as they are now. A change that cannot be used is told, and what was read before stays."""

    def __init__(self, path: str, clock: Callable[[], float], on_read: Callable[[bool], None]) -> None:
        """on_read: told of each reading whether it could be used.

        Raises:
            DefaultsError: there is nothing before that could stay.
        """
        self._path = Path(path) if path else None
        self._clock = clock
        self._on_read = on_read
        self._looked = clock()
        self._stamp = self._now()
        self._defaults = read(self._path) if self._path else Defaults()
        on_read(True)

    def __call__(self) -> Defaults:
        """What is in force."""
        if self._path is not None and self._clock() - self._looked >= LOOK_SECONDS:
            self._looked = self._clock()
            if (stamp := self._now()) != self._stamp:
                self._stamp = stamp
                self._read_again(self._path)
        return self._defaults

    def _now(self) -> tuple[int, int, int] | None:
        """What is another one for another file of that name; a ConfigMap is exchanged as a whole, by a link."""
        try:
            found = self._path.stat() if self._path else None
        except OSError:
            return None
        return found and (found.st_ino, found.st_mtime_ns, found.st_size)

    def _read_again(self, path: Path) -> None:
        try:
            self._defaults = read(path)
        except DefaultsError as error:
            logger.error("the changed defaults are not used, those before stay: %s", error)
            self._on_read(False)
            return
        logger.info("the defaults have changed and are used from now on")
        self._on_read(True)
