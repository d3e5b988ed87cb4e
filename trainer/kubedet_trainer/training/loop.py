"""The loop, top to bottom. It knows no detector: models give losses by name and detections, nothing more.

No iteration waits for the device: losses are summed there and read an interval later, a stop request travels
between the ranks while the next step runs, and states are written next to the training.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from kubedet_trainer import dist
from kubedet_trainer.config import Recipe
from kubedet_trainer.contract import RecoveryPhase, Results, Stage, Task
from kubedet_trainer.errors import LossNotFinite, PeerFailed, TerminatedSaved, TerminatedUnsaved
from kubedet_trainer.settings import RunSettings
from kubedet_trainer.structures import Batch
from kubedet_trainer.telemetry import heartbeat, memory, stragglers
from kubedet_trainer.telemetry.metrics import Metrics
from kubedet_trainer.telemetry.recovery import RankTimes
from kubedet_trainer.telemetry.report import Interval
from kubedet_trainer.training import optim, reported, reporting, results, saving, scoring, setup
from kubedet_trainer.training.device import AUTOCAST, open_device
from kubedet_trainer.training.local_copy import copy_file
from kubedet_trainer.training.proposals import check_proposals
from kubedet_trainer.training.results import Figures
from kubedet_trainer.training.setup import Run
from kubedet_trainer.training.signals import StopRequest
from kubedet_trainer.training.state import chunk_seed

_UNTIMED_ITERATIONS = 50
"""The zoo's record: it took the mean of all but the first (`docs/zoo.md`, 10), so the first iterations of a
process do not count; of a run of less than two records its first half does not."""
_LAST_SAVE_SECONDS = 5.0
"""How long a rank that failed or lost its peers waits for the save that is under way."""
_NOTHING_TO_SAVE = "stopped as asked; a measurement has nothing to save, and begins again"


def train(settings: RunSettings, recipe: Recipe, *, metrics: Metrics) -> Results | None:
    """Do the run's task: train, evaluate and measure one recipe. The results are rank 0's, None elsewhere.

    Raises:
        TrainerError: one of its kinds for every ending that is understood; `TerminatedSaved` after a stop.
    """
    check_proposals(settings, recipe)
    heartbeat.announce(settings.work_directory, rank=dist.rank())
    start = RankTimes(settings.work_directory)
    stop = StopRequest()
    run: Run | None = None
    try:
        with dist.peer_failures():
            world = dist.initialise(open_device(gpus=settings.gpus, local_rank=dist.local_rank()))
            start.note(RecoveryPhase.JOIN)
            # Not before: a rank that waits for others to come takes no signal, and has nothing to save.
            stop.listen()
            run = setup.prepare(settings, recipe, world=world, stop=stop, metrics=metrics, start=start)
            reporting.note_start(run)
            figures = _measure(run) if settings.task is Task.MEASURE else _train(run)
            row = results.write_row(run, figures)
            copy_file(settings.work_directory).unlink(missing_ok=True)  # no restart will need it
            dist.shut_down()
    except TerminatedSaved as error:
        if settings.trains:
            raise
        raise TerminatedSaved(_NOTHING_TO_SAVE) from error
    except PeerFailed as error:
        if not stop.requested:
            raise
        if not settings.trains:
            raise TerminatedSaved(_NOTHING_TO_SAVE) from error
        if run is not None and run.saved_iteration == run.state.iteration:  # the peers were only faster
            raise TerminatedSaved("stopped as asked; the state had been saved before") from error
        raise TerminatedUnsaved(f"stopped as asked, but in the middle of an iteration: {error}") from error
    finally:
        if run is not None:
            scoring.abandon(run)
            if not stop.requested:
                _finish_save(run)
    run.reporter.set_stage(Stage.DONE)
    return row


def _train(run: Run) -> Figures:
    """Train to the end, and take the figures of the weights that the row reports."""
    _fit(run)
    return results.take_figures(run)


def _measure(run: Run) -> Figures:
    """Take the figures of the given weights, then some training steps, which change these weights."""
    scoring.evaluate(run)
    figures = results.take_figures(run)
    memory.forget_peak(run.world.device)
    run.timer.resume()
    _fit(run)
    return figures


def _fit(run: Run) -> None:
    """Iterate to the end, evaluating and saving on the way."""
    state, total = run.state, run.length.total_iterations
    batches = iter(run.batches(end_iteration=total))
    log_interval = min(50, max(5, total // 40))
    agreement = dist.Agreement(3)
    replicas = dist.gather(run.settings.replica_index)
    watch = stragglers.StragglerWatch(iteration=state.iteration, replicas=replicas)
    run.reporter.set_stage(Stage.TRAINING)
    while True:
        scoring.evaluate_if_due(run)
        if state.iteration >= total or _ends_early(run):
            break
        _step(run, batches)
        is_logged = state.iteration % log_interval == 0 or state.iteration == total
        times = _log_interval(run) if is_logged else []
        saving.report(run)
        stop, alarm, scored, *times = agreement.exchange(
            [int(run.stop.requested), run.monitor.alarm, scoring.scored_iteration(run), *times]
        )
        _raise_if_bad(run, alarm)
        scoring.take_if_scored(run, scored)
        if times and run.world.rank == 0:
            run.reporter.record_straggler(watch.judge(times, iteration=state.iteration))
        if stop:
            agreement.finish()
            _require_sound(run)
            scoring.settle_in_time(run)
            _save(run, stopping=True)
            saving.end(run)
        _save_if_due(run)
    agreement.finish()


def _step(run: Run, batches: Iterator[Batch]) -> None:
    """One optimiser step: forward and backward over this rank's chunks, clip, update, record."""
    state, recipe = run.state, run.recipe
    steps = run.data.batch.accumulation_steps
    optimizer, scaler = state.optimizer, state.scaler
    rate = _learning_rate(run)
    optim.set_learning_rate(optimizer, rate)
    optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for micro_step in range(steps):
        with run.timer.waiting():
            batch = next(batches)
        chunk = micro_step * run.world.size + run.world.rank
        run.generator.manual_seed(chunk_seed(recipe.seed, iteration=state.iteration, chunk=chunk))
        with dist.accumulating(run.model, last=micro_step == steps - 1):
            losses = _forward(run, batch)
            total = torch.stack(list(losses.values())).sum()
            scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        for name, value in losses.items():
            sums[name] = sums[name] + value.detach() if name in sums else value.detach()
    scaler.unscale_(optimizer)
    norm = optim.clip_gradients(state.model.parameters(), max_norm=recipe.optimizer.clip_norm)
    run.saver.release()
    scaler.step(optimizer)
    scaler.update()
    state.iteration += 1
    if recipe.precision != "fp16":  # there a scaler skips steps whose gradients overflow
        sums["gradient norm"] = norm
    run.monitor.record(state.iteration, sums)
    _record_time(run, images=steps * run.data.batch.images_per_pass)


