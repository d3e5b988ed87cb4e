"""Everything that must be there before the first iteration, put together from settings and recipe."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

import torch
from torch import nn

from kubedet_trainer import config, contract, dist
from kubedet_trainer.config import BatchPlan, Recipe
from kubedet_trainer.contract import CheckpointStatus, Task
from kubedet_trainer.data import loader, opening
from kubedet_trainer.data.loader import Loader
from kubedet_trainer.data.prepare import prepare_dataset
from kubedet_trainer.data.sampler import Plan
from kubedet_trainer.data.splits import Split
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.evaluation.analysis import Analysis
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.reports import files
from kubedet_trainer.settings import RunSettings
from kubedet_trainer.storage.uris import open_store
from kubedet_trainer.telemetry import memory
from kubedet_trainer.telemetry.metrics import Metrics
from kubedet_trainer.telemetry.monitor import ForwardTimer, LossMonitor, StepTimer
from kubedet_trainer.telemetry.recovery import RankTimes
from kubedet_trainer.telemetry.report import Reporter, TrainingLength
from kubedet_trainer.training import best, capacity, compiling, initial, optim, restore
from kubedet_trainer.training.checkpoint import Checkpointer, Origin
from kubedet_trainer.training.compiling import Compilation
from kubedet_trainer.training.device import set_arithmetic
from kubedet_trainer.training.local_copy import copy_file
from kubedet_trainer.training.manifest import Located
from kubedet_trainer.training.saver import Saver
from kubedet_trainer.training.scorer import Pending
from kubedet_trainer.training.signals import StopRequest
from kubedet_trainer.training.source import Source
from kubedet_trainer.training.state import TrainState

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The two splits, and how the training one is shared."""

    train: Split
    val: Split | None
    """None where training is not evaluated."""
    test: Split | None
    """Evaluated once at the end; None where there is none."""
    left_out: dict[str, int]
    """How many images and objects of the training split are not learnt, by the reason."""
    batch: BatchPlan
    sampling: Plan
    pipeline: Pipeline
    """Of training; validation does not flip."""

    @property
    def classes(self) -> list[str]:
        """Names of the labels 1, 2, ..."""
        return list(self.train.annotations.classes)


@dataclass(kw_only=True)
class Run:
    """All that the loop works with."""

    settings: RunSettings
    recipe: Recipe
    world: dist.World
    data: RunData
    state: TrainState
    detector: Detector
    """The model of `state`."""
    model: nn.Module
    """The detector with its gradients averaged over the ranks."""
    compilation: Compilation | None
    """None where the recipe asks for none."""
    length: TrainingLength
    checkpointer: Checkpointer
    saver: Saver
    """Saves what rank 0 hands over."""
    reporter: Reporter
    monitor: LossMonitor
    forwards: ForwardTimer
    stop: StopRequest
    generator: torch.Generator
    """Seeded again for every chunk; carries nothing from one chunk to the next."""
    first_iteration: int
    """Iterations that were done when this process started."""
    saved_iteration: int
    """Of the newest durable checkpoint that this rank knows of, -1 before there is one."""
    copied_iteration: int
    """Of the newest state that rank 0's saver was given or this run resumed from, -1 before there is one."""
    measured_uri: str | None = None
    """Of the weights that are measured; None where the run trains its own."""
    pending: Pending | None = None
    """The evaluation that is being scored, on every rank."""
    analysis: Analysis | None = None
    """Of the newest evaluation of the validation split."""
    copied_at: float = field(default_factory=time.monotonic)
    timer: StepTimer = field(default_factory=StepTimer)

    def note_memory(self) -> None:
        """Keep the peak of the training, before other work can raise it."""
        peak = memory.peak_bytes(self.world.device, kind=self.recipe.memory_kind)
        self.state.history.peak_bytes = max(self.state.history.peak_bytes, peak)

    def batches(self, *, end_iteration: int) -> Loader:
        """This rank's batches, from the iteration that the state has reached up to `end_iteration`."""
        return loader.train_loader(
            self.data.train,
            plan=self.data.sampling,
            pipeline=self.data.pipeline,
            world=self.world,
            images_per_pass=self.data.batch.images_per_pass,
            start_iteration=self.state.iteration,
            end_iteration=end_iteration,
            num_workers=self.recipe.data.num_workers,
        )


