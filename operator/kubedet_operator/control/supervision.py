"""Keeps the background tasks of the process running: one that a bug ends is started again, and told of."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from kubedet_operator.telemetry.health import Health
from kubedet_operator.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
"""Pauses before a task starts again. They double while it keeps failing."""

CALM_SECONDS = 300.0
"""A task that has run for this long has not failed in a row."""


async def supervise(
    task: str, run: Callable[[], Awaitable[None]], *, metrics: Metrics, health: Health
) -> None:
    """Run a task until cancelled, and again whenever it ends: no task is meant to.

    The other tasks continue meanwhile. If the task fails again and again, `health` complains.
    """
    loop, failures = asyncio.get_running_loop(), 0
    while True:
        began = loop.time()
        try:
            await run()
            problem: Exception | None = None
        except Exception as error:
            problem = error
        failures = 1 if loop.time() - began > CALM_SECONDS else failures + 1
        pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 10), LONGEST_PAUSE_SECONDS)
        metrics["task_restarts"].labels(task).inc()
        health.note_end(task, failures)
        logger.error(
            "the task %s has ended, which is a bug of the operator; starting it again in %.0f s",
            task,
            pause,
            exc_info=problem,
        )
        await asyncio.sleep(pause)
