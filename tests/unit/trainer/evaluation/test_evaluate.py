"""Scores of a detector over a validation split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dataset_builders import ALONE, annotation_record, image_record, load_coco, make_image, write_annotations
from kubedet_trainer.config.recipe import EvaluationKind
from kubedet_trainer.data import loader, splits
from kubedet_trainer.data.splits import Split
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.evaluation.coco import build_scorer
from kubedet_trainer.evaluation.evaluate import Evaluation, evaluate
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.structures import Batch, Detections, Images

CPU = torch.device("cpu")


class Oracle(Detector):
    """Recognises an image by its brightness and gives back its boxes, filled, `error` pixels off."""

    def __init__(self, split: Split, pipeline: Pipeline, *, error: float = 0.0) -> None:
        super().__init__(Task(num_classes=3))
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
        scores, masks = torch.ones(len(labels)), torch.ones(len(labels), 28, 28)
        return [Detections(boxes=boxes + self._error, scores=scores, labels=labels, masks=masks)]


def batches_of(split: Split, pipeline: Pipeline) -> Iterator[Batch]:
    return iter(loader.val_loader(split, pipeline=pipeline, world=ALONE, num_workers=0))


def filled_record(number: int, *, bbox: tuple[float, ...] = (4, 5, 20, 10), **more: Any) -> dict[str, Any]:
    """An annotation whose mask is its whole box."""
    x, y, width, height = bbox
    outline = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    return annotation_record(number, bbox=bbox, segmentation=outline, **more)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Four images of classes with the ids 1 and 2; the last image is empty."""
    for number in range(1, 5):
        make_image(tmp_path / "images", f"{number}.jpg", seed=number)
    annotations = [
        filled_record(1, image=1),
        filled_record(2, image=2, bbox=(10, 10, 40, 36), category_id=2),
        filled_record(3, image=3, bbox=(0, 0, 64, 48)),
        filled_record(4, image=3, bbox=(8, 8, 16, 16), iscrowd=1),
    ]
    file = write_annotations(
        tmp_path / "instances.json", images=[image_record(n) for n in range(1, 5)], annotations=annotations
    )
    loaded = load_coco(file, cache=tmp_path / "cache", truth=True, masks=True)
    return splits.validation_split(loaded, folder=tmp_path / "images")


def run(split: Split, oracle: Oracle, *, kind: EvaluationKind = "bbox", **more: Any) -> Evaluation | None:
    return evaluate(
        oracle,
        batches_of(split, Pipeline(scale=(96, 72))),
        num_images=len(split),
        scorer=build_scorer(kind, truth=split.annotations.truth),
        device=CPU,
        **more,
    )


@pytest.mark.parametrize(("kind", "name"), [("bbox", "boxAP"), ("segm", "maskAP"), ("proposal", "ar1000")])
def test_a_perfect_detector_reaches_100_percent(split: Split, kind: EvaluationKind, name: str) -> None:
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
