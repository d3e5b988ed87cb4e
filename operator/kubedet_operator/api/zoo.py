"""The ModelZoo: every field that a user may set. It is a table of recipes, each trained by a DetectionJob."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kubedet_operator.api import decoding, names
from kubedet_operator.api.fields import JobSpec, bounded
from kubedet_operator.api.policies import MAX_SECONDS
from kubedet_operator.api.types import CONTROLLER, RECIPE, Metadata
from kubedet_operator.api.zoo_status import MAX_REPEATS, MAX_ROWS, ModelZooStatus
from kubedet_trainer.contract.catalogue import Method, Section


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A choice of recipes: those that have one of the values listed in every field that is set."""

    methods: tuple[Method, ...] = bounded(default=(), max_items=16)
    """Detectors."""
    backbones: tuple[Literal["r50", "r101", "x101_32x4d", "x101_64x4d", "vgg16"], ...] = bounded(
        default=(), max_items=16
    )
    """Backbones."""
    styles: tuple[Literal["pytorch", "caffe"], ...] = bounded(default=(), max_items=16)
    """Whose weights the backbone starts from."""
    schedules: tuple[Literal["1x", "2x", "3x", "20e", "120e", "240e"], ...] = bounded(
        default=(), max_items=16
    )
    """Lengths of the training."""
    datasets: tuple[Literal["coco", "voc"], ...] = bounded(default=(), max_items=16)
    """What the published recipe was trained on."""
    sections: tuple[Section, ...] = bounded(default=(), max_items=16)
    """Tables of the zoo's page. smoke has the small recipes, which no other field selects."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The recipes of the table: those named and those selected, without those excluded."""

    recipes: tuple[str, ...] = bounded(
        default=(), max_items=MAX_ROWS, min_length=1, max_length=128, pattern=RECIPE
    )
    """Names that `kubedet recipes` lists, or module:attribute for recipes of your own."""
    select: tuple[Selection, ...] = bounded(default=(), max_items=32)
    """Recipes of the zoo by what they are. The selections are added up. With measure Published they leave out
    recipes without published weights, unless spec.changes gives them some."""
    exclude: tuple[str, ...] = bounded(
        default=(), max_items=MAX_ROWS, min_length=1, max_length=128, pattern=RECIPE
    )
    """Recipes to leave out."""


@dataclass(frozen=True, kw_only=True)
class JobTemplate:
    """The job of every row."""

    spec: JobSpec = bounded(max_items=1000, max_length=32768)
    """A DetectionJob's spec without its recipe and task. Below checkpoint.storageUri each row gets a prefix
    of its own: ZOO/RECIPE/HASH. ttlSecondsAfterFinished counts once the row has its result."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """How the job of one row differs from the template."""

    recipe: str = bounded(min_length=1, max_length=128, pattern=RECIPE)
    """The row."""
    spec: Mapping[str, Any] = bounded(default_factory=dict, max_items=1000, max_length=32768)
    """Fields of the spec, merged over the template: objects by field, a list as a whole, null removes."""
    repeats: int | None = bounded(default=None, minimum=1, maximum=MAX_REPEATS)
    """Trainings of this row. Absent: spec.repeats."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """The largest difference from the published figure that counts as equal, in percentage points."""

    boxAP: float = bounded(default=0.5, minimum=0, maximum=100)
    """Of box AP."""
    maskAP: float = bounded(default=0.5, minimum=0, maximum=100)
    """Of mask AP."""
    ar1000: float = bounded(default=0.5, minimum=0, maximum=100)
    """Of the average recall of 1000 proposals."""


@dataclass(frozen=True, kw_only=True)
class ModelZooSpec:
    """Which recipes to train or measure, how, and how many at once."""

    rows: Rows
    """The recipes of the table."""
    measure: Literal["Training", "Published"] = "Training"
    """What a row is of. Training: the recipe is trained. Published: nothing is trained; the published weights
    are measured, or those of a row's pretrained (task Measure of a DetectionJob)."""
    template: JobTemplate
    """The job of every row."""
    changes: tuple[Change, ...] = bounded(default=(), max_items=MAX_ROWS, map_key="recipe")
    """How the jobs of single rows differ."""
    parallelism: int = bounded(default=1, minimum=1, maximum=1000)
    """Jobs that exist unfinished at once. Suspended and queued ones count."""
    repeats: int = bounded(default=1, minimum=1, maximum=MAX_REPEATS)
    """Trainings of each row, with seeds that count up from that of the recipe. A row shows their mean and
    spread."""
    tolerance: Tolerance = Tolerance()
    """What counts as equal to the published figure."""
    failurePolicy: Literal["Continue", "Stop"] = "Continue"
    """When a row fails. Continue: train the others. Stop: start no further job."""
    suspend: bool = False
    """True suspends the unfinished jobs and starts no others. False resumes those that it suspended."""
    managedBy: str = bounded(default=names.MANAGED_BY, min_length=1, max_length=63, pattern=CONTROLLER)
    """Controller of this zoo. The operator ignores a zoo that names another one. Immutable once the zoo has
    started."""
    ttlSecondsAfterFinished: int | None = bounded(default=None, minimum=0, maximum=MAX_SECONDS)
    """Seconds after its end until the zoo and its jobs are deleted. Absent: never."""


@dataclass(frozen=True, kw_only=True)
class ModelZoo:
    """Trains or measures a table of recipes, one DetectionJob for each row, and keeps their figures."""

    metadata: Metadata
    spec: ModelZooSpec
    """The table to train."""
    status: ModelZooStatus = field(default_factory=ModelZooStatus)
    """The rows as far as they are known."""


def repeats_of(spec: ModelZooSpec, recipe: str) -> int:
    """How many trainings the row of a recipe has."""
    own = (change.repeats for change in spec.changes if change.recipe == recipe)
    return next(own, None) or spec.repeats


def decode_zoo(manifest: Mapping[str, Any], *, found: list[decoding.Violation]) -> ModelZoo | None:
    """The typed view of a ModelZoo's manifest without its status, or None if a required part is missing.

    Adds to `found` what cannot be read: unknown fields, missing fields and values of another type.
    """
    for path, expected in (("apiVersion", names.API_VERSION), ("kind", names.ZOO_KIND)):
        if manifest.get(path) != expected:
            found.append(decoding.Violation(path=path, got=manifest.get(path), rule=f"must be {expected}"))
    metadata = decoding.decode(
        Metadata, manifest.get("metadata") or {}, path="metadata", found=found, strict=False
    )
    spec = decoding.decode(ModelZooSpec, manifest.get("spec") or {}, path="spec", found=found)
    return ModelZoo(metadata=metadata, spec=spec) if metadata and spec else None


def decode_zoo_status(manifest: Mapping[str, Any]) -> ModelZooStatus:
    """The status in `manifest`, as far as it can be read."""
    status = manifest.get("status") or {}
    found = decoding.decode(ModelZooStatus, status, path="status", found=[], strict=False)
    return found or ModelZooStatus()


def selected(selection: Selection, facets: Mapping[str, str | None]) -> bool:
    """Whether a recipe with these `facets` (``method`` to its value, and so on) is in `selection`."""
    return all(not values or facets[facet] in values for facet, values in _chosen(selection))


def _chosen(selection: Selection) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, values in vars(selection).items():
        yield name.removesuffix("s"), values
