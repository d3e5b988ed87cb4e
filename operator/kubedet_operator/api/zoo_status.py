"""The status of a ModelZoo: its rows with the figures of every training, also of those whose job is gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from kubedet_operator.api.fields import bounded
from kubedet_operator.api.status import Condition

MAX_ROWS = 200
MAX_REPEATS = 10
MAX_RUNS = 1000
"""Trainings of one zoo. With more, its status could outgrow what etcd stores of one object (1.5 MiB)."""

FIGURES = ("memoryGB", "secondsPerIteration", "inferenceFps", "boxAP", "maskAP", "ar1000")
"""The figures of a row, as `contract.Results` names them."""


class RunPhase(StrEnum):
    """How far one training of a row is."""

    PENDING = "Pending"
    """It has no job yet."""
    WAITING = "Waiting"
    """It has no job yet, and another row has to make its proposals first."""
    RUNNING = "Running"
    """Its job exists and has not ended."""
    SUSPENDED = "Suspended"
    """Its job is suspended."""
    SUCCEEDED = "Succeeded"
    """It has its results."""
    FAILED = "Failed"
    """Its job has failed, or it cannot have its proposals."""


class Verdict(StrEnum):
    """What a row is next to the published one."""

    EQUAL = "Equal"
    BELOW = "Below"
    ABOVE = "Above"
    NOT_COMPARABLE = "NotComparable"


@dataclass(frozen=True, kw_only=True)
class RowResults:
    """What one training has reached, or what was measured. Figures that do not apply are absent."""

    task: str | None = bounded(default=None, max_length=32)
    """Measure if nothing was trained: the figures are those of the weights at modelUri."""
    memoryGB: float | None = None
    """Peak memory over all ranks."""
    secondsPerIteration: float | None = None
    """Seconds per training iteration."""
    inferenceFps: float | None = None
    """Images per second at batch size 1."""
    boxAP: float | None = None
    """Box AP in percent."""
    maskAP: float | None = None
    """Mask AP in percent."""
    ar1000: float | None = None
    """Average recall of 1000 proposals per image, in percent."""
    accelerator: str | None = bounded(default=None, max_length=256)
    """What it was trained on."""
    worldSize: int | None = None
    """Ranks that trained together."""
    precision: str | None = bounded(default=None, max_length=32)
    """Precision of the training."""
    globalBatch: int | None = None
    """Images of one step, over all ranks."""
    validationImages: int | None = None
    """Images that the precision was measured on."""
    modelUri: str | None = None
    """URI of the final checkpoint, or of the weights that were measured."""
    reportUri: str | None = None
    """URI of the full report."""
    proposalsUri: str | None = None
    """URI of the proposals that it made for other rows."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training of a row."""

    seed: int = 0
    """Number of the repeat, from 0. It is added to the recipe's seed."""
    job: str = bounded(default="", max_length=63)
    """Name of its DetectionJob."""
    phase: RunPhase = RunPhase.PENDING
    """How far it is: Pending, Waiting, Running, Suspended, Succeeded or Failed."""
    attempts: int = 0
    """Jobs that were created for it."""
    message: str | None = None
    """Why it failed, or what it waits for."""
    completionTime: str | None = bounded(default=None, max_length=64, time=True)
    """Time at which its job ended."""
    results: RowResults | None = None
    """What it has reached."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One recipe of the table."""

    recipe: str = bounded(max_length=128)
    """Name of the recipe."""
    hash: str = bounded(default="", max_length=64)
    """Hash of what the row means: recipe, overrides, data and weights. With another one it is run again."""
    phase: RunPhase = RunPhase.PENDING
    """The phase of the row's trainings together."""
    runs: tuple[Run, ...] = bounded(default=(), max_items=MAX_REPEATS)
    """The trainings of the row, by seed."""
    means: Mapping[str, float] = field(default_factory=dict)
    """Mean of each figure over the trainings that have one."""
    spread: Mapping[str, float] = field(default_factory=dict)
    """Standard deviation of each figure, where there are at least two."""
    published: Mapping[str, float] = field(default_factory=dict)
    """The published figures of the recipe."""
    differences: Mapping[str, float] = field(default_factory=dict)
    """Mean minus published figure, of boxAP, maskAP and ar1000."""
    verdict: Verdict | None = None
    """Equal, Below or Above the published figures, within spec.tolerance; or NotComparable."""
    reason: str | None = None
    """Why it cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """Numbers of rows."""

    total: int = 0
    """All rows."""
    pending: int = 0
    """Rows without a job, those that wait for proposals included."""
    running: int = 0
    """Rows with a job that has not ended; also a suspended one."""
    succeeded: int = 0
    """Rows with all their results."""
    failed: int = 0
    """Rows that failed."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One figure over the whole table, ours minus published."""

    mean: float
    """Mean over the rows that can be compared."""
    standardError: float | None = None
    """Standard error of the mean, from two rows on."""
    rows: int
    """Number of those rows."""


@dataclass(frozen=True, kw_only=True)
class PageStatus:
    """The page of the table, which a pod writes. Its condition is PageWritten."""

    written: str = bounded(default="", max_length=64)
    """Digest of the rows that the page shows."""
    tried: str = bounded(default="", max_length=64)
    """Digest of the rows that a pod was last created for."""
    time: str | None = bounded(default=None, max_length=64, time=True)
    """Time at which it was created."""
    pod: str = bounded(default="", max_length=64)
    """Uid of the pod whose end was counted last."""
    failures: int = 0
    """Pods in a row that failed to write these rows."""


@dataclass(frozen=True, kw_only=True)
class ZooDisplay:
    """Texts for the printer columns. Code never reads them."""

    rows: str | None = bounded(default=None, max_length=32)
    """Rows that are done, out of all: ``12/95``."""
    difference: str | None = bounded(default=None, max_length=32)
    """Mean difference of box AP with its sign: ``+0.12``."""


@dataclass(frozen=True, kw_only=True)
class ModelZooStatus:
    """What the operator knows about the table. A row keeps its results when its job is deleted."""

    observedGeneration: int | None = None
    """Generation of the spec that this status describes."""
    phase: str | None = None
    """For display: Pending, Running, Suspended, Succeeded or Failed."""
    reason: str | None = bounded(default=None, max_length=256)
    """For display: the reason of the phase in one word."""
    conditions: tuple[Condition, ...] = bounded(default=(), max_items=32, map_key="type")
    """Suspended, Running, Degraded, PageWritten, Complete and Failed."""
    startTime: str | None = bounded(default=None, max_length=64, time=True)
    """Time at which the operator first created a job."""
    completionTime: str | None = bounded(default=None, max_length=64, time=True)
    """Time at which the last row ended. Absent while rows are to be trained."""
    counts: RowCounts | None = None
    """Numbers of rows by their phase."""
    differences: Mapping[str, Difference] = field(default_factory=dict)
    """Ours minus published over the whole table, of boxAP, maskAP and ar1000."""
    rows: tuple[Row, ...] = bounded(default=(), max_items=MAX_ROWS, map_key="recipe")
    """The rows, in the order of the table."""
    reportUri: str | None = None
    """URI of the page of the table. MODEL_ZOO.md, zoo.csv and zoo.json are next to it."""
    page: PageStatus | None = None
    """How far the page follows the rows."""
    display: ZooDisplay | None = None
    """Texts of the printer columns."""
