"""Errors of a file system, each with a category and a sentence."""

import contextlib
import errno
from collections.abc import Iterator

from quantization_api.failures import Category, QuantizationError
from quantizer.store.interface import Place
from quantizer.store.links import BrokenLinkError, RefusedFileError
from quantizer.store.patience import AwayError

AWAY = {errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN}
"""Errors of a volume whose server is away."""


@contextlib.contextmanager
def translated(place: Place, uri: str) -> Iterator[None]:
    """Turns errors of the operating system into categorized ones."""
    what = place.what
    try:
        yield
    except FileNotFoundError as error:
        raise QuantizationError(place.missing, f"{what}: {uri} does not exist") from error
    except BrokenLinkError as error:
        raise place.broken(f"file://{error.path}", error.why) from error
    except RefusedFileError as error:
        raise place.refusal(f"file://{error.path}", error.why) from error
    except (NotADirectoryError, FileExistsError) as error:
        raise QuantizationError(
            place.missing, f"{what}: {uri}: part of the path is a file, not a directory"
        ) from error
    except PermissionError as error:
        raise QuantizationError(
            Category.ACCESS_DENIED,
            f"{what}: {uri}: permission denied",
            "Give the process's user access to the directory (on a volume: fsGroup, or the file modes).",
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise QuantizationError(
                Category.SCRATCH_FULL, f"{what}: no space left for {uri}", "Free up space on the volume."
            ) from error
        if error.errno == errno.EROFS:
            raise QuantizationError(
                Category.ACCESS_DENIED, f"{what}: {uri} is on a read-only file system"
            ) from error
        if error.errno in AWAY:
            raise AwayError(f"{what}: {uri}: {error.strerror}", "Check the volume.") from error
        if error.errno == errno.ENAMETOOLONG:
            raise QuantizationError(place.missing, f"{what}: {uri}: the name is too long") from error
        raise QuantizationError(
            Category.STORAGE_UNAVAILABLE, f"{what}: {uri}: {error.strerror or error}", "Check the volume."
        ) from error
