"""What the zoo's page of February 2019 reports for each recipe: the figures that ours stand beside.

Source: MODEL_ZOO.md of MMDetection v0.6rc0 (commit 07e1f5d), 8 V100, 2 images each, COCO train2017 and
val2017. Memory is the caching allocator's high-water mark and includes what it holds unused; frames per
second are of batch 1 and include loading and post-processing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PublishedFigures:
    """One row of the page."""

    memory_gb: float
    """Peak reserved memory of one GPU."""
    seconds_per_iteration: float
    """Wall time of one step of 16 images."""
    inference_fps: float
    """Images per second of one GPU at batch 1."""
    box_ap: float | None = None
    """COCO box AP in percent, for detectors."""
    ar1000: float | None = None
    """Average recall of 1000 proposals in percent, for proposal networks."""

    def as_results(self) -> dict[str, float]:
        """The figures under the names of `contract.Results`, absent ones left out."""
        named = {
            "memoryGB": self.memory_gb,
            "secondsPerIteration": self.seconds_per_iteration,
            "inferenceFps": self.inference_fps,
            "boxAP": self.box_ap,
            "ar1000": self.ar1000,
        }
        return {name: value for name, value in named.items() if value is not None}


def _row(memory_gb: float, seconds: float, fps: float, **quality: float) -> PublishedFigures:
    return PublishedFigures(memory_gb=memory_gb, seconds_per_iteration=seconds, inference_fps=fps, **quality)


PUBLISHED: dict[str, PublishedFigures] = {
    "rpn_r50_caffe_fpn_1x": _row(4.5, 0.379, 14.4, ar1000=58.2),
    "rpn_r50_fpn_1x": _row(4.8, 0.407, 14.5, ar1000=57.1),
    "rpn_r50_fpn_2x": _row(4.8, 0.407, 14.5, ar1000=57.6),
    "faster_rcnn_r50_caffe_fpn_1x": _row(4.9, 0.525, 10.0, box_ap=36.7),
    "faster_rcnn_r50_fpn_1x": _row(5.1, 0.554, 9.9, box_ap=36.4),
    "faster_rcnn_r50_fpn_2x": _row(5.1, 0.554, 9.9, box_ap=37.7),
}
"""Recipe to its row."""
