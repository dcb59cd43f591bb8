"""An HTTPS proxy between one client and the API server, that does to requests and watches what a plan says."""

import asyncio
import base64
import json
import ssl
import threading
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml
from aiohttp import web
from tests.support.fault_plan import Fault, WatchFault, fault, watch_faults

from local_cluster.certificates import Authority

FORWARDED = ("Authorization", "Content-Type", "Accept")
RETRY_AFTER_SECONDS = 1
HELD_BACK_SECONDS = 0.5
"""So long an event waits for another one to overtake it."""
REASONS = {409: "Conflict", 410: "Expired", 422: "Invalid", 429: "TooManyRequests"}


def status(code: int) -> dict[str, Any]:
    """A refusal as the API server words it."""
    reason = REASONS.get(code, "InternalError")
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": "a fault",
    }


class FaultProxy:
    """Listens on loopback, with a certificate of its own, for a client with the kubeconfig `kubeconfig`.

    Args:
        kubeconfig: of the client, for the real server.
        directory: for certificates and the client's new kubeconfig.
        subject: whose request this is, by path and body; each subject has a schedule of its own.
        kill: ends the client, now.
        silences: a watch may fall silent by itself.

    Attributes:
        hits: faults so far, by kind.
        weather: False: no faults.
    """

    def __init__(
        self,
        kubeconfig: Path,
        directory: Path,
        seed: str,
        subject: Callable[[str, str], str],
        kill: Callable[[], None],
        silences: bool = True,
    ) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self._target, self._seed, self._subject, self._kill = cluster["server"], seed, subject, kill
        self._trust = _client_context(cluster)
        authority = Authority.create(directory / "proxy-pki", "proxy-ca")
        own = authority.server("proxy", "fault-proxy", ["IP:127.0.0.1"])
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(own.certificate, own.key)
        self._config, self._authority = config, authority
        self.kubeconfig = directory / "behind-the-proxy.kubeconfig"
        self.hits: Counter[str] = Counter()
        self.weather = True
        self._numbers: Counter[str] = Counter()
        self._owed: deque[Fault] = deque()
        self._connections = self._muted = self._hanging = 0
        self._silences = silences
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        port = self._run(self._start())
        cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(self._ca)}
        self._config["clusters"][0]["cluster"] = cluster
        self.kubeconfig.write_text(yaml.safe_dump(self._config))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def mute(self) -> None:
        """No watch that is open now says anything more, and none ends; new ones are as the plan has them."""
        self._muted = self._connections

    @property
    def _ca(self) -> Path:
        return self._authority.pair.certificate

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _start(self) -> int:
        connector = aiohttp.TCPConnector(ssl=self._trust, limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            trust_env=False,
            read_bufsize=2**20,
        )
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # of connections that were cut
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.read()
            if request.query.get("watch") == "true":
                return await self._watch(request)
            subject = self._subject(request.path, body.decode(errors="replace"))
            number = self._numbers[subject]
            self._numbers[subject] += 1
            hit = self._due(fault(f"{self._seed} {subject}", number, request.method, request.path))
            if hit is None or not self.weather:
                return await self._forward(request, body)
            self.hits[f"{hit.kind} {hit.code or ''}".strip()] += 1
            return await self._hit(request, body, hit)
        except (aiohttp.ClientError, ConnectionError):
            return self._cut(request)

    def _due(self, hit: Fault | None) -> Fault | None:
        """What happens now: while a request hangs, no kill, or in a burst of requests no client would give one up.

        The kill comes with the next request that has no fault of its own, whoever's it is: its own subject may have
        nothing more to ask.
        """
        if hit is not None and hit.kind.startswith("kill") and self._hanging:
            self._owed.append(hit)
            return None
        if hit is None and self._owed and not self._hanging:
            return self._owed.popleft()
        return hit

    async def _hit(self, request: web.Request, body: bytes, hit: Fault) -> web.StreamResponse:
        match hit.kind:
            case "refuse":
                headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if hit.code in (429, 503) else {}
                return web.json_response(status(hit.code), status=hit.code, headers=headers)
            case "delay":
                await asyncio.sleep(hit.seconds)
                return await self._forward(request, body)
            case "hang before":
                await self._hang(hit.seconds)
                return await self._forward(request, body)
            case "hang after":
                answer = await self._forward(request, body)
                await self._hang(hit.seconds)
                return answer
            case "repeat":
                await self._forward(request, body)
                return await self._forward(request, body)
            case "cut before":
                return self._cut(request)
            case "cut after":
                await self._forward(request, body)
                return self._cut(request)
            case "kill before":
                self._kill()
                return self._cut(request)
            case "kill after":
                await self._forward(request, body)
                self._kill()
                return self._cut(request)

    async def _hang(self, seconds: float) -> None:
        self._hanging += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._hanging -= 1

    def _cut(self, request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=502)

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        async with self._ask(request, body) as answer:
            data = await answer.read()
            headers = {k: answer.headers[k] for k in ("Content-Type", "Retry-After") if k in answer.headers}
            return web.Response(status=answer.status, body=data, headers=headers)

    def _ask(self, request: web.Request, body: bytes) -> Any:
        headers = {key: request.headers[key] for key in FORWARDED if key in request.headers}
        url = self._target + request.raw_path
        return self._session.request(request.method, url, data=body or None, headers=headers)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        """Pass on a watch, event by event: one line of JSON each."""
        self._connections += 1
        number = self._connections
        faults = watch_faults(self._seed, number, self._silences)
        async with self._ask(request, b"") as answer:
            stream = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
            await stream.prepare(request)
            held = b""
            while True:
                try:
                    line = await asyncio.wait_for(
                        answer.content.readline(), HELD_BACK_SECONDS if held else None
                    )
                except TimeoutError:
                    await stream.write(held)
                    held = b""
                    continue
                if not line:
                    break
                if number <= self._muted:
                    await _until_hung_up(request)
                    break
                hit: WatchFault = next(faults) if self.weather else ""
                if hit:
                    self.hits[f"watch: {hit}"] += 1
                match hit:
                    case "repeat":
                        line += line
                    case "delay":
                        await asyncio.sleep(0.5)
                    case "cut":
                        return self._cut(request)
                    case "silence":
                        await _until_hung_up(request)
                        break
                    case "gone":
                        await stream.write(
                            json.dumps({"type": "ERROR", "object": status(410)}).encode() + b"\n"
                        )
                        break
                if held and _uid(held) == _uid(line):
                    line, held = held + line, b""  # of one object, the order is the server's
                elif hit == "hold back" and not held:
                    held = line
                    continue
                await stream.write(line + held)
                held = b""
            return stream


async def _until_hung_up(request: web.Request) -> None:
    """While the connection stays open, nothing goes over it."""
    while request.transport is not None and not request.transport.is_closing():
        await asyncio.sleep(0.1)


def _uid(line: bytes) -> str:
    return str(json.loads(line.splitlines()[0])["object"].get("metadata", {}).get("uid", ""))


def _client_context(cluster: dict[str, Any]) -> ssl.SSLContext:
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    return ssl.create_default_context(cadata=authority)
