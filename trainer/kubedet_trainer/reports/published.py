"""Our row next to the published one: what differs by how much, and what cannot be compared, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubedet_trainer.contract import Task
from kubedet_trainer.contract.comparison import Circumstances, find_obstacles

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
    recipe, circumstances = str(document.get("recipe")), circumstances_of(document)
    compared = []
    for figure in FIGURES:
        ours, published = document.get(figure), reference.get(figure)
        if ours is None and published is None:
            continue
        difference = None if ours is None or published is None else ours - published
        obstacles = find_obstacles(recipe, figure, circumstances) if difference is not None else []
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


def circumstances_of(document: Mapping[str, Any]) -> Circumstances:
    """What a report says of how its figures came about."""
    hardware, data = document.get("hardware") or {}, document.get("data") or {}
    run = document.get("run") or {}
    validated = [split["images"] for split in data.get("splits", ()) if split["name"] == "val"]
    return Circumstances(
        changes=[change["field"] for change in run.get("changes", ())],
        data_uri=data.get("uri"),
        data_format=data.get("format"),
        precision=hardware.get("precision"),
        global_batch=hardware.get("globalBatch"),
        validation_images=document.get("validationImages", validated[0] if validated else None),
        accelerator=hardware.get("accelerator"),
        world_size=hardware.get("worldSize"),
        is_measured=document.get("task") == Task.MEASURE,
    )
