"""The tables of the page of 2019: headings, columns and notes, and what each row says in its columns.

Source: MODEL_ZOO.md of MMDetection v0.6rc0 (`docs/zoo.md`, 13 and appendix A); the notes are in our words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kubedet_trainer.contract import catalogue

Row = Mapping[str, Any]

_BACKBONES = {
    "r50": "R-50-FPN",
    "r101": "R-101-FPN",
    "x101_32x4d": "X-101-32x4d-FPN",
    "x101_64x4d": "X-101-64x4d-FPN",
    "vgg16": "VGG16",
}
_MODELS = {
    "faster_rcnn": "Faster R-CNN",
    "mask_rcnn": "Mask R-CNN",
    "cascade_rcnn": "Cascade R-CNN",
    "cascade_mask_rcnn": "Cascade Mask R-CNN",
}
_TYPES = {"fast_rcnn": "Faster", "fast_mask_rcnn": "Mask"}
MEASURED = {
    "memoryGB": "Mem (GB)",
    "secondsPerIteration": "Train time (s/iter)",
    "inferenceFps": "Inf time (fps)",
    "boxAP": "box AP",
    "maskAP": "mask AP",
    "ar1000": "AR1000",
}
"""Figure to its column."""

_ALLOCATED = (
    "Memory is the peak of `torch.cuda.max_memory_allocated()`, which is less than what the others show."
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """One table."""

    heading: str
    columns: tuple[str, ...] = ("Backbone", "Style", "Lr schd")
    """What identifies a row: keys of `CELLS`."""
    precisions: tuple[str, ...] = ("boxAP",)
    notes: tuple[str, ...] = ()


_CASCADE_NOTES = (
    "The schedule `20e` has 20 epochs, and the learning rate falls after 16 and 19.",
    "Cascade Mask R-CNN with X-101-64x4d-FPN was trained in 2019 on 16 GPUs with 1 image each.",
)
_BOX_AND_MASK = ("boxAP", "maskAP")
_SSD_COLUMNS = ("Backbone", "Size", "Style", "Lr schd")

SECTIONS = {
    "rpn": Section(heading="RPN", precisions=("ar1000",)),
    "faster_rcnn": Section(heading="Faster R-CNN"),
    "mask_rcnn": Section(
        heading="Mask R-CNN",
        precisions=_BOX_AND_MASK,
        notes=(
            "On the page of 2019, X-101-32x4d 2x and X-101-64x4d 1x had each other's name; here they have "
            "their own.",
        ),
    ),
    "fast_rcnn": Section(
        heading="Fast R-CNN (with pre-computed proposals)",
        columns=("Backbone", "Style", "Type", "Lr schd"),
        precisions=_BOX_AND_MASK,
        notes=("Speed is without the RPN, whose proposals are read from a file.",),
    ),
    "retinanet": Section(heading="RetinaNet"),
    "cascade_rcnn": Section(heading="Cascade R-CNN"),
    "cascade_mask_rcnn": Section(
        heading="Cascade Mask R-CNN", precisions=_BOX_AND_MASK, notes=_CASCADE_NOTES
    ),
    "ssd": Section(
        heading="SSD",
        columns=_SSD_COLUMNS,
        notes=(
            "A step has 64 images on COCO and 32 on PASCAL VOC.",
            "Images per second are those of batch size 1 and, after the slash, of batch size 8.",
        ),
    ),
    "ssd_voc": Section(
        heading="SSD (PASCAL VOC)",
        columns=_SSD_COLUMNS,
        notes=("Box AP is the mAP at an overlap of 0.5 with the 11 points of VOC2007.",),
    ),
    "gn": Section(
        heading="Group Normalization (GN)",
        columns=("Backbone", "model", "Lr schd"),
        precisions=_BOX_AND_MASK,
        notes=(
            "(d): starts from weights that were converted from Detectron. (c): starts from weights of a "
            "contributor.",
            "The schedule `3x` has 36 epochs, and the learning rate falls after 28 and 34.",
            _ALLOCATED,
        ),
    ),
    "dcn": Section(
        heading="Deformable Convolution v2",
        columns=("Backbone", "Model", "Style", "Conv", "Pool", "Lr schd"),
        precisions=_BOX_AND_MASK,
        notes=(
            "`dconv` and `mdconv` are (modulated) deformable convolutions in stages 3 to 5 of the ResNet; "
            "`dpool` and `mdpool` are (modulated) deformable RoI pooling.",
            _ALLOCATED,
        ),
    ),
    catalogue.SMOKE: Section(
        heading="Small recipes",
        columns=("Recipe",),
        precisions=("boxAP", "maskAP", "ar1000"),
        notes=("They learn from scratch on a CPU, and nothing is published for them.",),
    ),
    "yours": Section(
        heading="Recipes of your own", columns=("Recipe",), precisions=("boxAP", "maskAP", "ar1000")
    ),
}
"""In the order of the page; those of 2019, then those it does not have."""


def _backbone(row: Row) -> str:
    facets = catalogue.read_facets(row["recipe"])
    name = _BACKBONES.get(facets.backbone or "", "") if facets else ""
    if row["section"] == "gn":
        return f"{name} ({'c' if 'contrib' in row['recipe'] else 'd'})"
    return name or "-"


def _facet(name: str, names: Mapping[str, str] | None = None) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        facets = catalogue.read_facets(row["recipe"])
        value = getattr(facets, name) if facets else None
        return (names or {}).get(value or "", value or "-")

    return cell


def _found(pattern: str, form: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        found = re.search(pattern, row["recipe"])
        return form.format(found[1]) if found else "-"

    return cell


CELLS: dict[str, Callable[[Row], str]] = {
    "Recipe": lambda row: str(row["recipe"]),
    "Backbone": _backbone,
    "Style": _facet("style"),
    "Type": _facet("method", _TYPES),
    "Size": _found(r"ssd(\d+)", "{}"),
    "model": _facet("method", _MODELS),
    "Model": _facet("method", _MODELS),
    "Conv": _found(r"_(m?dconv)_c3_c5", "{}(c3-c5)"),
    "Pool": _found(r"_(m?dpool)_", "{}"),
    "Lr schd": _facet("schedule"),
}
"""Column to what a row says in it."""
