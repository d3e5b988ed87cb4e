"""What one run was asked to do: the environment of the contract, parsed once and typed.

The launcher and every rank read the same environment. Nothing else of the trainer reads `os.environ`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from kubedet_trainer.contract import METRICS_PORT, BatchPolicy, Environment, ReportedCheckpoint, Task
from kubedet_trainer.errors import UsageError

_Choice = TypeVar("_Choice", bound=StrEnum)


@dataclass(frozen=True, kw_only=True)
class StoreCredentials:
    """How to reach the object store of one URI. All None: the store needs no credentials."""

    endpoint: str | None = None
    """``https://host:port``; a plain ``http://`` means no TLS."""
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    ca: str | None = field(default=None, repr=False)
    """PEM text of the authority that signed the store's certificate."""


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """Where the data lies. Paths of images and annotations are relative to `uri`."""

    uri: str
    """``s3://bucket/prefix``, ``file:///path`` (a mounted claim too) or ``synthetic://shapes``."""
    format: str = "COCO"
    """``COCO``; ``VOC``, whose annotations are lists of image sets and whose images are next to them; or
    ``YOLO``, whose annotations are the file ``data.yaml``, which says where all else lies."""
    train_images: str = "train2017"
    train_annotations: str = "annotations/instances_train2017.json"
    val_images: str = "val2017"
    val_annotations: str = "annotations/instances_val2017.json"
    train: bool = True
    """Whether the training split is read; a measurement takes its steps on the validation split."""
    validate: bool = True
    """Whether there is a validation split; without one there are no figures."""
    test_images: str = ""
    test_annotations: str = ""
    """Of a split that the final weights are evaluated on once; empty for none."""
    proposals_uri: str | None = None
    """Folder or prefix of what `kubedet propose` writes; only Fast R-CNN needs it."""
    proposals_credentials: StoreCredentials | None = None
    """How `proposals_uri` is reached; None: as the data set."""
    credentials: StoreCredentials = StoreCredentials()


DATASET_DEFAULTS: Mapping[str, DatasetSettings] = {
    "COCO": DatasetSettings(uri=""),
    "VOC": DatasetSettings(
        uri="",
        format="VOC",
        train_images="",
        train_annotations="VOC2007/ImageSets/Main/trainval.txt,VOC2012/ImageSets/Main/trainval.txt",
        val_images="",
        val_annotations="VOC2007/ImageSets/Main/test.txt",
    ),
    "YOLO": DatasetSettings(
        uri="",
        format="YOLO",
        train_images="",
        train_annotations="data.yaml",
        val_images="",
        val_annotations="data.yaml",
    ),
}
"""By format, the usual paths: those of COCO 2017, of VOC 2007 and 2012, and of any YOLO data set."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """Where and how often state is kept. Without either interval: at the end of every epoch only."""

    uri: str
    credentials: StoreCredentials = StoreCredentials()
    interval_seconds: int | None = None
    interval_iterations: int | None = None
    keep_last: int = 3
    keep_best_metric: str | None = None
    keep_best_count: int = 1
    save_deadline_seconds: int = 1800
    """How long saves may fail before the run ends."""
    resume: str = "Auto"
    """``Auto``: the newest valid checkpoint below `uri`; ``Never``; or the URI of one checkpoint."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """One run of one recipe, as the operator (or the command line) asks for it."""

    recipe: str
    dataset: DatasetSettings
    checkpoint: CheckpointSettings
    task: Task = Task.TRAIN
    job_name: str = "run"
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Dotted field of the recipe -> value as text, ``{"optimizer.lr": "0.01"}``."""
    pretrained_uri: str | None = None
    pretrained_sha256: str | None = None
    weights_mirror: str | None = None
    """Base address that the recipe's own weights are fetched from instead of the published one."""
    write_proposals: bool = False
    """Whether an RPN writes its proposals for both splits next to its checkpoints in the end."""
    evaluate_every_epochs: int = 1
    stop_after: int = 0
    """Evaluations in a row without a better one after which training ends; 0 trains to the end."""
    report: ReportedCheckpoint = ReportedCheckpoint.LAST
    """The checkpoint whose figures are the row."""
    benchmark_images: int = 200
    """Validation images timed for the frames per second; 0 skips the measurement."""
    benchmark_iterations: int = 200
    """Training steps of a run that trains nothing, for their time and memory."""
    min_replicas: int = 1
    """The fewest replicas that train."""
    max_replicas: int = 1
    """The most; more than `min_replicas` for an elastic run."""
    batch_policy: BatchPolicy = BatchPolicy.KEEP_GLOBAL
    replica_index: int = 0
    procs_per_replica: int = 1
    gpus: int = 0
    """GPUs per replica; 0 means CPU and gloo."""
    attempt: int = 0
    image: str | None = None
    """Of the container, for the report."""
    restart_cause: str | None = None
    """Why the attempt before failed, for the report."""
    rendezvous_endpoint: str | None = None
    """``host:port`` of the rendezvous store; None with one replica, which needs none."""
    rendezvous_id: str = "local"
    local_address: str | None = None
    """The address that the other replicas reach this one at."""
    metrics_port: int = METRICS_PORT
    work_directory: Path = Path("/tmp/kubedet")
    """Scratch of this replica: downloads, caches, records of the ranks."""
    termination_message_path: Path | None = None
    grace_seconds: int = 120
    """Seconds between SIGTERM and SIGKILL; the state must be saved within it."""
    hang_timeout_seconds: int = 600
    """Seconds without any sign of life after which a rank counts as hung."""
    hang_median_steps: int = 0
    """So many times the median step, likewise for a step; 0: only the seconds count."""

    @property
    def trains(self) -> bool:
        """Whether the run trains to the end and keeps what it has trained."""
        return self.task is Task.TRAIN


