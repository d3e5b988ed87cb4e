"""What the operator and the trainer promise each other, named once.

The operator runs the trainer as a program: environment variables in; exit code, progress record and
termination message out. Both halves take the names from here. It uses only the standard library, so that the
operator's image does not need torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

METRICS_PORT = 9091
"""Default port of a worker for ``/metrics``, ``/progress`` and ``/healthz``."""

RENDEZVOUS_PORT = 29400
"""Port of the rendezvous store, torchrun's default."""

TERMINATION_MESSAGE_BYTES = 4096
"""The most of a termination message that a kubelet keeps for one container."""

LAUNCH_MODULE = "kubedet_trainer.worker.launch"
"""``python -m`` this runs PID 1 of a worker, which starts torchrun and turns its ending into an exit code."""

RENDEZVOUS_MODULE = "kubedet_trainer.worker.rendezvous"
"""``python -m`` this runs the rendezvous store of a job with several workers."""

PROGRESS_FILE = "progress.json"
"""In the work directory: the `ProgressRecord` of rank 0, replaced atomically. Only rank 0's worker has it."""

RESULTS_FILE = "results.json"
"""In the work directory and beside the checkpoints: the `Results`, written by rank 0 at the end."""

FAILURES_DIRECTORY = "failures"
"""In the work directory: one `Failure` as JSON for every rank that failed, named by `failure_file`."""

METRICS_DIRECTORY = "metrics"
"""In the work directory: the metrics of this worker's ranks, as prometheus_client's multiprocess files."""

LOGS_DIRECTORY = "logs"
"""In the work directory: standard output and error of every rank."""

DATASET_DIRECTORY = "dataset"
"""In the work directory: the data set, if it was downloaded or generated."""

CACHE_DIRECTORY = "cache"
"""In the work directory: annotations as arrays, and other files that can be rebuilt."""


def failure_file(rank: int) -> str:
    """Name of the record that a failed rank leaves in `FAILURES_DIRECTORY`."""
    return f"rank-{rank}.json"


