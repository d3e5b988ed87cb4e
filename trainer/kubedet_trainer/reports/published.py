"""Our row next to the published one: what differs by how much, and what cannot be compared, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubedet_trainer import contract
from kubedet_trainer.config.published import PublishedRow
from kubedet_trainer.recipes.published import PUBLISHED

FIGURES = {
    "boxAP": ("Box AP", 1),
    "maskAP": ("Mask AP", 1),
    "ar1000": ("AR 1000", 1),
    "secondsPerIteration": ("Seconds per iteration", 3),
    "memoryGB": ("Memory (GB)", 2),
    "inferenceFps": ("Images per second", 1),
    "inferenceFpsBatch8": ("Images per second, batch 8", 1),
}
"""Figure of a row to its heading and its decimals."""

_PRECISIONS = ("boxAP", "maskAP", "ar1000")
_VALIDATION_IMAGES = {"coco": 5000, "voc": 4952}
_GPU, _GPUS = "V100", 8


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One figure."""

    figure: str
    """As in `contract.Results`."""
    ours: float | None
    published: float | None
    difference: float | None
    """Ours less the published one; None where one of them is absent."""
    obstacles: list[str]
    """Why the two cannot be compared; empty where they can."""


def compare(document: Mapping[str, Any]) -> list[Compared]:
    """Every figure that the report or the published row of its recipe has."""
    reference = document.get("reference") or {}
    row = PUBLISHED.get(str(document.get("recipe")))
    compared = []
    for figure in FIGURES:
        ours, published = document.get(figure), reference.get(figure)
        if ours is None and published is None:
            continue
        difference = None if ours is None or published is None else ours - published
        obstacles = _obstacles(document, row, figure=figure) if row and difference is not None else []
        compared.append(
            Compared(
                figure=figure,
                ours=ours,
                published=published,
                difference=difference,
                obstacles=obstacles,
            )
        )
    return compared


def _obstacles(document: Mapping[str, Any], row: PublishedRow, *, figure: str) -> list[str]:
    hardware = document.get("hardware", {})
    run, data = document.get("run", {}), document.get("data", {})
    obstacles = []
    if changed := [change["field"] for change in run.get("changes", ())]:
        obstacles.append(f"the recipe is changed: {', '.join(changed)}")
    if hardware.get("precision", "fp32") not in contract.COMPARABLE_PRECISIONS:
        obstacles.append(f"trained in {hardware['precision']}, not fp32")
    batch = hardware.get("globalBatch")
    if batch not in (None, row.images_per_step):
        obstacles.append(f"{batch} images per step, not {row.images_per_step}")
    if figure in _PRECISIONS:
        wanted = _VALIDATION_IMAGES[row.dataset]
        (images,) = [split["images"] for split in data.get("splits", ()) if split["name"] == "val"] or [None]
        if images not in (None, wanted):
            obstacles.append(f"{images} validation images, not the {wanted} of {row.dataset.upper()}")
        return obstacles
    accelerator, ranks = hardware.get("accelerator", "unknown"), hardware.get("worldSize")
    if _GPU not in str(accelerator):
        obstacles.append(f"measured on {accelerator}, not on {_GPU}")
    if figure == "secondsPerIteration" and ranks not in (None, _GPUS):
        obstacles.append(f"{ranks} ranks, not {_GPUS}")
    return obstacles
