"""What it costs to score detections of a split as large as COCO's, by both libraries side by side.

Prints one JSON document: for boxes and for masks the seconds of wall time and of processor time, over all
threads, of each library, and whether what they say is equal to the last bit. The goal: hotcoco scores
5,000 images with 100 boxes each in 2 s of processor time, all of what a scorer reports included.

    python benchmarks/evaluation.py [--images 5000] [--fast-only]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data import run_lengths
from kubedet_trainer.data.arrays import Truth
from kubedet_trainer.evaluation.coco import CocoScorer
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.evaluation.libraries import Hotcoco, Pycocotools
from kubedet_trainer.evaluation.scores import Scores

_CLASSES = 80
_OBJECTS = 7
"""Of an image, as in COCO."""
_SIZE = (480, 640)
_ROUNDS = 3


def main() -> None:
    """Measure boxes and masks, and print both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000, help="images with 100 boxes each")
    parser.add_argument("--fast-only", action="store_true", help="leave out pycocotools, which takes minutes")
    arguments = parser.parse_args()
    is_judged = not arguments.fast_only
    document = {
        "boxes": measure("bbox", arguments.images, per_image=100, is_judged=is_judged),
        "masks": measure("segm", arguments.images // 8, per_image=20, is_judged=is_judged),
    }
    print(json.dumps(document, indent=2))


def measure(kind: str, images: int, *, per_image: int, is_judged: bool) -> dict[str, Any]:
    """Times of each library on the same made-up detections, the best of some rounds for the fast one."""
    random = np.random.default_rng(0)
    truth = make_truth(random, images=images, with_masks=kind == "segm")
    found = make_found(truth, random, per_image=per_image)

    def score(library: type[Hotcoco | Pycocotools]) -> Scores:
        # A new scorer each time, as each evaluation has: what it makes of the annotations is included.
        return CocoScorer(truth, kind=kind, library=library(truth)).score(found)

    rounds = [timed(lambda: score(Hotcoco)) for _ in range(_ROUNDS)]
    fast, scores = min(rounds, key=lambda one: one[0]["cpu_seconds"])
    document: dict[str, Any] = {"images": images, "detections": len(found), "hotcoco": fast}
    if is_judged:
        slow, judged = timed(lambda: score(Pycocotools))
        document |= {
            "pycocotools": slow,
            "ratio_of_cpu_seconds": round(slow["cpu_seconds"] / fast["cpu_seconds"], 1),
            "equal": scores.figures == judged.figures
            and [one.figures for one in scores.classes] == [one.figures for one in judged.classes]
            and bool((scores.matching.found == judged.matching.found).all()),
        }
    return document


def timed(work: Callable[[], Scores]) -> tuple[dict[str, float], Scores]:
    """Seconds that `work` takes, and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    scores = work()
    return {
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "wall_seconds": round(time.perf_counter() - wall, 2),
    }, scores


def make_truth(random: np.random.Generator, *, images: int, with_masks: bool) -> Truth:
    """Objects of 80 classes, some of them crowds."""
    rows = np.repeat(np.arange(images), _OBJECTS)
    boxes = _boxes(random, len(rows))
    masks: dict[str, Any] = {}
    if with_masks:
        codes = _codes(boxes)
        ends = np.cumsum([len(code) for code in codes])
        masks["mask_spans"] = np.stack([ends - [len(code) for code in codes], ends], axis=1)
        masks["mask_bytes"] = np.frombuffer(b"".join(codes), np.uint8)
    return Truth(
        image_ids=np.arange(images) + 1,
        sizes=np.full((images, 2), _SIZE, np.int32),
        category_ids=np.arange(_CLASSES) + 1,
        rows=rows,
        labels=random.integers(1, _CLASSES + 1, len(rows)),
        boxes=boxes,
        areas=boxes[:, 2:].prod(axis=1),
        crowd=random.random(len(rows)) < 0.02,
        ignored=np.zeros(len(rows), np.bool_),
        **masks,
    )


def make_found(truth: Truth, random: np.random.Generator, *, per_image: int) -> DetectionTable:
    """Every object about where it is, and others up to `per_image`."""
    hits = np.arange(len(truth.rows))
    wrong = np.repeat(np.arange(len(truth.image_ids)), per_image - _OBJECTS)
    rows = np.concatenate([truth.rows, wrong])
    boxes = np.concatenate([
        truth.boxes[hits] + random.normal(0, 3, (len(hits), 4)), _boxes(random, len(wrong))
    ])  # fmt: skip
    boxes[:, 2:] = boxes[:, 2:].clip(2)
    codes = _codes(boxes) if truth.mask_spans is not None else None
    corners = boxes.copy()
    corners[:, 2:] += corners[:, :2] - 1
    return DetectionTable(
        image_ids=truth.image_ids[rows],
        labels=np.concatenate([truth.labels, random.integers(1, _CLASSES + 1, len(wrong))]),
        boxes=corners.astype(np.float32),
        scores=random.random(len(rows)).astype(np.float32),
        masks=None if codes is None else np.array(codes, np.object_),
        mask_sizes=None if codes is None else np.full((len(rows), 2), _SIZE),
    )


def _boxes(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    sides = np.exp(random.uniform(np.log(8), np.log(300), (count, 2)))
    corners = random.random((count, 2)) * (np.array(_SIZE[::-1]) - sides)
    return np.concatenate([corners, sides], axis=1)


def _codes(boxes: NDArray[np.float64]) -> list[bytes]:
    return [run_lengths.of_box(box, size=_SIZE) for box in boxes.tolist()]


if __name__ == "__main__":
    main()