class Environment(StrEnum):
    """Every environment variable that the trainer reads; all values are strings.

    `trainer/kubedet_trainer/settings.py` parses them and documents each.
    """

    JOB_NAME = "KUBEDET_JOB_NAME"
    RECIPE = "KUBEDET_RECIPE"
    OVERRIDES = "KUBEDET_OVERRIDES"
    PRETRAINED_URI = "KUBEDET_PRETRAINED_URI"
    PRETRAINED_SHA256 = "KUBEDET_PRETRAINED_SHA256"
    WEIGHTS_MIRROR = "KUBEDET_WEIGHTS_MIRROR"
    DATASET_URI = "KUBEDET_DATASET_URI"
    DATASET_FORMAT = "KUBEDET_DATASET_FORMAT"
    TRAIN_IMAGES = "KUBEDET_TRAIN_IMAGES"
    TRAIN_ANNOTATIONS = "KUBEDET_TRAIN_ANNOTATIONS"
    VAL_IMAGES = "KUBEDET_VAL_IMAGES"
    VAL_ANNOTATIONS = "KUBEDET_VAL_ANNOTATIONS"
    PROPOSALS_URI = "KUBEDET_PROPOSALS_URI"
    DATASET_ENDPOINT = "KUBEDET_DATASET_ENDPOINT"
    DATASET_ACCESS_KEY = "KUBEDET_DATASET_ACCESS_KEY"
    DATASET_SECRET_KEY = "KUBEDET_DATASET_SECRET_KEY"
    DATASET_CA = "KUBEDET_DATASET_CA"
    CHECKPOINT_URI = "KUBEDET_CHECKPOINT_URI"
    CHECKPOINT_ENDPOINT = "KUBEDET_CHECKPOINT_ENDPOINT"
    CHECKPOINT_ACCESS_KEY = "KUBEDET_CHECKPOINT_ACCESS_KEY"
    CHECKPOINT_SECRET_KEY = "KUBEDET_CHECKPOINT_SECRET_KEY"
    CHECKPOINT_CA = "KUBEDET_CHECKPOINT_CA"
    CHECKPOINT_INTERVAL_SECONDS = "KUBEDET_CHECKPOINT_INTERVAL_SECONDS"
    CHECKPOINT_INTERVAL_ITERATIONS = "KUBEDET_CHECKPOINT_INTERVAL_ITERATIONS"
    CHECKPOINT_KEEP_LAST = "KUBEDET_CHECKPOINT_KEEP_LAST"
    CHECKPOINT_KEEP_BEST_METRIC = "KUBEDET_CHECKPOINT_KEEP_BEST_METRIC"
    CHECKPOINT_KEEP_BEST_COUNT = "KUBEDET_CHECKPOINT_KEEP_BEST_COUNT"
    CHECKPOINT_RESUME = "KUBEDET_CHECKPOINT_RESUME"
    EVALUATE_EVERY_EPOCHS = "KUBEDET_EVALUATE_EVERY_EPOCHS"
    BENCHMARK_IMAGES = "KUBEDET_BENCHMARK_IMAGES"
    BENCHMARK_ITERATIONS = "KUBEDET_BENCHMARK_ITERATIONS"
    REPLICAS = "KUBEDET_REPLICAS"
    MIN_REPLICAS = "KUBEDET_MIN_REPLICAS"
    MAX_REPLICAS = "KUBEDET_MAX_REPLICAS"
    BATCH = "KUBEDET_BATCH"
    REPLICA_INDEX = "KUBEDET_REPLICA_INDEX"
    PROCS_PER_REPLICA = "KUBEDET_PROCS_PER_REPLICA"
    GPUS = "KUBEDET_GPUS"
    ATTEMPT = "KUBEDET_ATTEMPT"
    RENDEZVOUS_ENDPOINT = "KUBEDET_RENDEZVOUS_ENDPOINT"
    RENDEZVOUS_ID = "KUBEDET_RENDEZVOUS_ID"
    LOCAL_ADDRESS = "KUBEDET_LOCAL_ADDRESS"
    METRICS_PORT = "KUBEDET_METRICS_PORT"
    WORK_DIRECTORY = "KUBEDET_WORK_DIRECTORY"
    TERMINATION_MESSAGE_PATH = "KUBEDET_TERMINATION_MESSAGE_PATH"
    GRACE_SECONDS = "KUBEDET_GRACE_SECONDS"
    HANG_TIMEOUT_SECONDS = "KUBEDET_HANG_TIMEOUT_SECONDS"
    HANG_MEDIAN_STEPS = "KUBEDET_HANG_MEDIAN_STEPS"


class BatchPolicy(StrEnum):
    """What stays the same when the number of processes changes; the value of `Environment.BATCH`."""

    KEEP_GLOBAL = "KeepGlobal"
    """The images of a step, as far as the processes can divide them evenly."""
    SCALE_LEARNING_RATE = "ScaleLearningRate"
    """The images of each process; the learning rate follows the linear rule of Goyal et al., 2017."""


class FailureClass(StrEnum):
    """Class that a failure is charged to. Each class has its own limit in the operator."""

    PERMANENT = "Permanent"
    APPLICATION = "Application"
    INFRASTRUCTURE = "Infrastructure"
    PEER = "Peer"


