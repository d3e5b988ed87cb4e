"""The row of a run: evaluation, frames per second, memory, and the report next to the checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from kubedet_trainer import config, contract, dist
from kubedet_trainer.contract import Results, Stage, Task
from kubedet_trainer.data import loader
from kubedet_trainer.data.loader import Loader
from kubedet_trainer.data.splits import Split
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.dist import World
from kubedet_trainer.evaluation import evaluate, loss, speed
from kubedet_trainer.reports import document, files
from kubedet_trainer.storage.files import write_json
from kubedet_trainer.storage.store import Store
from kubedet_trainer.storage.uris import open_store
from kubedet_trainer.structures import Batch
from kubedet_trainer.telemetry import memory
from kubedet_trainer.training import reported, reporting, saving
from kubedet_trainer.training.device import effective_precision
from kubedet_trainer.training.proposals import write_proposals
from kubedet_trainer.training.reported import Reported
from kubedet_trainer.training.scored import Request, Scored
from kubedet_trainer.training.scorer import ScorerProcess
from kubedet_trainer.training.setup import Run

_ROW = ("boxAP", "maskAP", "ar1000")
"""Figures of an evaluation with a field of their own in `Results`, with one digit as in the zoo."""

_log = logging.getLogger(__name__)


def start_scoring(
    run: Run, split: Split, *, is_judged: bool, classes: Sequence[str] = ()
) -> ScorerProcess | None:
    """Detect in the images of a split, and have a process score what all ranks found. All must call this.

    Args:
        run: its present weights, which the saver has.
        split: with its truth.
        is_judged: whether the figures are to be those of pycocotools.
        classes: names of the labels 1, 2, ... for an analysis; without any there is none.

    Returns:
        None on every rank but 0.

    Raises:
        TerminatedSaved, TerminatedUnsaved, PeerFailed: as `saving.end` does, when a rank was asked to stop.
    """
    with saving.stoppable(run) as should_stop:
        detections = evaluate.detect_all(
            run.detector,
            _val_loader(run, split, world=run.world),
            num_images=len(split),
            device=run.world.device,
            should_stop=should_stop,
        )
    if detections is None:
        return None
    request = Request(
        detections=detections,
        split=replace(split, proposals=None),  # of a thousand boxes an image, which nobody scores
        kind=run.recipe.evaluation_kind,
        max_detections=config.detection_limit(run.recipe),
        is_judged=is_judged,
        classes=classes,
    )
    return ScorerProcess(request, folder=run.settings.work_directory)


def await_scores(run: Run, process: ScorerProcess | None) -> None:
    """Wait for rank 0's process. All ranks must call this, and show progress as long as it computes."""
    if process is not None:
        with run.reporter.computing(process.cpu_seconds):
            process.wait()
    dist.barrier(waiting=run.reporter.beat)  # in a step, ranks that wait for rank 0 would seem to hang


