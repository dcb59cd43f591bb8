"""Run the operator: `quantization-operator`, or `python -m quantization_operator`.

One process is one replica. All replicas watch and keep their cache warm, so each could act at once; the one with
the lease does (`lease.py`, `leadership.py`). Listing 10,000 jobs takes longer than it may take to go on without
the leader, so a follower that began to watch only then would be too late.
"""

import asyncio
import contextlib
import gc
import logging
import math
import random
import signal
import socket
import sys
import time
import uuid
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import kopf
import prometheus_client
from kubernetes.config import ConfigException
from pydantic import ValidationError
from pydantic_settings import CliApp

from quantization_api import ENGINE_VERSION
from quantization_operator import kopf_client, logs, probes, watch
from quantization_operator.cache import Cache
from quantization_operator.controller import Controller
from quantization_operator.defaults_file import DefaultsError, DefaultsFile
from quantization_operator.identity import Key
from quantization_operator.kube import ApiError, Connection, Kube, log_in
from quantization_operator.kueue import Kueue
from quantization_operator.leadership import Leadership, LeaseLostError, seconds_since_boot
from quantization_operator.lease import Timing, View
from quantization_operator.metrics import LiveCollector, Metrics
from quantization_operator.progress import Poller
from quantization_operator.queue import WorkQueue
from quantization_operator.read import Reader
from quantization_operator.settings import ENV_PREFIX, OperatorSettings
from quantization_operator.sweep import NotSyncedError, Sweeper
from quantization_operator.unreadable import Unreadable
from quantization_operator.write import Writer

logger = logging.getLogger("quantization_operator")

LEASE_LOOK_SECONDS = 0.25
"""How often the event loop looks whether the lease was lost."""

GARBAGE_THRESHOLDS = (20_000, 50, 50)
"""Of the collector of reference cycles (gc.set_threshold). A page of a listing is some ten thousand dictionaries, none
of them in a cycle, and by default they set off a search through all that the cache holds: of the time to start among
many jobs that was almost half."""


def now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


async def operate(settings: OperatorSettings) -> int:
    """Run until a signal (0), or until a part of the operator ends (1): then the kubelet starts it again."""
    metrics, leading = Metrics(), asyncio.Event()
    leadership = _leadership(settings, leading) if settings.lease_namespace else None
    kube = Kube(
        log_in(settings.api_threads),
        settings.api_threads,
        settings.api_timeout_seconds,
        metrics.observe_request,
        lambda: leadership.write_seconds if leadership else math.inf,
    )
    cache = Cache()
    queue = WorkQueue(time.monotonic, random.random, cache.presses)
    if leadership:
        queue.close()
    health = probes.Health(
        time.monotonic,
        settings.sweep_interval_seconds,
        lambda: leadership.silence if leadership else 0.0,
    )
    collector = LiveCollector(
        cache, queue, lambda: health.watch_age, lambda: leadership is None or leadership.leads
    )
    metrics.registry.register(collector)
    reader, writer = Reader(kube), Writer(kube, socket.gethostname())
    kueue = Kueue(kube, now, time.monotonic)
    defaults = DefaultsFile(settings.defaults_file, time.monotonic, metrics.observe_defaults)
    controller = Controller(
        cache, queue, reader, kueue, writer, metrics, settings, now, time.monotonic, defaults
    )
    sweeper = Sweeper(cache, queue, reader, health, settings.namespaces)
    poller = Poller(cache, queue, settings.progress_interval_seconds, settings.progress_polls_per_second)
    server = probes.serve(settings.http_host, settings.http_port, health, queue, metrics.registry)
    logger.info("serving /metrics, /healthz and /readyz on %s:%d", *server.server_address[:2])

    stop = asyncio.Event()

    async def control() -> None:
        await sweeper.synchronize(settings.sync_timeout_seconds)
        logger.info("synchronized: %d jobs known", len(cache))
        for number in (signal.SIGTERM, signal.SIGINT):  # in place of kopf's, which takes 5 s to end our tasks
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with asyncio.TaskGroup() as group:
            group.create_task(sweeper.run(settings.sweep_interval_seconds))
            if leadership:
                leadership.start()
                await leading.wait()
                queue.open(_all_keys(cache))
            for _ in range(settings.workers):
                group.create_task(controller.work())
            group.create_task(poller.run(time.monotonic))

    async def control_and_release() -> None:
        try:
            await control()
        finally:  # in this order: the next leader must not meet a request of ours
            await asyncio.to_thread(kube.close)
            if leadership:
                await asyncio.to_thread(leadership.release)

    kopf_client.install(watch.carry)
    unreadable = Unreadable(metrics.observe_unreadable)
    watching = kopf.operator(
        registry=watch.registry(cache, queue, health, sweeper.want, unreadable, kube.configuration),
        settings=watch.kopf_settings(),
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
    )
    try:
        return await _supervise(
            {
                "signal": _until(stop),
                "heartbeat": probes.heartbeat(health),
                "lease": _until_lost(leadership),
                "control": control_and_release(),
                "watch": watching,
            }
        )
    finally:
        server.shutdown()