def read_settings(environment: Mapping[str, str]) -> RunSettings:
    """The settings in `environment`, defaults for what is absent or empty.

    Raises:
        UsageError: a required variable is absent, or a value is not of its type.
    """
    get = _Reader(environment)
    replicas = get.integer(Environment.REPLICAS, 1)
    max_replicas = get.integer(Environment.MAX_REPLICAS, replicas)
    if (endpoint := get.optional(Environment.RENDEZVOUS_ENDPOINT)) is None and max_replicas > 1:
        raise UsageError(
            f"{Environment.RENDEZVOUS_ENDPOINT}: absent, must be host:port with several replicas"
        )
    task = get.choice(Environment.TASK, Task.TRAIN)
    dataset = replace(_read_dataset(get), train=task is not Task.MEASURE)
    if not dataset.validate:
        _require_no_comparison(get)
        if not dataset.train:
            raise UsageError(
                f"{Environment.VALIDATE}: got 'false', must be true with {Environment.TASK} {task}"
            )
    message_path = get.optional(Environment.TERMINATION_MESSAGE_PATH)
    return RunSettings(
        recipe=get.required(Environment.RECIPE),
        dataset=dataset,
        checkpoint=_read_checkpoint(get),
        task=task,
        job_name=get.text(Environment.JOB_NAME, "run"),
        overrides=get.table(Environment.OVERRIDES),
        pretrained_uri=get.optional(Environment.PRETRAINED_URI),
        pretrained_sha256=get.optional(Environment.PRETRAINED_SHA256),
        weights_mirror=get.optional(Environment.WEIGHTS_MIRROR),
        write_proposals=get.boolean(Environment.WRITE_PROPOSALS, False),
        evaluate_every_epochs=get.integer(Environment.EVALUATE_EVERY_EPOCHS, 1),
        stop_after=get.integer(Environment.EVALUATION_STOP_AFTER, 0),
        report=get.choice(Environment.EVALUATION_REPORT, ReportedCheckpoint.LAST),
        benchmark_images=get.integer(Environment.BENCHMARK_IMAGES, 200),
        benchmark_iterations=get.integer(Environment.BENCHMARK_ITERATIONS, 200),
        min_replicas=get.integer(Environment.MIN_REPLICAS, replicas),
        max_replicas=max_replicas,
        batch_policy=get.choice(Environment.BATCH, BatchPolicy.KEEP_GLOBAL),
        replica_index=get.integer(Environment.REPLICA_INDEX, 0),
        procs_per_replica=get.integer(Environment.PROCS_PER_REPLICA, 1),
        gpus=get.integer(Environment.GPUS, 0),
        attempt=get.integer(Environment.ATTEMPT, 0),
        image=get.optional(Environment.IMAGE),
        restart_cause=get.optional(Environment.RESTART_CAUSE),
        rendezvous_endpoint=endpoint,
        rendezvous_id=get.text(Environment.RENDEZVOUS_ID, "local"),
        local_address=get.optional(Environment.LOCAL_ADDRESS),
        metrics_port=get.integer(Environment.METRICS_PORT, METRICS_PORT),
        work_directory=Path(get.text(Environment.WORK_DIRECTORY, "/tmp/kubedet")),
        termination_message_path=Path(message_path) if message_path else None,
        grace_seconds=get.integer(Environment.GRACE_SECONDS, 120),
        hang_timeout_seconds=get.integer(Environment.HANG_TIMEOUT_SECONDS, 600),
        hang_median_steps=get.integer(Environment.HANG_MEDIAN_STEPS, 0),
    )


def read_dataset_settings(environment: Mapping[str, str]) -> DatasetSettings:
    """The part of `read_settings` about the data set, for commands that need only that.

    Raises:
        UsageError: as `read_settings` does.
    """
    return _read_dataset(_Reader(environment))


def read_checkpoint_settings(environment: Mapping[str, str]) -> CheckpointSettings:
    """The part of `read_settings` about checkpoints, for commands that need only that.

    Raises:
        UsageError: as `read_settings` does.
    """
    return _read_checkpoint(_Reader(environment))


