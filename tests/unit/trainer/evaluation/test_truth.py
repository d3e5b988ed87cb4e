"""What detections are compared with: the table that training reads, not the user's file."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dataset_builders import annotation_record, image_record, load_truth, write_annotations
from kubedet_trainer import config, recipes
from kubedet_trainer.data.arrays import Truth
from kubedet_trainer.evaluation.coco import build_scorer
from kubedet_trainer.evaluation.detections import DetectionTable


def of_pycocotools(folder: Path, *, kind: str, file: Path) -> list[float]:
    """The twelve figures that pycocotools itself has for an untouched file."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        found = truth.loadRes(str(folder / f"instances_val2014_fake{kind}100_results.json"))
        scoring = COCOeval(truth, found, kind)
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    return [100 * float(value) for value in scoring.stats]


def results(folder: Path, truth: Truth, *, kind: str) -> DetectionTable:
    """The published results as the trainer keeps its own."""
    records = json.loads((folder / f"instances_val2014_fake{kind}100_results.json").read_text())
    labels = {number: label for label, number in enumerate(truth.category_ids.tolist(), start=1)}
    boxes = np.array([record.get("bbox", [0, 0, 1, 1]) for record in records], np.float64)
    boxes[:, 2:] += boxes[:, :2] - 1
    masks = [record.get("segmentation") for record in records]
    has_masks = kind == "segm"
    return DetectionTable(
        image_ids=np.array([record["image_id"] for record in records]),
        labels=np.array([labels[record["category_id"]] for record in records]),
        boxes=boxes,  # type: ignore[arg-type]  # the published boxes have more digits than ours
        scores=np.array([record["score"] for record in records]),
        masks=np.array([mask["counts"].encode() for mask in masks], np.object_) if has_masks else None,
        mask_sizes=np.array([mask["size"] for mask in masks]) if has_masks else None,
    )


@pytest.mark.parametrize(("kind", "name"), [("bbox", "box"), ("segm", "mask")])
@pytest.mark.parametrize("order", ["as published", "backwards"])
def test_figures_are_pycocotools_own_to_the_last_bit(
    shared: Path, kind: Any, name: str, order: str, tmp_path: Path
) -> None:
    folder = shared / "data/cocoeval"
    file = folder / "instances_val2014_100.json"
    if order == "backwards":
        content = json.loads(file.read_text())
        for section in ("images", "annotations", "categories"):
            content[section].reverse()
        file = tmp_path / "backwards.json"
        file.write_text(json.dumps(content))
    truth = load_truth(file, cache=tmp_path / "cache", masks=True)
    found = results(folder, truth, kind=kind)
    if kind == "segm":  # pycocotools takes the area of the mask where results have no box
        records = found.to_coco(truth.category_ids.tolist())
        areas = [record["area"] for record in records]
        found.boxes[:] = [[0, 0, area - 1, 0] for area in areas]
    figures = build_scorer(kind, truth=truth).score(found).figures
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    assert [figures[f"{name}{figure}"] for figure in names] == of_pycocotools(folder, kind=kind, file=file)


def write(
    root: Path,
    *annotations: dict[str, Any],
    images: int = 2,
    **ids: Any,
) -> Truth:
    records = [image_record(number, width=640, height=480) for number in range(1, images + 1)]
    file = write_annotations(root / "x.json", images=records, annotations=annotations)
    return load_truth(file, cache=root / "cache", **ids)


def perfect(truth: Truth, *, scores: float = 0.9, without: tuple[int, ...] = ()) -> DetectionTable:
    """Every object found exactly, except those in the rows `without`."""
    kept = np.setdiff1d(np.arange(len(truth.labels)), without)
    boxes = truth.boxes[kept].copy()
    boxes[:, 2:] += boxes[:, :2] - 1
    return DetectionTable(
        image_ids=truth.image_ids[truth.rows[kept]],
        labels=truth.labels[kept],
        boxes=boxes.astype(np.float32),
        scores=np.full(len(kept), scores, np.float32),
    )


@pytest.mark.parametrize("first", [0, 1, -5, 10**9])
def test_perfect_detections_score_100_wherever_ids_begin(first: int, tmp_path: Path) -> None:
    truth = write(tmp_path, *(annotation_record(first + n, image=1 + n) for n in range(2)))
    assert build_scorer("bbox", truth=truth).score(perfect(truth)).figures["boxAP"] == pytest.approx(100)