class ExitCode(IntEnum):
    """Exit code of a worker's PID 1. Up to 127 a retry is pointless; from 128 on it may help."""

    DONE = 0
    """The final checkpoint and the results are durable."""
    UNEXPECTED = 1
    """An unknown error. Its traceback is in the log."""
    USAGE = 2
    """The command or its environment is wrong."""
    INVALID_INPUT = 65
    """The recipe, an override or the data set breaks a rule."""
    MISSING_INPUT = 66
    """A data set, a file or weights do not exist at the given location."""
    CREDENTIALS_REFUSED = 77
    """The object store refused the credentials."""
    NO_RESTART = 93
    """The program asks not to be restarted."""
    OUT_OF_GPU_MEMORY = 95
    """A GPU has less memory than the training needs."""
    LOSS_NOT_FINITE = 96
    """A term of the loss became NaN or infinite."""
    ABORTED = 134
    """A process aborted (SIGABRT)."""
    KILLED = 137
    """A process was killed (SIGKILL). The reason is `OOMKilled` if the container was out of memory."""
    CRASHED = 139
    """A process crashed (SIGSEGV)."""
    TERMINATED_SAVED = 143
    """The worker was stopped (SIGTERM) and saved its state."""
    TERMINATED_UNSAVED = 144
    """The worker was stopped (SIGTERM) before it could save its state."""
    RENDEZVOUS_LOST = 150
    """The rendezvous store does not answer."""
    PEER_FAILED = 151
    """Another worker failed; this one is not at fault."""
    HANG = 152
    """A rank made no progress for longer than `spec.failurePolicy` allows."""
    GPU_HARDWARE = 153
    """A GPU is broken (Xid, ECC, NVLink). Its node is excluded."""
    STORAGE_UNREACHABLE = 154
    """The object store did not answer, despite retries."""


_CLASSES: dict[int, FailureClass] = {
    ExitCode.TERMINATED_SAVED: FailureClass.INFRASTRUCTURE,
    ExitCode.TERMINATED_UNSAVED: FailureClass.INFRASTRUCTURE,
    ExitCode.RENDEZVOUS_LOST: FailureClass.INFRASTRUCTURE,
    ExitCode.GPU_HARDWARE: FailureClass.INFRASTRUCTURE,
    ExitCode.STORAGE_UNREACHABLE: FailureClass.INFRASTRUCTURE,
    ExitCode.PEER_FAILED: FailureClass.PEER,
}


def failure_class(exit_code: int) -> FailureClass:
    """The class that a non-zero exit code of a worker is charged to.

    Codes outside the table follow PyTorchJob's convention: up to 127 Permanent, above that Application.
    """
    if exit_code < 128:
        return FailureClass.PERMANENT
    return _CLASSES.get(exit_code, FailureClass.APPLICATION)


class Stage(StrEnum):
    """What rank 0 is doing."""

    INITIALIZING = "Initializing"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    CHECKPOINTING = "Checkpointing"
    BENCHMARKING = "Benchmarking"
    DONE = "Done"


class TimePhase(StrEnum):
    """Phases of a job's time. The operator sees the phases around the training, rank 0 those within it."""

    PENDING = "pending"
    """The job waits for quota or for free nodes."""
    STARTING = "starting"
    """The job has its nodes and prepares the training: images, data, weights."""
    RESTORING = "restoring"
    """Rank 0 loads a checkpoint."""
    TRAINING = "training"
    """An iteration is done for the first time. Goodput is this phase divided by the sum of all."""
    DATA_WAIT = "data_wait"
    """An iteration waits for its batch."""
    CHECKPOINT_STALL = "checkpoint_stall"
    """The training pauses while a checkpoint is saved."""
    EVALUATING = "evaluating"
    """The detector's precision and speed are measured, and the results published."""
    RESTARTING = "restarting"
    """From a failure or a resize until the training continues."""
    LOST = "lost"
    """Iterations that had to be repeated, and their repetition."""
    SUSPENDED = "suspended"
    """The job is suspended."""


@dataclass(frozen=True, kw_only=True)
class TimeSpent:
    """Where rank 0's time went, summed over the processes of one worker."""

    since: str
    """Time at which the count began, UTC, RFC 3339. A new value means that another worker counts."""
    iterations: int = 0
    """Iterations done since then, repeated ones included."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by phase, as in the status. Phases that did not occur are left out."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """`status.progress` of a DetectionJob, as rank 0 reports it."""

    stage: Stage
    """What rank 0 is doing at present."""
    epoch: int = 0
    """Current epoch."""
    iteration: int = 0
    """Iterations completed."""
    totalIterations: int = 0
    """Iterations of the whole training."""
    percentage: int = 0
    """Iterations completed, in percent of all."""
    estimatedRemainingSeconds: int | None = None
    """Seconds to the end at the current speed."""
    lastProgressTime: str | None = None
    """Time at which the last iteration ended: UTC, RFC 3339."""
    goodputPercent: int | None = None
    """Training time in percent of all time: of the job's life in its status, elsewhere of `time`."""
    time: TimeSpent | None = None
    """Where the time of rank 0's worker went. None before rank 0 runs."""


