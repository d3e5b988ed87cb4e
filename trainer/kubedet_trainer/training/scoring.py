"""Evaluations of a training: the ranks detect together, and a process of rank 0 scores while they train on.

Figures belong to the iteration whose weights were evaluated, however much later they come. Until then no
state is saved, so that the newest one never lacks an evaluation: after a failure that evaluation is repeated.
Only an evaluation whose figures may end the training is waited for.
"""

from __future__ import annotations

import logging

from kubedet_trainer import dist
from kubedet_trainer.contract import Stage
from kubedet_trainer.errors import TrainerError
from kubedet_trainer.evaluation.scores import VALIDATION_LOSS
from kubedet_trainer.telemetry import memory
from kubedet_trainer.training import reported, reporting, results
from kubedet_trainer.training.scored import Scored
from kubedet_trainer.training.scorer import Pending
from kubedet_trainer.training.setup import Run

_STOP_SECONDS = 5.0
"""How long a training that was asked to stop waits for figures, out of its grace period."""

_log = logging.getLogger(__name__)


def evaluate_if_due(run: Run) -> None:
    """Evaluate at the end of every n-th epoch and of the run, unless that was done before a restart.

    Every rank must call this, and each of the other functions unless it says otherwise.
    """
    if not run.settings.trains or run.data.val is None:
        return
    done, every = run.state.iteration, run.settings.evaluate_every_epochs
    epoch, rest = divmod(done, run.length.iterations_per_epoch)
    is_last = done >= run.length.total_iterations
    is_due = is_last or (rest == 0 and epoch > 0 and every > 0 and epoch % every == 0)
    if not is_due or run.state.history.was_evaluated(done):
        return
    run.note_memory()
    evaluate(run)


def evaluate(run: Run) -> None:
    """Evaluate the present weights on the validation split; the figures come when they are scored."""
    assert run.data.val is not None, "a run that is evaluated has a split"
    assert run.pending is None, "the state before was saved, with all figures"
    with run.reporter.stage(Stage.EVALUATING):
        loss = results.validation_loss(run)
        process = results.start_scoring(
            run, run.data.val, is_judged=reported.may_be_row(run), classes=run.data.classes
        )
        run.pending = Pending(
            iteration=run.state.iteration, process=process, loss=loss, spent=reporting.spent(run)
        )
        dist.barrier(waiting=run.reporter.beat)
        if reported.may_be_last(run):
            _finish(run)
    memory.forget_peak(run.world.device)
    run.timer.resume()


def scored_iteration(run: Run) -> int:
    """Whose figures are there to be taken; 0 if none are, and on other ranks than 0. Costs microseconds."""
    pending = run.pending
    if pending is None or pending.process is None or not pending.process.has_ended():
        return 0
    return pending.iteration


def take_if_scored(run: Run, iteration: int) -> None:
    """Take the pending figures if they are those of `iteration`, on which all ranks agree.

    Raises:
        TrainerError, RuntimeError: scoring has failed; only on rank 0.
    """
    if run.pending is not None and run.pending.iteration == iteration:
        _take(run, _result(run))
        run.timer.resume()


def settle(run: Run) -> None:
    """Wait for pending figures, so that the state is complete."""
    if run.pending is not None:
        with run.reporter.stage(Stage.CHECKPOINTING):
            _finish(run)
        run.timer.resume()


def settle_in_time(run: Run) -> None:
    """Wait for pending figures some seconds only, since the training was asked to stop; then do without."""
    if (pending := run.pending) is None:
        return
    scored, process = None, pending.process
    if process is not None and process.wait(_STOP_SECONDS):
        try:
            scored = process.result()
        except (TrainerError, RuntimeError) as error:  # the state is worth more
            _log.warning("%s", error)
    is_missing = process is not None and scored is None
    if not dist.maximum([is_missing])[0]:
        _take(run, scored)
        return
    run.pending = None
    if process is not None:
        process.kill()
        _log.warning(
            "stopped while the evaluation of iteration %d was scored; its figures are left out",
            pending.iteration,
        )


def abandon(run: Run) -> None:
    """End the process of this rank, if it has one: the rank fails, and will evaluate again."""
    if run.pending is not None and run.pending.process is not None:
        run.pending.process.kill()


def _finish(run: Run) -> None:
    assert run.pending is not None
    results.await_scores(run, run.pending.process)
    _take(run, _result(run))


def _result(run: Run) -> Scored | None:
    assert run.pending is not None
    process = run.pending.process
    return None if process is None else process.result()


def _take(run: Run, scored: Scored | None) -> None:
    """Note rank 0's figures on every rank, because all of them decide by these whether to continue."""
    pending = run.pending
    assert pending is not None
    metrics = dist.broadcast(_metrics(pending, scored), waiting=run.reporter.beat)
    run.pending = None
    run.state.history.note_evaluation(pending.iteration, metrics)
    run.state.history.spent.append(pending.spent)
    if scored is not None:
        run.reporter.record_evaluation(pending.iteration, metrics=metrics)
        if run.settings.trains:
            run.saver.add_metrics(pending.iteration, metrics)
        results.publish_evaluation(run, pending.iteration, scored=scored)


def _metrics(pending: Pending, scored: Scored | None) -> dict[str, float]:
    figures = {} if scored is None else dict(scored.figures)
    return figures if pending.loss is None else {**figures, VALIDATION_LOSS: pending.loss}
