"""Scores, from published results and from a detector over a validation split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dataset_builders import annotation_record, image_record, make_image, write_annotations
from kubedet_trainer.config import NormalisationConfig
from kubedet_trainer.data import coco, loader, splits
from kubedet_trainer.data.splits import Split
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.evaluate import DetectionTable, Evaluation, Scorer, evaluate
from kubedet_trainer.structures import Batch, Detections, Images

PLAIN = NormalisationConfig(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), to_rgb=False)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def published(shared: Path) -> Path:
    return shared / "data/cocoeval"


@pytest.fixture(scope="module")
def published_results(published: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(
        (published / "instances_val2014_fakebbox100_results.json").read_text()
    )
    return content


def test_published_figures_are_reproduced(published: Path, published_results: list[dict[str, Any]]) -> None:
    text = (published / "published.txt").read_text()
    (section,) = (part for part in text.split("-" * 78) if "type=bbox" in part)
    figures = [float(line.rpartition("=")[2]) for line in section.splitlines() if "Average" in line]
    metrics = Scorer(published / "instances_val2014_100.json", kind="bbox").score(published_results)
    assert list(metrics) == [
        *("boxAP", "boxAP50", "boxAP75", "boxAPs", "boxAPm", "boxAPl"),
        *("boxAR1", "boxAR10", "boxAR100", "boxARs", "boxARm", "boxARl"),
    ]
    assert [round(value / 100, 3) for value in metrics.values()] == figures
    assert metrics["boxAP"] == pytest.approx(50.4581, abs=5e-5)


def test_scoring_prints_nothing(
    published: Path, published_results: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    Scorer(published / "instances_val2014_100.json", kind="bbox").score(published_results[:10])
    assert capfd.readouterr().out == ""


def test_proposals_are_scored_without_classes(
    published: Path, published_results: list[dict[str, Any]]
) -> None:
    scorer = Scorer(published / "instances_val2014_100.json", kind="proposal")
    metrics = scorer.score([{**result, "category_id": 1} for result in published_results])
    assert metrics == scorer.score(published_results)
    assert list(metrics) == ["ar100", "ar300", "ar1000", "ar1000s", "ar1000m", "ar1000l"]
    by_class = Scorer(published / "instances_val2014_100.json", kind="bbox").score(published_results)
    assert metrics["ar1000"] > by_class["boxAR100"]


@pytest.mark.parametrize(("kind", "name"), [("bbox", "boxAP"), ("proposal", "ar1000")])
def test_no_detection_at_all_scores_zero(published: Path, kind: str, name: str) -> None:
    metrics = Scorer(published / "instances_val2014_100.json", kind=kind).score([])
    assert metrics[name] == 0.0
    assert set(metrics.values()) == {0.0}


def test_results_have_the_zoos_json(shared: Path) -> None:
    goldens = json.loads((shared / "spec/goldens/unit_goldens.json").read_text())
    golden = goldens["det2json"]
    rows = [(int(label) + 1, *row) for label, found in golden["dets"].items() for row in found]
    table = DetectionTable(
        image_ids=np.full(len(rows), golden["img_id"]),
        labels=np.array([row[0] for row in rows]),
        boxes=np.array([row[1:5] for row in rows], np.float32),
        scores=np.array([row[5] for row in rows], np.float32),
    )
    category_ids = [category["id"] for category in goldens["coco_parse"]["json"]["categories"]]
    found = table.to_coco(category_ids)
    assert [
        {**record, "score": pytest.approx(record["score"], rel=1e-8)} for record in golden["json"]
    ] == found
    assert [record["category_id"] for record in table.to_coco(None)] == [1, 1]


class Oracle(nn.Module):
    """Recognises an image by its brightness and gives back its boxes, `error` pixels off."""

    def __init__(self, split: Split, pipeline: Pipeline, *, error: float = 0.0) -> None:
        super().__init__()
        self._error = error
        self._truth: dict[int, tuple[Tensor, Tensor]] = {}
        for row, batch in enumerate(batches_of(split, pipeline)):
            boxes, labels = split.annotations.ground_truth(row)
            self._truth[int(batch.pixels.sum())] = (
                torch.from_numpy(boxes.copy()),
                torch.from_numpy(labels).long(),
            )
        self.seen: list[int] = []

    def detect(self, images: Images, scale_factors: Tensor) -> list[Detections]:
        assert not self.training
        assert scale_factors.shape == (1, 4)
        key = round(images.pixels.double().sum().item())
        self.seen.append(key)
        boxes, labels = self._truth[key]
        return [Detections(boxes=boxes + self._error, scores=torch.ones(len(labels)), labels=labels)]


def batches_of(split: Split, pipeline: Pipeline) -> Iterator[Batch]:
    return iter(
        loader.val_loader(split, pipeline=pipeline, rank=0, world_size=1, num_workers=0, pin_memory=False)
    )


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Four images of classes with the ids 1 and 2; the last image is empty."""
    for number in range(1, 5):
        make_image(tmp_path / "images", f"{number}.jpg", seed=number)
    annotations = [
        annotation_record(1, image=1),
        annotation_record(2, image=2, bbox=(10, 10, 40, 36), category_id=2),
        annotation_record(3, image=3, bbox=(0, 0, 64, 48)),
        annotation_record(4, image=3, bbox=(8, 8, 16, 16), iscrowd=1),
    ]
    file = write_annotations(
        tmp_path / "instances.json", images=[image_record(n) for n in range(1, 5)], annotations=annotations
    )
    loaded = coco.load_annotations(file, cache=tmp_path / "cache")
    return splits.validation_split(loaded, folder=tmp_path / "images")


def run(split: Split, oracle: Oracle, *, kind: str = "bbox", **more: Any) -> Evaluation | None:
    return evaluate(
        oracle,
        batches_of(split, Pipeline(scale=(96, 72))),
        num_images=len(split),
        scorer=Scorer(split.folder.parent / "instances.json", kind=kind),
        category_ids=split.annotations.category_ids,
        normalisation=PLAIN,
        device=CPU,
        **more,
    )


@pytest.mark.parametrize(("kind", "name"), [("bbox", "boxAP"), ("proposal", "ar1000")])
def test_a_perfect_detector_reaches_100_percent(split: Split, kind: str, name: str) -> None:
    oracle = Oracle(split, Pipeline(scale=(96, 72)))
    oracle.train()
    evaluation = run(split, oracle, kind=kind)
    assert evaluation is not None
    assert evaluation.metrics[name] == pytest.approx(100.0)
    assert len(oracle.seen) == 4
    assert oracle.training
    assert evaluation.detections.image_ids.tolist() == [1, 2, 3]
    assert evaluation.detections.of(2).labels.tolist() == [2]


def test_a_shifted_detector_scores_less(split: Split) -> None:
    evaluation = run(split, Oracle(split, Pipeline(scale=(96, 72)), error=3.0))
    assert evaluation is not None
    assert 0 < evaluation.metrics["boxAP"] < 90


def test_sizes_that_do_not_occur_have_no_figure(split: Split) -> None:
    evaluation = run(split, Oracle(split, Pipeline(scale=(96, 72))))
    assert evaluation is not None
    assert "boxAPl" not in evaluation.metrics
    assert evaluation.metrics["boxAPs"] == pytest.approx(100.0)


def test_evaluation_stops_between_images_when_told(split: Split) -> None:
    oracle = Oracle(split, Pipeline(scale=(96, 72)))
    answers = iter([False, False, True])
    assert run(split, oracle, should_stop=lambda: next(answers)) is None
    assert len(oracle.seen) == 2