def prepare(
    settings: RunSettings,
    recipe: Recipe,
    *,
    world: dist.World,
    stop: StopRequest,
    metrics: Metrics,
    start: RankTimes | None = None,
) -> Run:
    """Open the data, build the model and restore the newest state.

    Raises:
        TrainerError: the data, the weights or the checkpoints are not what they must be.
    """
    reporter = _build_reporter(settings, world=world, metrics=metrics, start=start)
    set_arithmetic(recipe, device=world.device)
    measured = initial.read_measured(settings, recipe, world=world, waiting=reporter.beat_waiting)
    data = _prepare_data(settings, recipe, world=world, measured=measured)
    detector, compilation = _build_detector(recipe, data=data, device=world.device)
    state = TrainState(
        model=detector,
        optimizer=optim.build_optimizer(detector, config=recipe.optimizer),
        scaler=torch.amp.GradScaler(world.device.type, enabled=recipe.precision == "fp16"),
        global_batch=data.batch.global_batch,
    )
    checkpointer = _open_checkpoints(settings, recipe, classes=data.classes, world=world)
    _restore_or_initialise(
        state,
        measured,
        settings=settings,
        recipe=recipe,
        classes=data.classes,
        checkpointer=checkpointer,
        world=world,
        reporter=reporter,
    )
    reporter.begin(length := _length(settings, recipe, data=data), iteration=state.iteration)
    reporter.record_reference(_reference(recipe))
    return Run(
        settings=settings,
        recipe=recipe,
        world=world,
        data=data,
        state=state,
        detector=detector,
        model=dist.wrap(detector),
        compilation=compilation,
        length=length,
        checkpointer=checkpointer,
        saver=_build_saver(checkpointer, settings=settings, reporter=reporter),
        reporter=reporter,
        monitor=LossMonitor(world.device),
        forwards=ForwardTimer(world.device),
        stop=stop,
        generator=torch.Generator(device=world.device),
        first_iteration=state.iteration,
        saved_iteration=state.iteration or -1,
        copied_iteration=state.iteration or -1,
        measured_uri=None if measured is None else measured.uri,
    )


def _build_reporter(
    settings: RunSettings, *, world: dist.World, metrics: Metrics, start: RankTimes | None
) -> Reporter:
    return Reporter(
        world=world,
        work_directory=settings.work_directory,
        metrics=metrics,
        hang_median_steps=settings.hang_median_steps,
        start=start,
    )


def _length(settings: RunSettings, recipe: Recipe, *, data: RunData) -> TrainingLength:
    epochs = recipe.schedule.epochs
    iterations = data.sampling.iterations_per_epoch
    return TrainingLength(
        total_iterations=epochs * iterations if settings.trains else settings.benchmark_iterations,
        iterations_per_epoch=iterations,
        evaluations=epochs // max(1, settings.evaluate_every_epochs) if data.val and settings.trains else 0,
    )


def _prepare_data(
    settings: RunSettings, recipe: Recipe, *, world: dist.World, measured: Source | None
) -> RunData:
    """Open the data set, which the launcher has made local, and plan its batches.

    The data set must have the classes of weights that are `measured`.

    Raises:
        InvalidInput, MissingInput: the data break a rule, or the splits have different classes.
    """
    work = settings.work_directory
    local = prepare_dataset(settings.dataset, work / contract.DATASET_DIRECTORY)
    classes = None if measured is None else measured.weights.classes
    dataset = opening.open_dataset(
        local, recipe.data, settings=settings.dataset, directory=work, classes=classes
    )
    left_out = dataset.left_out(recipe.data) if settings.dataset.train else {}
    if world.rank == 0:
        opening.log_findings(dataset, left_out)
    batch = _plan_batch(settings, recipe, world=world)
    if batch.lr_scale != 1:
        _log.warning(
            "%d processes use %d images per step, not %d; the learning rate becomes %.3g times the recipe's",
            world.size,
            batch.global_batch,
            recipe.global_batch,
            batch.lr_scale,
        )
    return RunData(
        train=dataset.train,
        val=dataset.val,
        test=dataset.test,
        left_out=left_out,
        batch=batch,
        sampling=loader.sampling_plan(
            dataset.train,
            images_per_process=recipe.data.images_per_process,
            global_batch=batch.global_batch,
            seed=recipe.seed,
        ),
        pipeline=Pipeline.of_training(recipe.data),
    )


