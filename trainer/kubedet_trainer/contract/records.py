"""What a worker reports: its progress while it runs, its results or its failure when it ends."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

COMPARABLE_PRECISIONS = frozenset({"fp32", "tf32"})
"""Values of ``hardware.precision`` whose figures compare with the zoo's, which are of float32.

Every recipe has TF32 by default, which GPUs before 2020 do not know.
"""

TERMINATION_MESSAGE_BYTES = 4096
"""The most of a termination message that a kubelet keeps for one container."""


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


class RecoveryPhase(StrEnum):
    """Phases of a recovery within a worker, in their order."""

    NOTICE = "notice"
    """From the last completed iteration until the agent of rank 0 noticed that a rank was lost."""
    STOP = "stop"
    """The ranks that still ran ended."""
    RENDEZVOUS = "rendezvous"
    """The agents of all workers met."""
    START = "start"
    """The process of rank 0 started."""
    IMPORT = "import"
    """It imported torch and the trainer, unless it was forked from a standby that had."""
    JOIN = "join"
    """The ranks opened their process group."""
    PREPARE = "prepare"
    """Data, model and optimiser were put together."""
    RESTORE = "restore"
    """The checkpoint was found, verified and loaded."""
    STEP = "step"
    """The first iteration ran."""


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """How the ranks of a worker came back after a loss, as its rank 0 saw it."""

    time: str
    """Time at which the first iteration afterwards ended: UTC, RFC 3339."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by phase: notice, stop, rendezvous, start, import, join, prepare, restore and step."""


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
    recovery: Recovery | None = None
    """The newest recovery within rank 0's worker, phase by phase. None before there was one."""


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
class Straggler:
    """The rank that all others wait for in every step, as rank 0 sees it."""

    rank: int
    replica: int
    """Index of its worker."""
    ratio: float
    """Mean time of its forward passes in the last log interval, divided by that of the median rank."""
    since: str
    """Time from which it has been slow: UTC, RFC 3339."""


@dataclass(frozen=True, kw_only=True)
class ProgressRecord:
    """The answer to ``GET /progress``; a worker without rank 0 answers 404 instead."""

    progress: Progress
    checkpoint: CheckpointStatus | None = None
    straggler: Straggler | None = None
    """None unless a rank is slow now."""
    worldSize: int = 1
    processRestarts: int = 0


@dataclass(frozen=True, kw_only=True)
class Results:
    """A row of the model zoo: `status.results` of a DetectionJob. What does not apply is None."""

    recipe: str | None = None
    """Recipe of the row."""
    task: str | None = None
    """What the row is of: Train, or Measure if nothing was trained and `modelUri` names the weights."""
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
    validationImages: int | None = None
    """Images that the precision was measured on."""
    hardware: dict[str, Any] = field(default_factory=dict)
    """``accelerator``, ``worldSize``, ``precision``, ``globalBatch``, ``memoryKind``: what ``memoryGB``
    means, and ``compiled`` where the recipe asks for it: whether the detector ran so."""
    reference: dict[str, float] = field(default_factory=dict)
    """The published figures of the same recipe, under the same names."""
    checkpoint: str | None = None
    """The checkpoint that was evaluated for this row: Last or Best. Absent without an evaluation."""
    epoch: int | None = None
    """Epochs after which this checkpoint was saved."""
    iterations: int | None = None
    """Iterations of the training. Absent if nothing was trained."""
    endedEarly: str | None = None
    """Why the training ended before its last epoch. Absent if it did not."""
    leftOut: dict[str, int] = field(default_factory=dict)
    """Images and objects that the training skipped: their number by the reason."""
    modelUri: str | None = None
    """URI of this checkpoint, or of the weights that were measured."""
    reportUri: str | None = None
    """URI of the page with the whole report. results.json next to it has the same as data."""
    proposalsUri: str | None = None
    """URI of the folder with the proposals of an RPN, if it was asked to write them."""


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
