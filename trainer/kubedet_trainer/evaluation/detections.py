"""What detectors found in many images, as columns, and on its way into COCO's format.

Corners are inclusive inside the trainer, so a width is x2 - x1 + 1 in a file (`docs/zoo.md`, 0.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data import run_lengths
from kubedet_trainer.data.run_lengths import Size

if TYPE_CHECKING:  # what reads reports has no torch to load
    from kubedet_trainer.structures import Detections


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionTable:
    """Detections of many images, D in all."""

    image_ids: NDArray[np.int64]
    """(D,) the data set's own."""
    labels: NDArray[np.int64]
    """(D,) 1 and up."""
    boxes: NDArray[np.float32]
    """(D, 4) xyxy with inclusive corners, in pixels of the original image."""
    scores: NDArray[np.float32]
    """(D,)"""
    masks: NDArray[np.object_] | None = None
    """(D,) run-length codes of bytes, see `segmentation`; None where the detector finds boxes only."""
    mask_sizes: NDArray[np.int64] | None = None
    """(D, 2) height and width of the images that the masks lie in."""

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of_image(cls, image_id: int, *, detections: Detections, size: Size) -> DetectionTable:
        """The detections of one image of this height and width, masks pasted into it."""
        boxes = detections.boxes.float().cpu().numpy()
        count = len(boxes)
        masks = mask_sizes = None
        if detections.masks is not None:
            pasted = run_lengths.paste(detections.masks.float().cpu().numpy(), boxes=boxes, size=size)
            masks = np.fromiter(pasted, np.object_, count)
            mask_sizes = np.full((count, 2), size, np.int64)
        return cls(
            image_ids=np.full(count, image_id, np.int64),
            labels=detections.labels.cpu().numpy(),
            boxes=boxes,
            scores=detections.scores.float().cpu().numpy(),
            masks=masks,
            mask_sizes=mask_sizes,
        )

    @classmethod
    def joined(cls, tables: Sequence[DetectionTable]) -> DetectionTable:
        """One table of all, in the given order; with masks where all that are not empty have them."""
        filled = [table for table in tables if len(table)] or [_EMPTY]
        columns: dict[str, Any] = {}
        for field in fields(cls):
            parts = [getattr(table, field.name) for table in filled]
            columns[field.name] = None if any(part is None for part in parts) else np.concatenate(parts)
        return cls(**columns)

    def of(self, image_id: int) -> DetectionTable:
        """The part that belongs to one image."""
        return self.rows(self.image_ids == image_id)

    def above(self, threshold: float) -> DetectionTable:
        """Those that score at least `threshold`."""
        return self.rows(self.scores >= threshold)

    def rows(self, chosen: NDArray[np.bool_]) -> DetectionTable:
        """Those that are `chosen`, (D,)."""
        columns: dict[str, Any] = {
            field.name: None if (column := getattr(self, field.name)) is None else column[chosen]
            for field in fields(self)
        }
        return DetectionTable(**columns)

    def coco_boxes(self) -> NDArray[np.float64]:
        """(D, 4) x, y, width and height, as COCO has them."""
        boxes = self.boxes.astype(np.float64)
        boxes[:, 2:] += 1 - boxes[:, :2]
        return boxes

    def to_coco(self, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """COCO's results format; `category_ids` are those of the labels 1, 2, ..."""
        categories = np.array(category_ids, np.int64)[self.labels - 1]
        columns = (self.image_ids, categories, self.scores, self.coco_boxes())
        rows = zip(*(column.tolist() for column in columns), strict=True)
        records: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": category, "score": score, "bbox": box}
            for image_id, category, score, box in rows
        ]
        if self.masks is not None and self.mask_sizes is not None:
            areas = run_lengths.areas(self.masks).tolist()
            masks = zip(records, self.mask_sizes.tolist(), self.masks, areas, strict=True)
            for record, size, code, area in masks:
                record |= {"segmentation": {"size": size, "counts": code.decode()}, "area": area}
        return records


_EMPTY = DetectionTable(
    image_ids=np.empty(0, np.int64),
    labels=np.empty(0, np.int64),
    boxes=np.empty((0, 4), np.float32),
    scores=np.empty(0, np.float32),
)
