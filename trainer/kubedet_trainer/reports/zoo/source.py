"""What the page of a zoo is made from: the parts of a ModelZoo, as the API has it, that are read."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Whose table it is."""

    name: str
    namespace: str | None = None


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What counts as equal."""

    tolerance: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """What one training has reached."""

    task: str | None = None
    memoryGB: float | None = None
    secondsPerIteration: float | None = None
    inferenceFps: float | None = None
    boxAP: float | None = None
    maskAP: float | None = None
    ar1000: float | None = None
    accelerator: str | None = None
    worldSize: int | None = None
    precision: str | None = None
    globalBatch: int | None = None
    validationImages: int | None = None
    modelUri: str | None = None
    reportUri: str | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training of a row."""

    seed: int
    job: str | None = None
    phase: str | None = None
    message: str | None = None
    completionTime: str | None = None
    results: RunResults | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One recipe."""

    recipe: str
    phase: str | None = None
    runs: list[Run] = field(default_factory=list)
    published: dict[str, float] = field(default_factory=dict)
    verdict: str | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Status:
    """The table."""

    rows: list[Row] = field(default_factory=list)
    startTime: str | None = None
    completionTime: str | None = None


@dataclass(frozen=True, kw_only=True)
class Zoo:
    """The whole."""

    metadata: Metadata
    spec: Spec = Spec()
    status: Status
