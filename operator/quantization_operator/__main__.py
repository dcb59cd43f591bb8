"""Run the operator: `quantization-operator`, or `python -m quantization_operator`.

One process is one replica. Two that run at the same time would not make two Jobs (the name is derived from
the uid) but would write the same status twice; there is no lease yet, so the Deployment has one replica and
replaces it only after it has ended.
"""

import asyncio
import contextlib
import logging
import random
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import kopf
import prometheus_client
from kubernetes.config import ConfigException
from pydantic import ValidationError
from pydantic_settings import CliApp

from quantization_operator import logs, probes, watch
from quantization_operator.cache import Cache
from quantization_operator.controller import Controller
from quantization_operator.kube import ApiError, Kube, log_in
from quantization_operator.metrics import LiveCollector, Metrics
from quantization_operator.progress import Poller
from quantization_operator.queue import WorkQueue
from quantization_operator.read import Reader
from quantization_operator.settings import ENV_PREFIX, OperatorSettings
from quantization_operator.sweep import NotSyncedError, Sweeper
from quantization_operator.write import Writer

logger = logging.getLogger("quantization_operator")


def now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


async def operate(settings: OperatorSettings) -> int:
    """Run until a signal (0), or until a part of the operator ends (1): then the kubelet starts it again."""
    metrics = Metrics()
    kube = Kube(
        log_in(settings.api_threads),
        settings.api_threads,
        settings.api_timeout_seconds,
        metrics.observe_request,
    )
    cache, queue = Cache(), WorkQueue(time.monotonic, random.random)
    health = probes.Health(time.monotonic, settings.sweep_interval_seconds)
    metrics.registry.register(LiveCollector(cache, queue, lambda: health.watch_age))
    reader, writer = Reader(kube), Writer(kube, socket.gethostname())
    controller = Controller(cache, queue, reader, writer, metrics, settings, now, time.monotonic)
    sweeper = Sweeper(cache, queue, reader, health, settings.namespaces)
    poller = Poller(cache, queue, settings.progress_interval_seconds, settings.progress_polls_per_second)
    server = probes.serve(settings.http_host, settings.http_port, health, queue, metrics.registry)
    logger.info("serving /metrics, /healthz and /readyz on %s:%d", *server.server_address[:2])

    stop = asyncio.Event()

    async def control() -> None:
        await sweeper.synchronize(settings.sync_timeout_seconds)
        logger.info("synchronized: %d jobs are known", len(cache))
        for number in (signal.SIGTERM, signal.SIGINT):  # in place of kopf's, which takes 5 s to end our tasks
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with asyncio.TaskGroup() as group:
            for _ in range(settings.workers):
                group.create_task(controller.work())
            group.create_task(poller.run(time.monotonic))
            group.create_task(sweeper.run(settings.sweep_interval_seconds))

    watching = kopf.operator(
        registry=watch.registry(cache, queue, health, sweeper.want, kube.configuration),
        settings=watch.kopf_settings(),
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
    )
    try:
        return await _supervise(
            {
                "signal": _until(stop),
                "heartbeat": probes.heartbeat(health),
                "control": control(),
                "watch": watching,
            }
        )
    finally:
        server.shutdown()
        kube.close()


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
        return f"{error}; is the CustomResourceDefinition installed? kubectl apply -k deploy/base"
    if isinstance(error, ApiError) and error.code == 403:
        return f"{error}; the ClusterRole of deploy/base has what the operator needs"
    if isinstance(error, NotSyncedError):
        return str(error)
    return type(error).__name__ + f": {error}"


def main() -> None:
    """Read the settings and run; exit code 64 for settings that are wrong, 78 without a cluster."""
    try:
        settings = CliApp.run(OperatorSettings, cli_args=sys.argv[1:])
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False):
            name = ENV_PREFIX + "_".join(map(str, item["loc"])).upper()
            print(f"{name}: {item['msg']}", file=sys.stderr)
        sys.exit(64)
    logs.configure(settings.log_level)
    # A series more for each counter, which nothing here reads.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        code = asyncio.run(operate(settings))
    except ConfigException as error:
        logger.error("no cluster: neither a service account nor a kubeconfig was found (%s)", error)
        code = 78
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = 0
    sys.exit(code)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
