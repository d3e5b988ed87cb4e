"""When the training waits for what is saved next to it, and how that is reported."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from kubedet_trainer import dist
from kubedet_trainer.contract import Stage
from kubedet_trainer.errors import StorageUnreachable, TerminatedUnsaved
from kubedet_trainer.training.checkpoint import STORE_FAILURES
from kubedet_trainer.training.setup import Run

_POLL_SECONDS = 1.0
_END_SECONDS = 20
"""What the rank and the processes around it need of the grace period after the state is durable."""


def report(run: Run) -> None:
    """Report what has been committed since the last call; costs nothing where there is nothing.

    Raises:
        TrainerError: saves have failed for too long, or a state was not worth keeping.
    """
    for status in run.saver.collect():
        run.saved_iteration = status.iteration
        run.reporter.record_checkpoint(status)


def make_durable(run: Run, *, seconds: float = math.inf) -> None:
    """Wait until everything that was handed to the saver is durable. Every rank must call this.

    Args:
        run: its `saved_iteration` is true on every rank afterwards.
        seconds: how long to wait at most.

    Raises:
        TrainerError: as `report` does.
        StorageUnreachable: it is not durable after `seconds`.
    """
    deadline = time.monotonic() + seconds
    if _is_durable(run, wait_seconds=0):
        return
    with run.reporter.stage(Stage.CHECKPOINTING):
        while not _is_durable(run, wait_seconds=_POLL_SECONDS):
            run.reporter.beat()
            if run.world.rank == 0 and time.monotonic() > deadline:
                raise StorageUnreachable(
                    f"the state of iteration {run.copied_iteration} is not written within {seconds:.0f} s: "
                    f"{run.saver.last_error or 'the store is slow'}"
                )


def end(run: Run) -> NoReturn:
    """End this rank after all ranks agreed to stop: once the state is durable, or the grace period is over.

    Raises:
        TerminatedSaved, PeerFailed: as `StopRequest.end` does.
        TerminatedUnsaved: the state is not durable.
    """
    seconds = run.settings.grace_seconds - _END_SECONDS - run.stop.seconds_since()
    try:
        make_durable(run, seconds=max(1.0, seconds))
    except STORE_FAILURES as error:
        raise TerminatedUnsaved(f"stopped as asked, but the state is not saved: {error}") from error
    run.stop.end(run.state.iteration)


@contextmanager
def stoppable(run: Run) -> Iterator[Callable[[], bool]]:
    """Work between iterations, whose state the saver has: the function says whether all ranks are to stop.

    It must be asked equally often on every rank, and answers the same on all.

    Raises:
        TerminatedSaved, TerminatedUnsaved, PeerFailed: after the work, as `end`, when a rank was stopped.
    """
    agreement = dist.Agreement(1)
    stopped = False

    def should_stop() -> bool:
        nonlocal stopped
        run.reporter.beat()
        report(run)
        stopped = bool(agreement.exchange([int(run.stop.requested)])[0])
        return stopped

    try:
        yield should_stop
    finally:
        agreement.finish()
    if stopped:
        end(run)


def _is_durable(run: Run, *, wait_seconds: float) -> bool:
    """Rank 0's answer on every rank, so that all of them wait together and none looks hung."""
    is_first = run.world.rank == 0
    is_pending = is_first and not run.saver.wait(wait_seconds)
    report(run)
    pending, iteration = dist.maximum([is_pending, run.copied_iteration if is_first else -1])
    if not pending:
        run.saved_iteration = int(iteration)
    return not pending
