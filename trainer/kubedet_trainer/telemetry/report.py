"""What a run reports: log lines, metrics, and the progress record that the operator reads.

Every rank has a reporter, but only that of rank 0 writes progress and log lines. The one call in every
iteration takes microseconds. All others happen at most once for each log interval.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path

from kubedet_trainer import contract
from kubedet_trainer.contract import (
    CheckpointStatus,
    Progress,
    ProgressRecord,
    Recovery,
    Stage,
    Straggler,
    TimePhase,
    TimeSpent,
)
from kubedet_trainer.contract.times import format_unix_time
from kubedet_trainer.dist import World
from kubedet_trainer.storage.files import write_json
from kubedet_trainer.telemetry import memory
from kubedet_trainer.telemetry.heartbeat import Heartbeat
from kubedet_trainer.telemetry.metrics import Metrics
from kubedet_trainer.telemetry.recovery import Marks, RankTimes, read_marks
from kubedet_trainer.telemetry.timesheet import Timesheet

_PHASES = {
    Stage.TRAINING: TimePhase.TRAINING,
    Stage.EVALUATING: TimePhase.EVALUATING,
    Stage.CHECKPOINTING: TimePhase.CHECKPOINT_STALL,
    Stage.BENCHMARKING: TimePhase.EVALUATING,
    Stage.DONE: TimePhase.EVALUATING,
}
"""The phase that the time of a stage counts as. The first stage counts as a start or a restart."""

_PROGRESS_SECONDS = 1.0
_RATE_SMOOTHING = 0.05

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingLength:
    """The length of a whole training."""

    total_iterations: int
    iterations_per_epoch: int
    evaluations: int
    """Evaluations of the whole training."""

    def epoch(self, iteration: int) -> int:
        """The epoch, counted from 0, of the iteration after `iteration` completed ones."""
        return iteration // self.iterations_per_epoch


@dataclass(frozen=True, kw_only=True)
class Interval:
    """What was measured over one log interval."""

    iteration: int
    losses: Mapping[str, float]
    lr: float
    seconds_per_iteration: float
    data_wait_seconds: float
    """Of one iteration."""
    forward_seconds: float | None = None
    """Of one forward pass of this rank, if one has ended."""


class Reporter:
    """Reports what one rank does."""

    def __init__(
        self,
        *,
        world: World,
        work_directory: Path,
        metrics: Metrics,
        hang_median_steps: int = 0,
        start: RankTimes | None = None,
    ) -> None:
        self._world = world
        self._start = start
        self._recovery: Recovery | None = None
        self._is_first = world.rank == 0
        self._progress_file = work_directory / contract.PROGRESS_FILE
        self._heartbeat = Heartbeat(work_directory, rank=world.rank, median_steps=hang_median_steps)
        self._metrics = metrics
        self._length = TrainingLength(total_iterations=0, iterations_per_epoch=1, evaluations=0)
        self._stage = Stage.INITIALIZING
        self._iteration = 0
        self._checkpoint: CheckpointStatus | None = None
        self._straggler: Straggler | None = None
        before = read_marks(work_directory)
        self._time, self._first_phase = self._open_timesheet(before)
        self._iteration_seconds: float | None = None
        self._evaluation_seconds = 0.0
        self._last_step: float | None = None
        self._step_before = before.last_step
        self._step_mark: float | None = None
        self._written = 0.0
        self._write_progress()

    def begin(self, length: TrainingLength, *, iteration: int) -> None:
        """Set the length of the training, and the iteration at which this run starts."""
        self._length = length
        self._iteration = iteration
        self._write_progress()

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Set the stage of the run for the block. Times of evaluations enter the estimate of the rest."""
        before = self._stage
        started = time.monotonic()
        self._heartbeat.beat()
        self.set_stage(stage)
        try:
            yield
        finally:
            if stage is Stage.EVALUATING:
                self._evaluation_seconds = time.monotonic() - started
            self._heartbeat.beat()
            self.set_stage(before)

    def beat(self) -> None:
        """Show that this rank makes progress outside of iterations, as each image of an evaluation does."""
        self._heartbeat.beat()

    def beat_waiting(self) -> None:
        """Show that this rank waits for another one, once it has shown progress before."""
        self._heartbeat.beat_again()

    def computing(self, cpu_seconds: Callable[[], float]) -> AbstractContextManager[None]:
        """Show progress within the block as long as a process computes that this rank waits for.

        Args:
            cpu_seconds: the CPU time that the process has used.
        """
        return self._heartbeat.computing(cpu_seconds)

    def set_stage(self, stage: Stage) -> None:
        """Set the stage of the run from now on."""
        self._stage = stage
        self._time.switch_to(_PHASES.get(stage, self._first_phase), now=time.monotonic())
        self._write_progress()

    def record_iteration(
        self, iteration: int, *, images: int, seconds: float, data_wait_seconds: float
    ) -> None:
        """Record one optimiser step. Call it in every iteration."""
        now = time.time()
        self._heartbeat.beat_step(seconds)
        self._metrics.record_iteration(
            images=images,
            seconds=seconds,
            data_wait_seconds=data_wait_seconds,
            end=now,
            is_first_rank=self._is_first,
        )
        if self._is_first:
            self._note_recovery(step_seconds=seconds)
            self._iteration, self._last_step = iteration, now
            self._step_mark = elapsed = time.monotonic()
            before = self._iteration_seconds
            self._iteration_seconds = (
                seconds if before is None else before + _RATE_SMOOTHING * (seconds - before)
            )
            self._time.count_iteration(now=elapsed, wait_seconds=data_wait_seconds)
            if elapsed - self._written > _PROGRESS_SECONDS:
                self._write_progress()

    def _note_recovery(self, *, step_seconds: float) -> None:
        """Report the recovery that this iteration ends, if it does."""
        if self._start is None:
            return
        self._recovery = self._start.finish(step_seconds=step_seconds, last_step=self._step_before)
        self._start = None
        if self._recovery is not None:
            self._metrics.set_all("recovery_seconds", self._recovery.seconds)
            total = sum(self._recovery.seconds.values())
            _log.info("training again after %.1f s", total, extra={"recovery": asdict(self._recovery)})

    def record_interval(self, interval: Interval) -> None:
        """Log one line for a log interval, and set its gauges."""
        if self._world.device.type == "cuda":
            self._metrics.set_all("gpu_memory_bytes", memory.gpu_bytes(self._world.device))
        if interval.forward_seconds is not None:
            self._metrics.set_all("forward_seconds", {str(self._world.local_rank): interval.forward_seconds})
        if not self._is_first:
            return
        self._metrics.set_all("loss", interval.losses)
        self._metrics.set("learning_rate", interval.lr)
        remaining = self._remaining_seconds()
        _log.info(
            "epoch %d/%d  iteration %d/%d  loss %.4f (%s)  lr %.3g  %.3f s/it (data %.3f)  %.2f GB  eta %s",
            min(
                self._length.epoch(interval.iteration) + 1,
                self._length.epoch(self._length.total_iterations),
            ),
            self._length.epoch(self._length.total_iterations),
            interval.iteration,
            self._length.total_iterations,
            sum(interval.losses.values()),
            " ".join(f"{name.removeprefix('loss_')} {value:.4f}" for name, value in interval.losses.items()),
            interval.lr,
            interval.seconds_per_iteration,
            interval.data_wait_seconds,
            memory.peak_bytes(self._world.device) / 2**30,
            "unknown" if remaining is None else timedelta(seconds=remaining),
            extra=asdict(interval),
        )

    def record_straggler(self, found: Straggler | None) -> None:
        """Report the rank that all others wait for, or that there is none now."""
        before, self._straggler = self._straggler, found
        if found is not None and (before is None or before.rank != found.rank):
            _log.warning(
                "rank %d in worker %d is a straggler: its forward passes take %.2f times as long as those of "
                "the median rank",
                found.rank,
                found.replica,
                found.ratio,
                extra={"straggler": asdict(found)},
            )
        elif found is None and before is not None:
            _log.info("rank %d is no straggler any more", before.rank)

    def record_evaluation(self, iteration: int, *, metrics: Mapping[str, float]) -> None:
        """Log the figures of an evaluation, and set their gauges."""
        if self._is_first:
            self._metrics.set_all("evaluation", metrics)
            figures = "  ".join(f"{name} {value:.1f}" for name, value in metrics.items())
            _log.info("evaluation at iteration %d: %s", iteration, figures, extra={"metrics": dict(metrics)})

    def record_early_end(self, reason: str, *, iteration: int) -> None:
        """Report that the training ends at `iteration`, before its last one."""
        if self._is_first:
            _log.info("%s", reason, extra={"endedEarly": reason})
        self.begin(replace(self._length, total_iterations=iteration), iteration=iteration)

    def record_checkpoint(self, status: CheckpointStatus) -> None:
        """Report a committed checkpoint."""
        self._checkpoint = status
        self._metrics.set("checkpoint_save_seconds", status.saveSeconds)
        self._metrics.set("checkpoint_stall_seconds", status.stallSeconds)
        self._metrics.set("checkpoint_bytes", status.sizeBytes)
        _log.info(
            "checkpoint %s: %.1f MB in %.2f s",
            status.latest,
            status.sizeBytes / 1e6,
            status.saveSeconds,
            extra={"checkpoint": asdict(status)},
        )
        self._write_progress()

    def record_checkpoint_failure(self) -> None:
        """Count a checkpoint that could not be saved."""
        self._metrics.count("checkpoint_failures")

    def record_reference(self, figures: Mapping[str, float]) -> None:
        """Report the published figures of the recipe."""
        if self._is_first:
            self._metrics.set_all("reference", figures)

    def record_restore(
        self, *, seconds: float, status: CheckpointStatus, evaluation: Mapping[str, float] | None = None
    ) -> None:
        """Report the checkpoint that this run resumed from, and the figures of the evaluation before it.

        A new worker knows no figures: without these, their curves would have a gap until the next evaluation.
        """
        self._checkpoint = status
        self._time.book(time.monotonic(), {TimePhase.RESTORING: seconds})
        if self._start is not None:
            self._start.note_restore(seconds)
        self._metrics.set("checkpoint_restore_seconds", seconds)
        if self._is_first:
            self._metrics.set_all("evaluation", evaluation or {})
        _log.info(
            "resumed from %s at iteration %d",
            status.latest,
            status.iteration,
            extra={"checkpoint": asdict(status)},
        )

    def time_spent(self) -> TimeSpent:
        """What the time of this worker went into until now."""
        self._time.book(time.monotonic())
        return self._time.spent()

    def _remaining_seconds(self) -> int | None:
        if self._iteration_seconds is None:
            return None
        left = self._length.total_iterations - self._iteration
        share = left / max(1, self._length.total_iterations)
        evaluations = self._evaluation_seconds * self._length.evaluations * share
        return round(left * self._iteration_seconds + evaluations)

    def _open_timesheet(self, marks: Marks) -> tuple[Timesheet, TimePhase]:
        """A timesheet that continues the count of an earlier rank 0 of this worker, and its first phase."""
        before, pause = None, 0.0
        if self._is_first and (before := _read_time(self._progress_file)) and marks.written is not None:
            pause = time.monotonic() - marks.written
        again = before is not None or self._world.restarts > 0
        phase = TimePhase.RESTARTING if again else TimePhase.STARTING
        since = format_unix_time(time.time(), timespec="milliseconds")
        sheet = Timesheet(phase=phase, now=time.monotonic(), since=since, before=before, pause=pause)
        return sheet, phase

    def _write_progress(self) -> None:
        if not self._is_first:
            return
        self._written = time.monotonic()
        self._time.book(self._written)
        total = self._length.total_iterations
        record = ProgressRecord(
            progress=Progress(
                stage=self._stage,
                epoch=self._length.epoch(self._iteration),
                iteration=self._iteration,
                totalIterations=total,
                percentage=100 * self._iteration // total if total else 0,
                estimatedRemainingSeconds=self._remaining_seconds(),
                lastProgressTime=format_unix_time(self._last_step) if self._last_step else None,
                goodputPercent=round(100 * self._time.goodput()) if self._last_step else None,
                time=self._time.spent(),
                recovery=self._recovery,
            ),
            checkpoint=self._checkpoint,
            straggler=None if self._stage is Stage.DONE else self._straggler,
            worldSize=self._world.size,
            processRestarts=self._world.restarts,
        )
        write_json(self._progress_file, contract.without_none(asdict(record)))
        Marks(written=self._written, last_step=self._step_mark).write(self._progress_file.parent)


def _read_time(file: Path) -> TimeSpent | None:
    """The time in the progress record `file`, or None if there is none."""
    try:
        found = json.loads(file.read_text())["progress"]["time"]
    except (FileNotFoundError, KeyError):
        return None
    return TimeSpent(**found)