def _forward(run: Run, batch: Batch) -> dict[str, Tensor]:
    """The losses of one chunk, each divided by the chunks that this rank accumulates."""
    device, dtype = run.world.device, AUTOCAST[run.recipe.precision]
    batch = batch.to(device)
    autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
    with run.forwards.forward_pass(), autocast:
        terms = run.model(batch.images, batch.targets, run.generator)
    steps = run.data.batch.accumulation_steps
    return {name: value / steps for name, value in terms.items() if "loss" in name}


def _learning_rate(run: Run) -> float:
    return optim.learning_rate(
        run.state.iteration,
        base=run.recipe.optimizer.lr * run.data.batch.lr_scale,
        iterations_per_epoch=run.length.iterations_per_epoch,
        schedule=run.recipe.schedule,
    )


def _record_time(run: Run, *, images: int) -> None:
    done, history = run.state.iteration, run.state.history
    ahead = run.length.total_iterations - run.first_iteration
    untimed = run.first_iteration + min(_UNTIMED_ITERATIONS, ahead // 2)
    if done in (untimed, run.length.total_iterations):
        _await_device(run)  # what was only begun belongs to this side of the window
    lap = run.timer.lap()
    if done > untimed:
        history.timed_iterations += 1
        history.timed_seconds += lap.seconds
    run.reporter.record_iteration(
        done, images=images, seconds=lap.seconds, data_wait_seconds=lap.wait_seconds
    )


def _await_device(run: Run) -> None:
    if run.world.device.type == "cuda":
        torch.cuda.synchronize(run.world.device)


def _log_interval(run: Run) -> list[int]:
    """Report the interval that ends here. Returns the forward time of this rank, to be exchanged."""
    run.note_memory()
    lap, forward_seconds = run.timer.close_interval(), run.forwards.close_interval()
    rate = run.state.optimizer.param_groups[0]["lr"]
    is_last = run.state.iteration == run.length.total_iterations
    for reading in run.monitor.close_interval(run.state.iteration, is_last=is_last):
        losses = {name: value for name, value in reading.means.items() if "loss" in name}
        run.state.history.training.append({"iteration": reading.iteration, "lr": rate, "losses": losses})
        run.reporter.record_interval(
            Interval(
                iteration=reading.iteration,
                losses=losses,
                lr=rate,
                seconds_per_iteration=lap.seconds,
                data_wait_seconds=lap.wait_seconds,
                forward_seconds=forward_seconds,
            )
        )
    return stragglers.encode(forward_seconds, rank=run.world.rank, world_size=run.world.size)


def _raise_if_bad(run: Run, alarm: int) -> None:
    if alarm:
        raise LossNotFinite(run.monitor.explain(alarm))


def _require_sound(run: Run) -> None:
    """Raise on every rank where a loss of any rank was not finite so far."""
    [alarm] = dist.maximum([run.monitor.check()])
    _raise_if_bad(run, int(alarm))


def _save_if_due(run: Run) -> None:
    """Save at the end of an epoch, and after an interval unless the save before is still being written.

    A state is saved with the figures of all evaluations before it. The end of an epoch waits for them.
    """
    if not run.settings.trains:
        return
    done = run.state.iteration
    if done == run.length.total_iterations:
        _require_sound(run)
    if done == run.first_iteration + 1 and run.world.rank == 0:
        run.saver.prepare(run.state)
    if done % run.length.iterations_per_epoch == 0:
        scoring.settle(run)
        _save(run)
    elif _is_interval_over(run) and run.saver.is_idle() and run.pending is None:
        _save(run)


def _is_interval_over(run: Run) -> bool:
    settings = run.settings.checkpoint
    if (every := settings.interval_iterations) is not None:
        return run.state.iteration // every > max(0, run.copied_iteration) // every
    seconds = settings.interval_seconds
    return seconds is not None and time.monotonic() - run.copied_at >= seconds


def _save(run: Run, *, stopping: bool = False) -> None:
    """Have rank 0's saver copy and write the state, unless it has it or nobody will need it."""
    if run.world.rank != 0 or not run.settings.trains or run.copied_iteration == run.state.iteration:
        return
    check, monitor = run.monitor.later_check(), run.monitor

    def require_sound() -> None:
        if alarm := check():
            raise LossNotFinite(monitor.explain(alarm))

    with run.reporter.stage(Stage.CHECKPOINTING):
        reporting.note_time(run, stopping=stopping)
        run.saver.save(run.state, epoch=run.length.epoch(run.state.iteration), require_sound=require_sound)
    run.copied_iteration, run.copied_at = run.state.iteration, time.monotonic()
    run.timer.resume()


def _finish_save(run: Run) -> None:
    """Let what is being written become durable before a rank ends that failed or lost its peers."""
    if run.saver.last_error is None:
        run.saver.wait(_LAST_SAVE_SECONDS)


def _ends_early(run: Run) -> bool:
    """Whether no evaluation has got better for too long; the same on every rank."""
    if (reason := reported.early_end(run)) is None:
        return False
    run.reporter.record_early_end(reason, iteration=run.state.iteration)
    return True
