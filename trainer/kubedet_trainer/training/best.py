"""Which evaluation of a run is its best, and how long ago that was.

All of it follows from the evaluations in the history of the state. They are saved with each checkpoint and
are the same on every rank, so a run that resumes decides as if nothing had happened. Pruning takes the same
order, of what the manifests say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kubedet_trainer.config.recipe import EvaluationKind
from kubedet_trainer.contract import ReportedCheckpoint
from kubedet_trainer.evaluation.scores import rank
from kubedet_trainer.settings import CheckpointSettings, RunSettings

_METRICS: Mapping[EvaluationKind, str] = {
    "bbox": "boxAP",
    "segm": "boxAP",
    "voc": "boxAP",
    "proposal": "ar1000",
}
"""What evaluations of each kind are compared by, unless `checkpoint.keepBest` names another metric."""

Evaluations = Sequence[Mapping[str, Any]]
"""As in `state.History.evaluations`."""


def metric_of(settings: CheckpointSettings, kind: EvaluationKind) -> str:
    """What evaluations are compared by. Greater is better, except for the validation loss."""
    return settings.keep_best_metric or _METRICS[kind]


def keeping_best(settings: RunSettings, kind: EvaluationKind) -> CheckpointSettings:
    """The settings of checkpoints, under which the one that the row reports is kept until the end."""
    if settings.report is ReportedCheckpoint.LAST:
        return settings.checkpoint
    return replace(settings.checkpoint, keep_best_metric=metric_of(settings.checkpoint, kind))


def best_first(evaluations: Evaluations, *, metric: str) -> list[Mapping[str, Any]]:
    """The evaluations with a finite value of the metric, best first.

    Of equal ones the earlier comes first: the later one is no improvement.
    """
    found = [point for point in evaluations if math.isfinite(point["metrics"].get(metric, math.nan))]
    return sorted(found, key=lambda point: (rank(metric, point["metrics"][metric]), point["iteration"]))


def evaluations_since_best(evaluations: Evaluations, *, metric: str) -> int:
    """How many evaluations came after the best one."""
    order = best_first(evaluations, metric=metric)
    found = [point["iteration"] for point in evaluations if metric in point["metrics"]]
    return len(found) - 1 - found.index(order[0]["iteration"]) if order else 0