@pytest.mark.parametrize("kind", ["bbox", "voc"])
@pytest.mark.parametrize("is_found", [True, False])
def test_an_ignored_object_counts_neither_way(kind: Any, is_found: bool, tmp_path: Path) -> None:
    truth = write(
        tmp_path,
        annotation_record(0, image=1),
        annotation_record(1, image=2, bbox=(100, 100, 50, 60), ignore=1),
    )
    found = perfect(truth, without=() if is_found else (1,))
    assert build_scorer(kind, truth=truth).score(found).figures["boxAP"] == pytest.approx(100)


def test_a_detection_beside_an_ignored_object_is_wrong(tmp_path: Path) -> None:
    truth = write(
        tmp_path, annotation_record(0, image=1), annotation_record(1, image=1, bbox=(99, 99, 50, 60))
    )
    ignoring = write(
        tmp_path / "b",
        annotation_record(0, image=1),
        annotation_record(1, image=1, bbox=(200, 200, 50, 60), ignore=1),
    )
    assert build_scorer("bbox", truth=ignoring).score(perfect(truth, scores=0.9)).figures["boxAP"] <= 100
    score = (
        build_scorer("bbox", truth=ignoring)
        .score(
            DetectionTable.joined([perfect(truth, scores=0.95, without=(0,)), perfect(truth, without=(1,))])
        )
        .figures
    )
    assert score["boxAP"] == pytest.approx(50, abs=1)


@pytest.mark.parametrize(("limit", "recall"), [(100, 100 / 3), (300, 100.0), (500, 100.0)])
def test_so_many_detections_of_an_image_count_as_the_detector_gives(
    limit: int, recall: float, tmp_path: Path
) -> None:
    records = [
        annotation_record(n, image=1, bbox=((n % 20) * 30 + 2, (n // 20) * 30 + 2, 22, 22))
        for n in range(300)
    ]
    truth = write(tmp_path, *records)
    figures = build_scorer("bbox", truth=truth, max_detections=limit).score(perfect(truth)).figures
    assert figures[f"boxAR{limit}"] == pytest.approx(recall)
    assert figures["boxAP"] == pytest.approx(recall, abs=1)


@pytest.mark.parametrize("more", [{"iscrowd": 1}, {"ignore": 1}])
@pytest.mark.parametrize("outline", [None, []])
def test_a_crowd_or_an_ignored_object_without_an_outline_covers_its_box(
    more: dict[str, Any], outline: Any, tmp_path: Path
) -> None:
    square = [[4, 5, 24, 5, 24, 15, 4, 15]]
    bare = annotation_record(1, image=2, **more) | ({} if outline is None else {"segmentation": outline})
    truth = write(tmp_path, annotation_record(0, image=1, segmentation=square), bare, masks=True)
    table = perfect(truth)
    assert truth.mask_bytes is not None
    code = truth.mask_bytes.tobytes()
    masks = DetectionTable(
        image_ids=table.image_ids,
        labels=table.labels,
        boxes=table.boxes,
        scores=table.scores,
        masks=np.array([code, code], np.object_),
        mask_sizes=np.array([[480, 640]] * 2),
    )
    figures = build_scorer("segm", truth=truth).score(masks).figures
    assert figures["maskAP"] == pytest.approx(100)


def test_an_area_of_zero_counts_in_evaluation(tmp_path: Path) -> None:
    truth = write(tmp_path, annotation_record(0, image=1), annotation_record(1, image=2, area=0))
    figures = build_scorer("bbox", truth=truth).score(perfect(truth, without=(1,))).figures
    assert figures["boxAR100"] == pytest.approx(50)


@pytest.mark.parametrize(
    ("recipe", "overrides", "limit"),
    [
        ("faster_rcnn_r50_fpn_1x", {}, 100),
        ("ssd300_coco", {}, 100),
        ("faster_rcnn_r50_fpn_1x", {"model.box_head.max_detections": "300"}, 300),
        ("faster_rcnn_r50_fpn_1x", {"model.box_head.max_detections": "20"}, 100),
        ("ssd300_coco", {"evaluation_detections": "none"}, 200),
        ("retinanet_r50_fpn_1x", {"evaluation_detections": "500"}, 500),
    ],
)
def test_the_limit_of_evaluation_follows_the_detectors_and_is_100_for_the_zoo(
    recipe: str, overrides: dict[str, str], limit: int
) -> None:
    assert config.detection_limit(config.apply_overrides(recipes.read_recipe(recipe), overrides)) == limit