def validation_loss(run: Run) -> float | None:
    """The mean loss of some images of the validation split; rank 0's, every rank must call this."""
    split = run.data.val
    assert split is not None, "a run that is evaluated has a split"
    some = replace(split, rows=split.rows[:: -(-len(split) // loss.IMAGES)])
    return loss.validation_loss(
        run.detector,
        _beating(run, _val_loader(run, some, world=run.world, with_masks=True)),
        device=run.world.device,
        seed=run.recipe.seed,
    )


def _beating(run: Run, batches: Loader) -> Iterator[Batch]:
    for batch in batches:
        run.reporter.beat()
        yield batch


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the weights of the row can do, without what training them takes."""

    reported: Reported
    test_metrics: Mapping[str, float] = field(default_factory=dict)
    """Rank 0's, each named ``test.NAME``."""
    proposals_uri: str | None = None
    fps: float | None = None
    """Rank 0's, as the next one."""
    fps_batch8: float | None = None


def take_figures(run: Run) -> Figures:
    """Measure the weights that the row reports, and have the model hold them. Every rank must call this."""
    saving.make_durable(run)
    with run.reporter.stage(Stage.EVALUATING):
        reported_figures = reported.load_reported(run)
    test_metrics = _evaluate_test(run)
    proposals_uri = write_proposals(run)
    fps = fps_batch8 = None
    if run.world.rank == 0:
        with run.reporter.stage(Stage.BENCHMARKING):
            fps = _measure_fps(run, images_per_batch=1)
            is_asked = "inferenceFpsBatch8" in run.recipe.reference
            fps_batch8 = _measure_fps(run, images_per_batch=8) if is_asked else None
    dist.barrier(waiting=run.reporter.beat)
    return Figures(
        reported=reported_figures,
        test_metrics=test_metrics,
        proposals_uri=proposals_uri,
        fps=fps,
        fps_batch8=fps_batch8,
    )


def write_row(run: Run, figures: Figures) -> Results | None:
    """Write the row next to the checkpoints. None on other ranks than 0; every rank must call this."""
    [peak] = dist.maximum([float(run.state.history.peak_bytes)])
    row = None
    if run.world.rank == 0:
        with run.reporter.stage(Stage.BENCHMARKING):
            row = _row(run, figures, peak_bytes=peak)
            _publish(run, row, peak_bytes=peak)
    dist.barrier(waiting=run.reporter.beat)
    return row


def _evaluate_test(run: Run) -> dict[str, float]:
    """The figures of the weights of the row on the test split, each named ``test.NAME``; rank 0's."""
    if (split := run.data.test) is None or run.settings.task is Task.BENCHMARK:
        return {}
    with run.reporter.stage(Stage.EVALUATING):
        process = start_scoring(run, split, is_judged=True)
        await_scores(run, process)
    figures: Mapping[str, float] = {} if process is None else process.result().figures
    return {f"test.{name}": value for name, value in figures.items()}


def _measure_fps(run: Run, *, images_per_batch: int) -> float | None:
    split = run.data.val or run.data.train
    batches = _val_loader(run, split, world=World(device=run.world.device), images_per_batch=images_per_batch)
    fps = speed.measure_fps(
        run.detector,
        run.stop.watch(_beating(run, batches)),
        num_images=min(run.settings.benchmark_images, len(split)),
        device=run.world.device,
    )
    return None if fps is None else round(fps, 2)


def publish_evaluation(run: Run, iteration: int, *, scored: Scored) -> None:
    """Have the report of the run so far stored, with what an evaluation of the validation split gave."""
    pictures = None
    if reporting.analysed_iteration(run) == iteration:
        run.analysis, pictures = scored.analysis, scored.pictures
    peak = run.state.history.peak_bytes
    newest = replace(reported.last(run), iteration=iteration, epoch=run.length.epoch(iteration))
    row = _row(run, Figures(reported=newest), peak_bytes=peak)
    data = document.dump(reporting.build_report(run, row, peak_bytes=peak, is_finished=False))
    run.saver.write_later(
        f"the report of iteration {iteration}",
        lambda: files.write_report(_store(run), data, pictures=pictures),
    )


def _row(run: Run, figures: Figures, *, peak_bytes: float) -> Results:
    history, world, batch = run.state.history, run.world, run.data.batch
    metrics = figures.reported.metrics
    main_figures: dict[str, Any] = {name: round(metrics[name], 1) for name in _ROW if name in metrics}
    on_gpu = world.device.type == "cuda"
    return Results(
        recipe=run.recipe.name,
        task=run.settings.task,
        memoryGB=round(peak_bytes / 2**30, 2) if peak_bytes else None,
        secondsPerIteration=round(history.timed_seconds / timed, 4)
        if (timed := history.timed_iterations)
        else None,
        inferenceFps=figures.fps,
        inferenceFpsBatch8=figures.fps_batch8,
        **main_figures,
        metrics=[
            {"name": name, "value": value} for name, value in {**metrics, **figures.test_metrics}.items()
        ],
        validationImages=len(run.data.val) if metrics and run.data.val is not None else None,
        hardware={
            "accelerator": torch.cuda.get_device_name(world.device) if on_gpu else "cpu",
            "worldSize": world.size,
            "precision": effective_precision(run.recipe.precision, device=world.device),
            **({} if run.compilation is None else {"compiled": run.compilation.obstacle is None}),
            "memoryKind": memory.peak_kind(world.device, kind=run.recipe.memory_kind),
            "timedIterations": history.timed_iterations,
            "globalBatch": batch.global_batch,
            "accumulationSteps": batch.accumulation_steps,
            "learningRateScale": batch.lr_scale,
        },
        reference=dict(run.recipe.reference),
        leftOut=run.data.left_out,
        reportUri=f"{run.settings.checkpoint.uri.rstrip('/')}/{contract.REPORT_FILE}",
        proposalsUri=figures.proposals_uri,
        **_origin(run, figures.reported),
    )


def _origin(run: Run, figures: Reported) -> dict[str, Any]:
    """The fields of the row that say whose figures these are."""
    if run.measured_uri is not None:
        return {"modelUri": run.measured_uri}
    is_saved = run.saved_iteration in (run.state.iteration, figures.iteration)
    return {
        "checkpoint": figures.checkpoint if figures.metrics else None,
        "epoch": figures.epoch,
        "iterations": run.state.iteration,
        "endedEarly": reported.early_end(run),
        "modelUri": run.checkpointer.state_uri(figures.iteration) if is_saved else None,
    }


def _publish(run: Run, row: Results, *, peak_bytes: float) -> None:
    report = reporting.build_report(run, row, peak_bytes=peak_bytes, is_finished=True)
    files.write_report(_store(run), document.dump(report))
    # Last: it shows the launcher, and through it the operator, that everything else is durable.
    own = contract.without_none(asdict(row))
    write_json(run.settings.work_directory / contract.RESULTS_FILE, own)
    _log.info("results", extra={"results": own})


def _store(run: Run) -> Store:
    return open_store(run.settings.checkpoint.uri, run.settings.checkpoint.credentials)


def _val_loader(
    run: Run, split: Split, *, world: World, images_per_batch: int = 1, with_masks: bool = False
) -> Loader:
    data = run.recipe.data
    return loader.val_loader(
        split,
        pipeline=Pipeline.of_validation(data),
        world=world,
        num_workers=data.num_workers,
        images_per_batch=images_per_batch,
        with_masks=with_masks,
    )
