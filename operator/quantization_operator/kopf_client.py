"""The two places where kopf's client decodes what the API server sends, made to keep little of each object.

kopf reads a whole page of a list into memory, as bytes, as text and as objects, and decodes with a decoder whose depth
is bounded by the stack: a page of large objects, or one deep object, would end the process at each start. Here a list
is read while it arrives (`decode.ListReader`), and of each object kopf is given its identity and what `carry` made of
it. kopf stays the one that lists, watches, resumes and retries; what is replaced is pinned by tests.
"""

from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

import aiohttp
from kopf._cogs.clients import api, errors, fetching

from quantization_operator import decode

CHUNK = 256 * 1024
GONE = 410
Body = dict[str, Any]
Carry = Callable[[Any, str], Body]
"""Makes of an object what kopf is to carry. The second argument is the plural name of its resource, "" in a watch."""


def install(carry: Carry) -> None:
    """Let kopf's client of this process decode so."""
    setattr(api, "json", _Lines(carry))  # noqa: B010  (the module's name for its decoder)
    setattr(fetching, "fetch_objs", _lister(carry))  # noqa: B010


class _Lines:
    """In place of the module json in kopf's client: decodes the lines of a watch."""

    def __init__(self, carry: Carry) -> None:
        self._carry = carry

    def loads(self, line: str) -> Any:
        """An event of a watch. Errors and bookmarks are kopf's."""
        event = decode.loads(line)
        if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
            event["object"] = self._carry(event["object"], "")
        return event


def _lister(carry: Carry) -> Callable[..., AsyncIterator[tuple[Collection[Body], str]]]:
    async def fetch_objs(
        *, settings: Any, resource: Any, namespace: Any, logger: Any
    ) -> AsyncIterator[tuple[Collection[Body], str]]:
        """As kopf's: the objects in chunks, each with the version of the list."""
        query = _query(settings, resource)
        version = ""
        while True:
            page = decode.ListReader(lambda body: carry(body, resource.plural))
            try:
                async for found in _page(
                    page, resource.get_url(namespace=namespace, params=query), settings, logger
                ):
                    yield found, version
            except ValueError as error:
                raise aiohttp.ClientPayloadError(f"a list cannot be read: {error}") from error
            metadata = page.rest.get("metadata") or {}
            version = metadata.get("resourceVersion") or ""
            yield (), version
            if not metadata.get("continue"):
                return
            query["continue"] = metadata["continue"]

    return fetch_objs


async def _page(
    page: decode.ListReader[Body], url: str, settings: Any, logger: Any
) -> AsyncIterator[list[Body]]:
    """The objects of one page, as they arrive.

    Raises:
        aiohttp.ClientPayloadError: the list has expired, or ended too early: kopf begins anew.
    """
    try:
        response = await api.request(method="get", url=url, settings=settings, logger=logger)
    except errors.APIError as error:
        if error.status == GONE:
            raise aiohttp.ClientPayloadError("the list has expired") from error
        raise
    async with response:
        async for data in response.content.iter_chunked(CHUNK):
            yield page.feed(data)
    yield page.close()


def _query(settings: Any, resource: Any) -> dict[str, str]:
    watching = settings.watching
    query = {"limit": str(watching.chunk_size)}
    for key, selectors in (
        ("labelSelector", watching.label_selectors),
        ("fieldSelector", watching.field_selectors),
    ):
        if chosen := ",".join(sorted(set(selectors.collect(resource)))):
            query[key] = chosen
    return query
