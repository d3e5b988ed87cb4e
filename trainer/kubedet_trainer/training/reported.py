"""When a training ends before its last epoch, and which of its checkpoints the row reports."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from kubedet_trainer.contract import ReportedCheckpoint
from kubedet_trainer.training import best, restore
from kubedet_trainer.training.setup import Run

_log = logging.getLogger(__name__)


def may_be_last(run: Run) -> bool:
    """Whether the training may end with an evaluation of the present weights: it depends on the figures."""
    limit = run.settings.stop_after
    if not run.settings.trains or run.state.iteration >= run.length.total_iterations:
        return True
    metric = best.metric_of(run.settings.checkpoint, run.recipe.evaluation_kind)
    since = best.evaluations_since_best(run.state.history.evaluations, metric=metric)
    return 0 < limit <= since + 1


def may_be_row(run: Run) -> bool:
    """Whether the figures of the present weights may become those of the row."""
    return run.settings.report is ReportedCheckpoint.BEST or may_be_last(run)


def early_end(run: Run) -> str | None:
    """Why the training ends with the present evaluation, in a sentence; None where it goes on."""
    limit, done = run.settings.stop_after, run.state.iteration
    metric = best.metric_of(run.settings.checkpoint, run.recipe.evaluation_kind)
    evaluations = run.state.history.evaluations
    if not limit or done >= run.length.total_iterations or not run.state.history.was_evaluated(done):
        return None
    if best.evaluations_since_best(evaluations, metric=metric) < limit:
        return None
    greatest = best.best_first(evaluations, metric=metric)[0]
    epoch, epochs, best_epoch = map(
        run.length.epoch, (done, run.length.total_iterations, greatest["iteration"])
    )
    return (
        f"stopped after epoch {epoch} of {epochs}: {metric} was not better than "
        f"{greatest['metrics'][metric]:.1f} (epoch {best_epoch}) in {limit} evaluations "
        "(evaluation.stopAfter)"
    )


@dataclass(frozen=True, kw_only=True)
class Reported:
    """The checkpoint whose figures are the row."""

    checkpoint: ReportedCheckpoint
    iteration: int
    epoch: int
    metrics: Mapping[str, float]
    """Of its evaluation; empty where there was none."""


def last(run: Run) -> Reported:
    """The newest checkpoint with the newest evaluation."""
    evaluations = run.state.history.evaluations
    return Reported(
        checkpoint=ReportedCheckpoint.LAST,
        iteration=run.state.iteration,
        epoch=run.length.epoch(run.state.iteration),
        metrics=evaluations[-1]["metrics"] if evaluations else {},
    )


def load_reported(run: Run) -> Reported:
    """Have the model hold the weights that the row reports; every rank must call this.

    Where the best checkpoint is gone, that is the next best one, and at last that of the last iteration.
    """
    state, evaluations = run.state, run.state.history.evaluations
    newest = last(run)
    metric = best.metric_of(run.settings.checkpoint, run.recipe.evaluation_kind)
    order = best.best_first(evaluations, metric=metric)
    if run.settings.report is ReportedCheckpoint.LAST or not order:
        return newest
    if order[0]["iteration"] == state.iteration:
        return replace(newest, checkpoint=ReportedCheckpoint.BEST)
    points = {point["iteration"]: point for point in order}
    restored = restore.read_on_every_rank(
        lambda file: run.checkpointer.fetch_first(list(points), target=file),
        checkpointer=run.checkpointer,
        settings=run.settings,
        world=run.world,
        waiting=run.reporter.beat_waiting,
    )
    if restored is None:
        return newest
    state.model.load_state_dict(restored.state["model"])
    manifest = restored.located.manifest
    _log.info("the row is that of the best checkpoint that there is, after epoch %d", manifest.epoch)
    return Reported(
        checkpoint=ReportedCheckpoint.BEST,
        iteration=manifest.iteration,
        epoch=manifest.epoch,
        metrics=points[manifest.iteration]["metrics"],
    )
