"""Objects that nobody can read, or that are nobody's: counted by kind, and named in the log once."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from quantization_operator import parsing
from quantization_operator.identity import Kind

logger = logging.getLogger(__name__)

REMEMBERED = 4096
"""Objects of which is known that they were named; a log may name one again after so many others."""


class Unreadable:
    """What was said about them. count: called with the kind of each that is new."""

    def __init__(self, count: Callable[[Kind], None]) -> None:
        self._count = count
        self._named: OrderedDict[tuple[str, ...], None] = OrderedDict()

    def note(self, kind: Kind, metadata: Mapping[str, Any]) -> None:
        """An object of this kind was told of that is nobody's."""
        namespace, name, uid = (parsing.word(metadata.get(key)) for key in ("namespace", "name", "uid"))
        seen = (kind, namespace, name, uid)
        if seen in self._named:
            self._named.move_to_end(seen)
            return
        self._named[seen] = None
        if len(self._named) > REMEMBERED:
            self._named.popitem(last=False)
        self._count(kind)
        logger.warning(
            "%s %s is ignored: its labels or its metadata do not say which QuantizationJob it belongs to",
            kind,
            name,
            extra={"namespace": namespace, "uid": uid},
        )
