"""The table of a zoo as data: what `zoo.json` and `zoo.csv` hold (`docs/users/zoo-page.md`)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kubedet_trainer import contract
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.reports.document import harmless

ZOO_REPORT_VERSION = 1
"""Grows when a field changes its meaning or goes; new fields do not count."""

DATA_FILE = "zoo.json"
CSV_FILE = "zoo.csv"
MARKDOWN_FILE = "MODEL_ZOO.md"
"""Next to `contract.ZOO_PAGE_FILE`."""

FIGURES = {
    "memoryGB": 2,
    "secondsPerIteration": 3,
    "inferenceFps": 1,
    "inferenceFpsBatch8": 1,
    "boxAP": 1,
    "maskAP": 1,
    "ar1000": 1,
}
"""Figures of a row, as `contract.Results` names them, to their decimals."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A figure as a multiple of that of another row, measured on the same machine."""

    to: str
    """Recipe of that row."""
    ours: float
    published: float
    """The same ratio of the published figures."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a row."""

    figure: str
    """As in `contract.Results`."""
    ours: float | None = None
    """Mean over the trainings that have one."""
    spread: float | None = None
    """Standard deviation, from two trainings on."""
    published: float | None = None
    difference: float | None = None
    """Ours minus published, where they can be compared."""
    verdict: str | None = None
    """Equal, Below or Above, within the tolerance of the zoo; or NotComparable. None without a published
    figure, and for speed and memory that can be compared, which have no tolerance."""
    reasons: list[str] = field(default_factory=list)
    """Why it is not comparable."""
    ratio: Ratio | None = None
    """For speed and memory that were measured on other hardware than the published ones."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A file of weights next to the page."""

    file: str
    """Its name, ``RECIPE_DATE-HASH.pth``."""
    sha256: str
    bytes: int
    checkpoint: str
    """URI of the checkpoint that it was made of."""


@dataclass(frozen=True, kw_only=True)
class ZooRun:
    """One training of a row."""

    seed: int
    """Number of the repeat, from 0."""
    job: str
    phase: str
    message: str | None = None
    """Why it failed, or what it waits for."""
    completionTime: str | None = None
    figures: dict[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    """URI of the weights that were measured."""
    report: str | None = None
    """URI of the page of the run."""
    log: str | None = None
    """URI of the table with its curves."""
    image: str | None = None
    gpuSeconds: float | None = None
    seconds: float | None = None
    """From its first start to its end."""
    unread: str | None = None
    """Why its report could not be read. Its figures are then those of the zoo's status alone."""


@dataclass(frozen=True, kw_only=True)
class ZooRow:
    """One recipe of the table."""

    recipe: str
    section: str
    """Key of the table that lists it: those of `kubedet recipes --section`, smoke or yours."""
    phase: str
    """Pending, Waiting, Running, Suspended, Succeeded or Failed."""
    verdict: str | None = None
    """Of its precision: Equal, Below or Above the published one, or NotComparable."""
    reasons: list[str] = field(default_factory=list)
    """Why it is not comparable."""
    hardware: str | None = None
    """Ranks and accelerator, ``8 x Tesla V100-SXM2-16GB``."""
    precision: str | None = None
    figures: list[Figure] = field(default_factory=list)
    runs: list[ZooRun] = field(default_factory=list)
    weights: Weights | None = None
    """What `kubedet publish` made of it."""
    publishedWeights: str | None = None
    """URI of the weights that the zoo of 2019 published."""


@dataclass(frozen=True, kw_only=True)
class TableDifference:
    """One figure over the whole table, ours minus published."""

    figure: str
    mean: float
    """Over the rows that can be compared."""
    standardError: float | None
    """Standard deviation of the differences, divided by the square root of their number. From two rows on."""
    rows: int
    """Number of those rows."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What the rows were made with: each value with the number of its trainings."""

    hardware: dict[str, int]
    software: dict[str, dict[str, int]]
    """Package to versions."""
    images: dict[str, int]
    data: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class ZooReport:
    """The page of a zoo as data. What does not apply or is not known is None or empty."""

    zooReportVersion: int = ZOO_REPORT_VERSION
    name: str
    namespace: str | None = None
    writeTime: str
    """UTC, RFC 3339."""
    startTime: str | None = None
    completionTime: str | None = None
    trainings: int
    """Of all rows, repeats included."""
    tolerance: dict[str, float] = field(default_factory=dict)
    """The largest difference that counts as equal, in percentage points."""
    counts: dict[str, int]
    """Rows by phase."""
    verdicts: dict[str, int]
    """Rows by verdict."""
    gpuSeconds: float | None = None
    """Of all trainings whose reports were read."""
    differences: list[TableDifference] = field(default_factory=list)
    environment: Environment
    rows: list[ZooRow]


def dump(report: ZooReport) -> bytes:
    """The table as JSON."""
    return json.dumps(contract.without_none(asdict(report)), indent=1).encode()


def parse(data: bytes, *, name: str) -> dict[str, Any]:
    """The table of a zoo, as a document.

    Raises:
        InvalidInput: `data` is none, or of a later version; `name` is said in the message.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{name}: must be the {DATA_FILE} of a zoo's page ({error})") from error
    version = document.get("zooReportVersion") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(version, int):
        raise InvalidInput(f"{name}: has no zooReportVersion, must be the {DATA_FILE} of a zoo's page")
    if version > ZOO_REPORT_VERSION:
        rule = f"must be at most {ZOO_REPORT_VERSION}; use a newer kubedet"
        raise InvalidInput(f"{name}: has zooReportVersion {version}, {rule}")
    return document


def figures_of(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The figures of a row of a document by name."""
    return {figure["figure"]: figure for figure in row.get("figures", ())}


def csv_table(document: Mapping[str, Any]) -> str:
    """A line for each row: what it is, and of each figure ours, spread, published one and difference."""
    present = [name for name in FIGURES if any(name in figures_of(row) for row in document["rows"])]
    parts = {"ours": "", "spread": "Spread", "published": "Published", "difference": "Difference"}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([
        "recipe", "section", "phase", "verdict", "reasons", "hardware", "trainings",
        *(f"{name}{suffix}" for name in present for suffix in parts.values()),
        "report", "weights",
    ])  # fmt: skip
    for row in document["rows"]:
        figures, runs = figures_of(row), row.get("runs", ())
        done = [run for run in runs if run.get("figures")]
        values = [
            row["recipe"], row["section"], row["phase"], row.get("verdict", ""),
            "; ".join(row.get("reasons", ())), row.get("hardware", ""), len(done),
            *(figures.get(name, {}).get(part, "") for name in present for part in parts),
            next((run["report"] for run in done if "report" in run), ""),
            (row.get("weights") or {}).get("file", ""),
        ]  # fmt: skip
        writer.writerow(map(harmless, values))
    return text.getvalue()
