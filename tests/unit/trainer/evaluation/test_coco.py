"""Scores of published results, and the tables they are taken from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import golden_files
from dataset_builders import load_truth
from kubedet_trainer.config.recipe import EvaluationKind
from kubedet_trainer.data import run_lengths
from kubedet_trainer.data.arrays import Truth
from kubedet_trainer.evaluation.coco import build_scorer
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.structures import Detections

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@pytest.fixture(scope="module")
def published(shared: Path) -> Path:
    return shared / "data/cocoeval"


def table_of(folder: Path, *, kind: str) -> DetectionTable:
    """The published results for boxes or masks, as the trainer keeps its own."""
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    found = json.loads((folder / f"instances_val2014_fake{kind}100_results.json").read_text())
    labels = {category["id"]: label for label, category in enumerate(truth["categories"], start=1)}
    masks = [record["segmentation"] for record in found] if kind == "segm" else None
    boxes = np.array([record["bbox"] for record in found] if masks is None else [box_of(m) for m in masks])
    boxes[:, 2:] += boxes[:, :2] - 1
    return DetectionTable(
        image_ids=np.array([record["image_id"] for record in found]),
        labels=np.array([labels[record["category_id"]] for record in found]),
        boxes=boxes.astype(np.float64),  # a box area at the edge between small and medium stays there
        scores=np.array([record["score"] for record in found]),
        masks=None if masks is None else np.array([m["counts"].encode() for m in masks], np.object_),
        mask_sizes=None if masks is None else np.array([m["size"] for m in masks]),
    )


def box_of(code: dict[str, Any]) -> list[float]:
    """x, y, width and height of a square as large as the mask: pycocotools sorts by the area of the mask
    where results have no boxes, as the published ones."""
    area = run_lengths.areas([code["counts"].encode()])[0]
    return [0.0, 0.0, float(area), 1.0]


@pytest.fixture(scope="module")
def truth(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Truth:
    file = published / "instances_val2014_100.json"
    return load_truth(file, cache=tmp_path_factory.mktemp("cache"), masks=True)


@pytest.mark.parametrize(("kind", "name", "precision"), [("bbox", "box", 50.4581), ("segm", "mask", 31.9545)])
def test_published_figures_are_reproduced(
    published: Path, truth: Truth, kind: EvaluationKind, name: str, precision: float
) -> None:
    text = (published / "published.txt").read_text()
    (section,) = (part for part in text.split("-" * 78) if f"type={kind}" in part)
    figures = [float(line.rpartition("=")[2]) for line in section.splitlines() if "Average" in line]
    metrics = build_scorer(kind, truth=truth).score(table_of(published, kind=kind)).figures
    assert [round(metrics[f"{name}{figure}"] / 100, 3) for figure in FIGURES] == figures
    assert metrics[f"{name}AP"] == pytest.approx(precision, abs=5e-5)
    assert len(metrics) == (24 if kind == "segm" else 12)


def test_scoring_prints_nothing(published: Path, truth: Truth, capfd: pytest.CaptureFixture[str]) -> None:
    build_scorer("bbox", truth=truth).score(table_of(published, kind="bbox").above(0.99))
    assert capfd.readouterr().out == ""


def test_proposals_are_scored_without_classes(published: Path, truth: Truth) -> None:
    table = table_of(published, kind="bbox")
    metrics = build_scorer("proposal", truth=truth).score(table).figures
    assert list(metrics)[:6] == ["ar100", "ar300", "ar1000", "ar1000s", "ar1000m", "ar1000l"]
    assert metrics["ar1000"] > build_scorer("bbox", truth=truth).score(table).figures["boxAR100"]


@pytest.mark.parametrize(("kind", "name"), [("bbox", "boxAP"), ("segm", "maskAP"), ("proposal", "ar1000")])
def test_no_detection_at_all_scores_zero(truth: Truth, kind: EvaluationKind, name: str) -> None:
    metrics = build_scorer(kind, truth=truth).score(DetectionTable.joined([])).figures
    assert metrics[name] == 0.0
    assert set(metrics.values()) == {0.0}


def test_results_have_the_zoos_json() -> None:
    golden = golden_files.read_unit("det2json")
    rows = [(int(label) + 1, *row) for label, found in golden["dets"].items() for row in found]
    table = DetectionTable(
        image_ids=np.full(len(rows), golden["img_id"]),
        labels=np.array([row[0] for row in rows]),
        boxes=np.array([row[1:5] for row in rows], np.float32),
        scores=np.array([row[5] for row in rows], np.float32),
    )
    categories = golden_files.read_unit("coco_parse")["json"]["categories"]
    category_ids = [category["id"] for category in categories]
    found = table.to_coco(category_ids)
    assert [
        {**record, "score": pytest.approx(record["score"], rel=1e-8)} for record in golden["json"]
    ] == found


def found_in(image_id: int, scores: list[float], *, with_masks: bool = True) -> DetectionTable:
    """Detections whose masks fill the upper halves of boxes that are wider from one to the next."""
    count = len(scores)
    boxes = torch.tensor([[10.0, 4.0, 12.0 + row, 23.0] for row in range(count)]).reshape(count, 4)
    masks = torch.zeros(count, 28, 28)
    masks[:, :14] = 1
    detections = Detections(
        boxes=boxes,
        scores=torch.tensor(scores),
        labels=torch.ones(count, dtype=torch.int64),
        masks=masks if with_masks else None,
    )
    return DetectionTable.of_image(image_id, detections=detections, size=(30 + image_id, 40))


def test_masks_stay_with_their_detections_when_tables_are_joined_and_cut() -> None:
    tables = [found_in(3, [0.9, 0.2]), found_in(4, []), found_in(5, [0.1, 0.8])]
    joined = DetectionTable.joined([DetectionTable.joined(tables), DetectionTable.joined([])])
    assert joined.image_ids.tolist() == [3, 3, 5, 5]
    first, last = joined.above(0.5).to_coco([7])
    assert joined.of(5).above(0.5).to_coco([7]) == [last]
    assert (first["category_id"], first["area"], last["area"]) == (7, 3 * 10, 4 * 10)
    assert json.loads(json.dumps(last))["segmentation"]["size"] == [35, 40]
    mask = run_lengths.decode(last["segmentation"]["counts"].encode(), size=(35, 40))
    assert mask[4:14, 10:14].all()
    assert mask.sum() == 40


def test_a_detector_of_boxes_has_no_masks() -> None:
    joined = DetectionTable.joined([found_in(3, [0.9], with_masks=False), found_in(4, [], with_masks=False)])
    assert joined.masks is None
    assert "segmentation" not in joined.to_coco([7])[0]