@dataclass(frozen=True, kw_only=True)
class CheckpointStatus:
    """`status.checkpoint` of a DetectionJob."""

    latest: str
    """URI of the newest checkpoint."""
    iteration: int
    """Iteration at which it was made."""
    time: str
    """Time at which it became durable: UTC, RFC 3339."""
    sizeBytes: int
    """Size of all its files."""
    saveSeconds: float
    """Seconds from the snapshot to durable storage."""
    stallSeconds: float
    """Seconds for which the training paused for it."""


@dataclass(frozen=True, kw_only=True)
class ProgressRecord:
    """The answer to ``GET /progress``; a worker without rank 0 answers 404 instead."""

    progress: Progress
    checkpoint: CheckpointStatus | None = None
    worldSize: int = 1
    processRestarts: int = 0


@dataclass(frozen=True, kw_only=True)
class Results:
    """A row of the model zoo: `status.results` of a DetectionJob. What does not apply is None."""

    recipe: str | None = None
    """Recipe of the row."""
    memoryGB: float | None = None
    """Peak memory over all ranks, 1 GB = 1024**3 bytes. ``hardware.memoryKind`` says which memory."""
    secondsPerIteration: float | None = None
    """Seconds per training iteration, without the first 50."""
    inferenceFps: float | None = None
    """Images per second at batch size 1, including loading and post-processing."""
    inferenceFpsBatch8: float | None = None
    """The same at batch size 8, for recipes whose published row has it."""
    boxAP: float | None = None
    """Box AP in percent, rounded to one digit as in the zoo. `metrics` has all digits."""
    maskAP: float | None = None
    """Mask AP in percent."""
    ar1000: float | None = None
    """Average recall of 1000 proposals per image, in percent."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """Every figure of the evaluation, unrounded: ``[{"name": "boxAP50", "value": 91.2}, ...]``."""
    hardware: dict[str, Any] = field(default_factory=dict)
    """``accelerator``, ``worldSize``, ``precision``, and ``memoryKind``: what ``memoryGB`` means."""
    reference: dict[str, float] = field(default_factory=dict)
    """The published figures of the same recipe, under the same names."""
    modelUri: str | None = None
    """URI of the final checkpoint."""
    reportUri: str | None = None
    """URI of the full report."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The root cause that a failed worker leaves in its termination message."""

    exitCode: int
    reason: str
    """One CamelCase word: the member of `ExitCode` or the exception's name."""
    message: str
    """One line for a person: path, value, rule, remedy."""
    rank: int | None = None
    time: str | None = None
    lastLines: list[str] = field(default_factory=list)
    """The end of the traceback or log, newest last."""


def dump_termination_message(
    *, results: Results | None = None, failure: Failure | None = None, progress: dict[str, Any] | None = None
) -> str:
    """Results or failure as JSON of at most `TERMINATION_MESSAGE_BYTES` bytes.

    The worker of rank 0 adds the JSON of its newest `ProgressRecord`, which nobody can request any longer.

    A document that is too long loses its least useful part first: the oldest of the last lines, then the end
    of the message; results lose the progress, then the additional metrics.
    """
    document: dict[str, Any] = {}
    if results is not None:
        document["results"] = without_none(asdict(results))
    if failure is not None:
        document["failure"] = without_none(asdict(failure))
    if progress is not None:
        document["progress"] = progress
    while len(text := json.dumps(document, separators=(",", ":"))) > TERMINATION_MESSAGE_BYTES:
        if failure is not None and document["failure"]["lastLines"]:
            document["failure"]["lastLines"].pop(0)
        elif failure is not None:
            document["failure"]["message"] = document["failure"]["message"][:512]
        elif "progress" in document:
            del document["progress"]
        else:
            document["results"]["metrics"].pop()
    return text


def without_none(value: Any) -> Any:
    """`value` without the None members of its mappings: in the API optional means absent."""
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_none(item) for item in value]
    return value