def _leadership(settings: OperatorSettings, leading: asyncio.Event) -> Leadership:
    """This process's part in the election; `leading` is set when it begins to lead."""
    loop = asyncio.get_running_loop()

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(leading.set)

    timing = Timing(
        settings.lease_duration_seconds,
        settings.lease_renew_deadline_seconds,
        settings.lease_interval_seconds,
    )
    return Leadership(
        Connection(log_in(1)),
        settings.lease_namespace,
        settings.lease_name,
        View(f"{socket.gethostname()}_{uuid.uuid4()}", timing),
        seconds_since_boot,
        now,
        tell,
    )


def _all_keys(cache: Cache) -> list[Key]:
    qjobs = [record.qjob for record in cache.records() if record.qjob is not None]
    return [Key(qjob.namespace, qjob.uid) for qjob in qjobs]


async def _until_lost(leadership: Leadership | None) -> None:
    """For ever, or until the lease is lost, which is an error."""
    while leadership is None or not leadership.lost:
        await asyncio.sleep(LEASE_LOOK_SECONDS)
    raise LeaseLostError(leadership.lost)


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


async def _supervise(parts: dict[str, Coroutine[Any, Any, None]]) -> int:
    """Run all parts until the first ends, then end the others: ours first, then kopf's.

    The signal ends the process as wished, and so does kopf while it still has the signal handlers; the end of
    any other part, or an error, does not.
    """
    tasks = [asyncio.create_task(part, name=name) for name, part in parts.items()]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
        await asyncio.wait([task])
    code = 0
    for task in done:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("%s ended: %s", task.get_name(), _told(error), exc_info=error)
        elif task.get_name() not in ("signal", "watch"):
            logger.error("%s ended", task.get_name())
        else:
            continue
        code = 1
    return code


def _told(error: BaseException) -> str:
    if isinstance(error, ApiError) and error.code == 404:
        return (
            f"{error}; is the CustomResourceDefinition installed? kubectl apply --server-side -k deploy/crd"
        )
    if isinstance(error, ApiError) and error.code == 403:
        return f"{error}; the ClusterRole in deploy/base grants what the operator needs"
    if isinstance(error, NotSyncedError | LeaseLostError):
        return str(error)
    return type(error).__name__ + f": {error}"


def main() -> None:
    """Read the settings and run; exit code 64 for settings that are wrong, 78 without a cluster."""
    if sys.argv[1:] == ["--version"]:  # the settings' own command line has only settings
        print(f"quantization-operator {ENGINE_VERSION}")
        return
    try:
        settings = CliApp.run(OperatorSettings, cli_args=sys.argv[1:])
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False):
            name = ENV_PREFIX + "_".join(map(str, item["loc"])).upper()
            print(f"{name}: {item['msg']}", file=sys.stderr)
        sys.exit(64)
    logs.configure(settings.log_level)
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    # A series more for each counter, which nothing here reads.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        code = asyncio.run(operate(settings))
    except DefaultsError as error:
        print(f"{ENV_PREFIX}DEFAULTS_FILE: {error}", file=sys.stderr)
        code = 64
    except ConfigException as error:
        logger.error("no cluster: found neither a service account nor a kubeconfig (%s)", error)
        code = 78
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = 0
    sys.exit(code)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