def _require_no_comparison(get: _Reader) -> None:
    """Refuse what compares evaluations where there will be none."""
    for name, default in (
        (Environment.EVALUATION_STOP_AFTER, "0"),
        (Environment.EVALUATION_REPORT, ReportedCheckpoint.LAST),
    ):
        if (value := get.text(name, default)) != default:
            raise UsageError(f"{name}: got '{value}', must be {default} without a validation split")


def _read_dataset(get: _Reader) -> DatasetSettings:
    dataset_format = get.text(Environment.DATASET_FORMAT, "COCO")
    defaults = DATASET_DEFAULTS.get(dataset_format, DATASET_DEFAULTS["COCO"])
    proposals = StoreCredentials(
        endpoint=get.optional(Environment.PROPOSALS_ENDPOINT),
        access_key=get.optional(Environment.PROPOSALS_ACCESS_KEY),
        secret_key=get.optional(Environment.PROPOSALS_SECRET_KEY),
        ca=get.optional(Environment.PROPOSALS_CA),
    )
    return DatasetSettings(
        uri=get.required(Environment.DATASET_URI),
        format=dataset_format,
        train_images=get.text(Environment.TRAIN_IMAGES, defaults.train_images),
        train_annotations=get.text(Environment.TRAIN_ANNOTATIONS, defaults.train_annotations),
        val_images=get.text(Environment.VAL_IMAGES, defaults.val_images),
        val_annotations=get.text(Environment.VAL_ANNOTATIONS, defaults.val_annotations),
        validate=get.boolean(Environment.VALIDATE, True),
        test_images=get.text(Environment.TEST_IMAGES, ""),
        test_annotations=get.text(Environment.TEST_ANNOTATIONS, ""),
        proposals_uri=get.optional(Environment.PROPOSALS_URI),
        proposals_credentials=None if proposals == StoreCredentials() else proposals,
        credentials=StoreCredentials(
            endpoint=get.optional(Environment.DATASET_ENDPOINT),
            access_key=get.optional(Environment.DATASET_ACCESS_KEY),
            secret_key=get.optional(Environment.DATASET_SECRET_KEY),
            ca=get.optional(Environment.DATASET_CA),
        ),
    )


def _read_checkpoint(get: _Reader) -> CheckpointSettings:
    seconds = get.integer(Environment.CHECKPOINT_INTERVAL_SECONDS, 0)
    iterations = get.integer(Environment.CHECKPOINT_INTERVAL_ITERATIONS, 0)
    return CheckpointSettings(
        uri=get.required(Environment.CHECKPOINT_URI),
        credentials=StoreCredentials(
            endpoint=get.optional(Environment.CHECKPOINT_ENDPOINT),
            access_key=get.optional(Environment.CHECKPOINT_ACCESS_KEY),
            secret_key=get.optional(Environment.CHECKPOINT_SECRET_KEY),
            ca=get.optional(Environment.CHECKPOINT_CA),
        ),
        interval_seconds=seconds or None,
        interval_iterations=iterations or None,
        keep_last=get.integer(Environment.CHECKPOINT_KEEP_LAST, 3),
        keep_best_metric=get.optional(Environment.CHECKPOINT_KEEP_BEST_METRIC),
        keep_best_count=get.integer(Environment.CHECKPOINT_KEEP_BEST_COUNT, 1),
        save_deadline_seconds=get.integer(Environment.CHECKPOINT_SAVE_DEADLINE_SECONDS, 1800),
        resume=get.text(Environment.CHECKPOINT_RESUME, "Auto"),
    )


class _Reader:
    """Typed look-ups in an environment; an empty value counts as absent."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def optional(self, name: Environment) -> str | None:
        return self._environment.get(name) or None

    def text(self, name: Environment, default: str) -> str:
        return self.optional(name) or default

    def required(self, name: Environment) -> str:
        if (value := self.optional(name)) is None:
            raise UsageError(f"{name}: absent, must be set")
        return value

    def integer(self, name: Environment, default: int) -> int:
        value = self.optional(name)
        if value is None:
            return default
        if not value.isdecimal():
            raise UsageError(f"{name}: got '{value}', must be a whole number >= 0")
        return int(value)

    def boolean(self, name: Environment, default: bool) -> bool:
        value = self.text(name, str(default).lower())
        if value not in ("true", "false"):
            raise UsageError(f"{name}: got '{value}', must be true or false")
        return value == "true"

    def choice(self, name: Environment, default: _Choice) -> _Choice:
        value = self.text(name, default)
        try:
            return type(default)(value)
        except ValueError:
            choices = ", ".join(type(default))
            raise UsageError(f"{name}: got '{value}', must be one of {choices}") from None

    def table(self, name: Environment) -> dict[str, str]:
        text = self.text(name, "{}")
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"{name}: got '{text}', must be a JSON object ({error})") from error
        if not isinstance(value, dict):
            raise UsageError(f"{name}: got '{text}', must be a JSON object")
        return {str(key): str(item) for key, item in value.items()}
