"""The report of a run: what it was asked to do, on what data, where its time went, what came of it.

Only rank 0 reports. All of it is at hand or costs milliseconds, so a report is written after each evaluation.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from kubedet_trainer import config, contract, recipes
from kubedet_trainer.config import Recipe
from kubedet_trainer.contract import Failure, ReportedCheckpoint, Results
from kubedet_trainer.contract.times import format_now
from kubedet_trainer.data.splits import Split
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.reports import files, lifetime
from kubedet_trainer.reports.document import (
    BestEvaluation,
    Change,
    DataFacts,
    Report,
    RunFacts,
    SplitFacts,
    Start,
    TimeFacts,
)
from kubedet_trainer.storage.uris import open_store
from kubedet_trainer.telemetry import memory
from kubedet_trainer.training import best
from kubedet_trainer.training.setup import Run

_PACKAGES = ("kubedet", "torch", "torchvision", "numpy", "pycocotools", "hotcoco")


def note_start(run: Run) -> None:
    """Note in the history that rank 0 begins here, or begins again."""
    run.state.history.starts.append({
        "time": format_now(),
        "attempt": run.settings.attempt,
        "processRestart": run.world.restarts,
        "iteration": run.state.iteration,
        "worldSize": run.world.size,
        "cause": _cause(run),
    })  # fmt: skip
    note_time(run)


def note_time(run: Run, *, stopping: bool = False) -> None:
    """Note in the history what the time went into until now. The next checkpoint keeps it."""
    run.state.history.starts[-1] |= {**asdict(run.reporter.time_spent()), "isStopped": stopping}


def spent(run: Run) -> dict[str, float]:
    """What the present weights have cost, for the history."""
    note_time(run)
    time = _time(run)
    return {
        "iteration": run.state.iteration,
        "seconds": round(sum(time.seconds.values()), 1),
        "gpuSeconds": time.gpuSeconds,
    }


def build_report(run: Run, row: Results, *, peak_bytes: float, is_finished: bool) -> Report:
    """The report of the run so far, with its `row` as far as that is known."""
    note_time(run)
    history = run.state.history
    state_bytes = memory.state_bytes(run.state.model, run.state.optimizer)
    return Report(
        **vars(row),
        run=_run_facts(run, is_finished=is_finished),
        data=DataFacts(
            uri=run.settings.dataset.uri,
            format=run.settings.dataset.format,
            classes=run.data.classes,
            splits=[_split_facts(name, split) for name, split in _splits(run).items() if split is not None],
        ),
        pretrained=history.pretrained,
        training=history.training,
        evaluations=history.evaluations,
        spent=history.spent,
        best=_best(run),
        analysis=run.analysis or _known_analysis(run),
        analysedIteration=analysed_iteration(run),
        memoryBytes={**state_bytes, "peak": int(peak_bytes)},
        time=_time(run),
    )


def _splits(run: Run) -> dict[str, Split | None]:
    train = {"train": run.data.train} if run.settings.dataset.train else {}
    return {**train, "val": run.data.val, "test": run.data.test}


def _time(run: Run) -> TimeFacts:
    return lifetime.account(
        run.state.history.starts, iteration=run.state.iteration, on_gpu=run.world.device.type == "cuda"
    )


def _known_analysis(run: Run) -> dict[str, Any] | None:
    """What another process of this run made of the same evaluation, before this one began."""
    try:
        known = files.read_report(
            open_store(run.settings.checkpoint.uri, run.settings.checkpoint.credentials)
        )
    except (MissingInput, InvalidInput):
        return None
    is_same = known.get("analysedIteration") == analysed_iteration(run)
    return known.get("analysis") if is_same else None


def analysed_iteration(run: Run) -> int | None:
    """Whose evaluation the report analyses: that of the row, as far as is known by now."""
    evaluations: Sequence[Mapping[str, Any]] = run.state.history.evaluations
    if run.settings.report is ReportedCheckpoint.BEST:
        evaluations = best.best_first(evaluations, metric=_main_figure(run))[:1]
    return evaluations[-1]["iteration"] if evaluations else None


def _main_figure(run: Run) -> str:
    return best.metric_of(run.settings.checkpoint, run.recipe.evaluation_kind)


def _cause(run: Run) -> str | None:
    """Why this rank is started again; None for the first start, and where it is not known."""
    if not run.world.restarts:
        return run.settings.restart_cause
    folder = run.settings.work_directory / contract.FAILURES_DIRECTORY
    newest = max(folder.glob("rank-*.json"), key=lambda file: file.stat().st_mtime, default=None)
    if newest is None:
        return "a rank of the worker ended without a record, as a killed one does"
    failure = Failure(**json.loads(newest.read_text()))
    return f"{failure.reason}: {failure.message}"


def _run_facts(run: Run, *, is_finished: bool) -> RunFacts:
    starts, now = run.state.history.starts, format_now()
    known = Start.__dataclass_fields__
    return RunFacts(
        job=run.settings.job_name,
        image=run.settings.image,
        startTime=starts[0]["time"],
        updateTime=now,
        endTime=now if is_finished else None,
        iteration=run.state.iteration,
        totalIterations=run.length.total_iterations,
        iterationsPerEpoch=run.length.iterations_per_epoch,
        changes=_changes(run.recipe),
        settings=config.recipe_to_dict(run.recipe),
        versions=_versions(),
        starts=[Start(**{name: start[name] for name in known}) for start in starts],
    )


def _changes(recipe: Recipe) -> list[Change]:
    """What differs from the recipe of that name."""
    own = recipes.read_recipe(recipe.name)
    ours, theirs = config.recipe_to_dict(recipe), config.recipe_to_dict(own)
    before = config.recipe_changes(recipe, theirs)
    return [
        Change(field=field, recipe=before[field], run=value)
        for field, value in config.recipe_changes(own, ours).items()
    ]


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
    if torch.version.cuda:
        versions["CUDA"] = torch.version.cuda
    return versions


def _split_facts(name: str, split: Split) -> SplitFacts:
    annotations, rows = split.annotations, np.unique(split.rows)
    counts = annotations.ground_truth_counts()
    image_rows = np.repeat(np.arange(len(annotations)), np.diff(annotations.box_offsets))
    chosen = ~annotations.crowd & np.isin(image_rows, rows)
    of_class = np.bincount(annotations.labels[chosen], minlength=len(annotations.classes) + 1)[1:]
    return SplitFacts(
        name=name,
        images=len(rows),
        emptyImages=int((counts[rows] == 0).sum()),
        objects=int(counts[rows].sum()),
        objectsOfClass=of_class.tolist(),
    )


def _best(run: Run) -> BestEvaluation | None:
    metric = _main_figure(run)
    order = best.best_first(run.state.history.evaluations, metric=metric)
    if not order:
        return None
    iteration = order[0]["iteration"]
    return BestEvaluation(
        metric=metric,
        value=order[0]["metrics"][metric],
        iteration=iteration,
        epoch=run.length.epoch(iteration),
    )
