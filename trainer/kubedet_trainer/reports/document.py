"""The report of a run as data: what `results.json` and `history.csv` hold (`docs/users/report.md`)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Annotated, Any

from kubedet_trainer import contract
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.evaluation.analysis import Analysis
from kubedet_trainer.reports import shape

REPORT_VERSION = 1
"""Grows when a field changes its meaning or goes; new fields do not count."""

HISTORY_FILE = "history.csv"
"""Next to the checkpoints, as `contract.RESULTS_FILE` and `contract.REPORT_FILE`."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A field of the recipe that this run changed."""

    field: str
    recipe: str
    """The recipe's own value, as text."""
    run: str


@dataclass(frozen=True, kw_only=True)
class Start:
    """One time that rank 0 began, at first or again."""

    time: Annotated[str, datetime]
    """UTC, RFC 3339."""
    attempt: int
    """Of the job, see `status.attempt`."""
    processRestart: int
    """How often the ranks were started again in the same pod before."""
    iteration: int
    """What was done by then."""
    worldSize: int
    cause: str | None = None
    """Why the run before ended; None for the first one, and where it is not known."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What was trained, by what and when."""

    job: str
    image: str | None
    """Image of the worker's container; None outside of clusters."""
    startTime: Annotated[str, datetime]
    """UTC, RFC 3339, as the next two."""
    updateTime: Annotated[str, datetime]
    """When this was written."""
    endTime: Annotated[str, datetime] | None
    """None while the run is not finished."""
    iteration: int
    totalIterations: int
    iterationsPerEpoch: int
    changes: list[Change]
    """What differs from the recipe."""
    settings: dict[str, Any]
    """The whole recipe with these changes."""
    versions: dict[str, str]
    starts: list[Start]


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """One split of the data."""

    name: str
    images: int
    """That are used."""
    emptyImages: int
    """Of these, without any object."""
    objects: int
    """Without crowds and what is left out."""
    objectsOfClass: list[int]
    """Of each class, in their order."""


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What was trained and measured on."""

    uri: str
    format: str
    classes: list[str]
    splits: list[SplitFacts]


@dataclass(frozen=True, kw_only=True)
class TimeFacts:
    """Where the time went, from the first start to the end."""

    seconds: dict[str, float]
    """By phase, see `contract.TimePhase`. ``lost`` is repeated work and what nobody could report any more."""
    goodputPercent: float
    """Share of training that was not repeated."""
    gpuSeconds: float
    """GPUs times seconds. 0 on CPUs."""


@dataclass(frozen=True, kw_only=True)
class BestEvaluation:
    """The evaluation with the highest main figure."""

    metric: str
    value: float
    iteration: int
    epoch: int


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What of `contract.Results.hardware` pages read."""

    accelerator: str | None = None
    worldSize: int | None = None
    precision: str | None = None
    globalBatch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One of `contract.Results.metrics`."""

    name: str
    value: float


@dataclass(frozen=True, kw_only=True)
class TrainingPoint:
    """One of `Report.training`."""

    iteration: int
    lr: float
    losses: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class EvaluationPoint:
    """One of `Report.evaluations`."""

    iteration: int
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Spent:
    """One of `Report.spent`."""

    iteration: int
    seconds: float
    gpuSeconds: float


@dataclass(frozen=True, kw_only=True)
class Report(contract.Results):
    """The row and everything behind it. What does not apply or is not known is None or empty."""

    metrics: list[Annotated[dict[str, Any], Metric]] = field(default_factory=list)
    hardware: Annotated[dict[str, Any], Hardware] = field(default_factory=dict)
    reportVersion: int = REPORT_VERSION
    run: RunFacts
    data: DataFacts
    pretrained: dict[str, Any] = field(default_factory=dict)
    """Which tensors the first weights took from a file."""
    training: list[Annotated[dict[str, Any], TrainingPoint]]
    """A point every few iterations: ``{"iteration": 50, "lr": 0.02, "losses": {"loss_rpn_cls": 0.3}}``."""
    evaluations: list[Annotated[dict[str, Any], EvaluationPoint]]
    """A point each: ``{"iteration": 300, "metrics": {"boxAP": 21.5, "validationLoss": 0.4}}``."""
    spent: list[Annotated[dict[str, float], Spent]]
    """What each evaluation had cost: ``{"iteration": 300, "seconds": 95.1, "gpuSeconds": 760.8}``."""
    best: BestEvaluation | None
    analysis: Analysis | dict[str, Any] | None
    """A document if another process made it."""
    analysedIteration: int | None
    """Whose evaluation that is: the newest one, or the best one if the row is that of the best checkpoint."""
    memoryBytes: dict[str, int]
    """By kind, of the rank that needs most."""
    time: TimeFacts


def dump(report: Report) -> bytes:
    """The report as JSON."""
    return json.dumps(contract.without_none(asdict(report)), indent=1).encode()


def parse(data: bytes, *, name: str) -> dict[str, Any]:
    """A report of this or an earlier version, as a document.

    Raises:
        InvalidInput: `data` is no report, or one of a later version; `name` is said in the message.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{name}: must be the {contract.RESULTS_FILE} of a run ({error})") from error
    if not isinstance(document, dict) or "recipe" not in document:
        raise InvalidInput(f"{name}: has no recipe, must be the {contract.RESULTS_FILE} of a run")
    version = document.get("reportVersion", 0)
    if not isinstance(version, int) or version > REPORT_VERSION:
        raise InvalidInput(
            f"{name}: has reportVersion {version}, must be at most {REPORT_VERSION}; use a newer kubedet"
        )
    for wrong in shape.misfits(Report, document):
        raise InvalidInput(f"{name}: {wrong}; the next evaluation of the run writes it again")
    whole: dict[str, Any] = contract.without_none(document)
    return whole


def history_table(document: Mapping[str, Any]) -> str:
    """The curves of a report as CSV: a row for each iteration at which something was noted."""
    rows: dict[int, dict[str, float]] = {}
    for point in document.get("training", ()):
        losses = point["losses"]
        rows.setdefault(point["iteration"], {}).update(
            {"learningRate": point["lr"], "loss": sum(losses.values()), **losses}
        )
    for point in document.get("evaluations", ()):
        rows.setdefault(point["iteration"], {}).update(point["metrics"])
    columns = dict.fromkeys(name for _, row in sorted(rows.items()) for name in row)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["iteration", *map(harmless, columns)])
    for iteration, row in sorted(rows.items()):
        writer.writerow([iteration, *(row.get(name, "") for name in columns)])
    return text.getvalue()


def harmless(value: object) -> object:
    """A cell of CSV: an apostrophe goes before a text that a spreadsheet would take for a formula."""
    return f"'{value}" if isinstance(value, str) and value.lstrip()[:1] in tuple("=+-@") else value
