"""Why a figure of ours cannot be compared with the published one: one list for the operator and the trainer.

The published figures are those of 8 V100 on COCO or PASCAL VOC (`docs/zoo.md`, 10).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kubedet_trainer.contract.catalogue import Facets, read_facets
from kubedet_trainer.contract.records import COMPARABLE_PRECISIONS

PRECISIONS = ("boxAP", "maskAP", "ar1000")
"""Figures that do not depend on the hardware."""

GPU, GPUS = "V100", 8
"""What the published figures were measured on."""

VALIDATION_IMAGES = {"coco": 5000, "voc": 4952}
"""Images of the split that the published precision was measured on, by data set."""

_IMAGES_PER_STEP = {"ssd": 64, "ssd_voc": 32}
_USUAL_IMAGES_PER_STEP = 16


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """How our figures came about. What is not known is None or empty, and no obstacle."""

    changes: Sequence[str] = ()
    """Fields of the recipe that were changed. The seed says nothing about the result."""
    data_uri: str | None = None
    data_format: str | None = None
    """As `spec.dataset.format`."""
    splits: Sequence[str] = ()
    """Fields of the data set that name other splits."""
    pretrained: bool = False
    """Whether the training started from other weights than the recipe's."""
    precision: str | None = None
    global_batch: int | None = None
    """Images of one step, over all ranks."""
    validation_images: int | None = None
    accelerator: str | None = None
    world_size: int | None = None
    is_measured: bool = False
    """Whether weights that exist were measured: the batch of the steps says nothing of their precision."""


def images_per_step(section: str) -> int:
    """Images of one step of the published rows of a section, over all GPUs."""
    return _IMAGES_PER_STEP.get(section, _USUAL_IMAGES_PER_STEP)


def find_obstacles(recipe: str, figure: str, given: Circumstances) -> list[str]:
    """Why `figure` cannot be compared with that of the published row of `recipe`; empty where it can be.

    Args:
        recipe: its name.
        figure: as a field of `Results` is called.
        given: what is known of the run.
    """
    facets = read_facets(recipe)
    dataset = (facets.dataset if facets else None) or "coco"
    own = _of_the_measurement(dataset, given) if figure in PRECISIONS else _of_the_machine(figure, given)
    return [*_of_the_training(facets, figure, given), *own]


def _of_the_training(facets: Facets | None, figure: str, given: Circumstances) -> Iterator[str]:
    if changed := sorted(field for field in given.changes if field != "seed"):
        yield f"the recipe is changed: {', '.join(changed)}"
    if given.precision is not None and given.precision not in COMPARABLE_PRECISIONS:
        yield f"trained in {given.precision}, not fp32"
    if given.is_measured and figure in PRECISIONS:
        return
    # A recipe of the user's own has the batch that it says.
    usual = images_per_step(facets.section) if facets else given.global_batch
    if given.global_batch not in (None, usual):
        yield f"{given.global_batch} images per step, not {usual}"


def _of_the_measurement(dataset: str, given: Circumstances) -> Iterator[str]:
    usual, wanted = dataset.upper(), VALIDATION_IMAGES[dataset]
    is_generated = str(given.data_uri).startswith("synthetic://")
    if is_generated or given.data_format not in (None, usual):
        yield f"another data set than {usual}: {'generated' if is_generated else given.data_format}"
    elif given.splits:
        yield f"other splits: {', '.join(given.splits)}"
    if given.pretrained:
        yield f"{'measured' if given.is_measured else 'started from'} other weights: pretrained"
    if given.validation_images not in (None, wanted):
        yield f"{given.validation_images} validation images, not the {wanted} of {usual}"


def _of_the_machine(figure: str, given: Circumstances) -> Iterator[str]:
    if given.accelerator is not None and GPU not in given.accelerator:
        yield f"measured on {given.accelerator}, not on {GPU}"
    if figure == "secondsPerIteration" and given.world_size not in (None, GPUS):
        yield f"{given.world_size} ranks, not {GPUS}"