def _plan_batch(settings: RunSettings, recipe: Recipe, *, world: dist.World) -> BatchPlan:
    """How the ranks share a step, and as many images at a time as the smallest of their GPUs holds."""
    batch = config.plan_batch(
        global_batch=recipe.global_batch,
        images_per_process=recipe.data.images_per_process,
        world_size=world.size,
        policy=settings.batch_policy,
    )
    if not recipe.data.fills_memory or world.device.type == "cpu":
        return batch
    most = capacity.read_most_images(settings.work_directory)
    is_unknown, fewest = dist.maximum([most is None, -(most or 0)])
    if is_unknown:  # to one worker at least
        return batch
    filled = batch.filling(round(-fewest))
    _log.info(
        "%d images at a time fit the GPUs of all ranks; each takes its %d images of a step in %d passes",
        filled.images_per_pass,
        filled.images_per_pass * filled.accumulation_steps,
        filled.accumulation_steps,
    )
    return filled


def _build_detector(
    recipe: Recipe, *, data: RunData, device: torch.device
) -> tuple[Detector, Compilation | None]:
    """With the recipe's initial weights, the same on every rank, and compiled if the recipe says so."""
    torch.manual_seed(recipe.seed)
    num_classes = len(data.classes) + 1  # the background is one
    detector = recipe.build(num_classes=num_classes).to(device).train()
    images = data.batch.images_per_pass
    return detector, compiling.compile_detector(detector, recipe, images=images, device=device)


def _open_checkpoints(
    settings: RunSettings, recipe: Recipe, *, classes: list[str], world: dist.World
) -> Checkpointer:
    checkpointer = Checkpointer(
        best.keeping_best(settings, recipe.evaluation_kind),
        origin=Origin(
            recipe=config.recipe_to_dict(recipe),
            classes=classes,
            job=settings.job_name,
            attempt=settings.attempt,
            world_size=world.size,
        ),
        copy=copy_file(settings.work_directory),
    )
    if world.rank == 0:
        checkpointer.require_writable()
        if settings.task is Task.MEASURE:
            _require_no_training(settings)
    return checkpointer


def _require_no_training(settings: RunSettings) -> None:
    """Refuse to write a measurement over the report of a training."""
    place = settings.checkpoint
    try:
        known = files.read_report(open_store(place.uri, place.credentials))
    except (MissingInput, InvalidInput):
        return
    if known.get("task") != Task.MEASURE:
        raise InvalidInput(
            f"checkpoint.storageUri: {place.uri} has the report of a training, must be another place: a "
            "measurement would replace it"
        )


def _build_saver(checkpointer: Checkpointer, *, settings: RunSettings, reporter: Reporter) -> Saver:
    return Saver(
        checkpointer,
        patience_seconds=settings.checkpoint.save_deadline_seconds,
        on_failure=reporter.record_checkpoint_failure,
        mark=settings.work_directory / contract.SAVING_FILE,
    )


def _restore_or_initialise(
    state: TrainState,
    measured: Source | None,
    *,
    settings: RunSettings,
    recipe: Recipe,
    classes: list[str],
    checkpointer: Checkpointer,
    world: dist.World,
    reporter: Reporter,
) -> None:
    """Load what is `measured` into `state`, else the newest checkpoint or the pretrained weights."""
    if measured is not None:
        initial.load_measured(state, measured, world=world)
        return
    started = time.perf_counter()
    restored = restore.read_on_every_rank(
        lambda file: checkpointer.fetch(target=file),
        checkpointer=checkpointer,
        settings=settings,
        world=world,
        waiting=reporter.beat_waiting,
    )
    if restored is None:
        initial.load_initial(
            state,
            settings=settings,
            recipe=recipe,
            classes=classes,
            world=world,
            waiting=reporter.beat_waiting,
        )
        return
    state.load_state_dict(restored.state)
    located = restored.located
    if not checkpointer.is_own(located.uri):  # what another run has cost
        state.history.starts.clear()
        state.history.spent.clear()
    if located.manifest.metrics and located.manifest.iteration == state.iteration:
        state.history.note_evaluation(state.iteration, located.manifest.metrics)
    if world.rank == 0:
        seconds, evaluations = time.perf_counter() - started, state.history.evaluations
        newest = evaluations[-1]["metrics"] if evaluations else None
        reporter.record_restore(seconds=seconds, status=_status(located), evaluation=newest)


def _reference(recipe: Recipe) -> dict[str, float]:
    """The published figures of a recipe, and the images a second that they come to."""
    row = recipe.published
    return {} if row is None else {**row.as_results(), "imagesPerSecond": row.images_per_second}


def _status(located: Located) -> CheckpointStatus:
    manifest = located.manifest
    return CheckpointStatus(
        latest=located.uri,
        iteration=manifest.iteration,
        time=manifest.time,
        sizeBytes=manifest.sizeBytes,
        saveSeconds=0.0,
        stallSeconds=0.0,
    )
