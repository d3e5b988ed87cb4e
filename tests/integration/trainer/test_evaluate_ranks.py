"""Evaluation shared between real processes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dataset_builders import annotation_record, image_record, load_truth, write_annotations
from kubedet_trainer import dist
from kubedet_trainer.data.arrays import Truth
from kubedet_trainer.evaluation.coco import build_scorer
from kubedet_trainer.evaluation.evaluate import evaluate
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.structures import Batch, Detections, Images, Targets
from rank_processes import run_ranks

_IMAGES = 5


class _Finder(Detector):
    """Finds one filled box in every image, at the place that `share` hides in the pixels."""

    def detect(self, images: Images, scale_factors: Tensor) -> list[Detections]:
        corner = images.pixels[0, 0, 0, 0].float()
        box = torch.stack([corner, corner, corner + 19, corner + 9])[None]
        labels = torch.ones(1, dtype=torch.int64)
        return [Detections(boxes=box, scores=torch.ones(1), labels=labels, masks=torch.ones(1, 28, 28))]


def share(rank: int) -> Iterator[Batch]:
    """The images of one of two ranks; image n has a box whose corner is at (n, n)."""
    for number in range(1 + rank, _IMAGES + 1, 2):
        yield Batch(
            pixels=torch.full((1, 3, 32, 32), number, dtype=torch.uint8),
            sizes=torch.tensor([[32, 32]]),
            scale_factors=torch.ones(1, 4),
            original_sizes=torch.tensor([[48, 64]]),
            image_ids=torch.tensor([number]),
            targets=Targets(
                boxes=torch.zeros(1, 8, 4), labels=torch.zeros(1, 8).long(), valid=torch.zeros(1, 8).bool()
            ),
        )


def evaluate_on(rank: int, port: int, annotations: Path, truth: Truth, stop_after: int | None) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    dist.initialise(torch.device("cpu"))
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        # A collective call: it hangs unless both ranks ask equally often.
        return bool(dist.maximum([float(stop_after is not None and rank == 1 and asked > stop_after)])[0])

    batches: Iterable[Batch] = share(rank)
    evaluation = evaluate(
        _Finder(Task(num_classes=2)),
        batches,
        num_images=_IMAGES,
        scorer=build_scorer("segm", truth=truth),
        device=torch.device("cpu"),
        should_stop=should_stop,
    )
    report: dict[str, Any] = {"asked": asked}
    if evaluation is not None:
        report |= {"metrics": evaluation.metrics, "images": sorted(evaluation.detections.image_ids.tolist())}
    annotations.with_name(f"rank-{rank}.json").write_text(json.dumps(report))
    dist.shut_down()


@pytest.mark.parametrize(("stop_after", "asked"), [(None, 3), (1, 2)])
def test_ranks_with_unequal_shares_score_together_and_stop_together(
    tmp_path: Path, stop_after: int | None, asked: int
) -> None:
    file = write_annotations(
        tmp_path / "instances.json",
        images=[image_record(number) for number in range(1, _IMAGES + 1)],
        annotations=[
            annotation_record(
                number,
                image=number,
                bbox=(number, number, 20, 10),
                segmentation=[
                    [number, number, number + 20, number, number + 20, number + 10, number, number + 10]
                ],
            )
            for number in range(1, _IMAGES + 1)
        ],
    )
    truth = load_truth(file, cache=tmp_path / "cache", masks=True)
    run_ranks(evaluate_on, file, truth, stop_after)
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert first["asked"] == second["asked"] == asked
    assert "metrics" not in second
    if stop_after is None:
        assert first["metrics"]["boxAP"] == pytest.approx(100.0)
        assert first["metrics"]["maskAP"] == pytest.approx(100.0)
        assert first["images"] == [1, 2, 3, 4, 5]
    else:
        assert "metrics" not in first
