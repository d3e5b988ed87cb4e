"""Reports of runs as the trainer writes them, made of detections that a seed decides."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from kubedet_trainer import config
from kubedet_trainer.data.arrays import Truth
from kubedet_trainer.evaluation import analysis
from kubedet_trainer.evaluation.coco import build_scorer
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.recipes import read_recipe
from kubedet_trainer.reports import document
from kubedet_trainer.reports.document import (
    BestEvaluation,
    Change,
    DataFacts,
    Report,
    RunFacts,
    SplitFacts,
    Start,
    TimeFacts,
)

RECIPE = "faster_rcnn_r50_fpn_1x"
_EPOCH = 100


def make_truth(num_classes: int, *, images: int = 40, seed: int = 0) -> Truth:
    """Three objects in each image of 320 x 240 pixels."""
    random = np.random.default_rng(seed)
    count = 3 * images
    corners = random.integers(0, 150, (count, 2))
    sizes = random.integers(12, 90, (count, 2))
    return Truth(
        image_ids=np.arange(1, images + 1),
        sizes=np.tile(np.array([[240, 320]], np.int32), (images, 1)),
        category_ids=np.arange(1, num_classes + 1),
        rows=np.repeat(np.arange(images), 3),
        labels=random.integers(1, num_classes + 1, count),
        boxes=np.concatenate([corners, sizes], axis=1).astype(np.float64),
        areas=(sizes[:, 0] * sizes[:, 1]).astype(np.float64),
        crowd=np.zeros(count, np.bool_),
        ignored=np.zeros(count, np.bool_),
    )


def make_detections(truth: Truth, *, seed: int = 0) -> DetectionTable:
    """Most objects nearly right, some of the wrong class or at the wrong place, and some at random."""
    random = np.random.default_rng(seed)
    boxes = truth.boxes.copy()
    boxes[:, :2] += random.normal(0, 6, (len(boxes), 2))
    labels = np.where(random.random(len(boxes)) < 0.85, truth.labels, random.permutation(truth.labels))
    chosen = random.random(len(boxes)) < 0.9
    spurious = random.integers(0, len(boxes), len(boxes) // 3)
    noise = np.concatenate([random.integers(0, 200, (len(spurious), 2)), truth.boxes[spurious, 2:]], axis=1)
    everything = np.concatenate([boxes[chosen], noise])
    everything[:, 2:] += everything[:, :2] - 1
    return DetectionTable(
        image_ids=truth.image_ids[np.concatenate([truth.rows[chosen], truth.rows[spurious]])],
        labels=np.concatenate([labels[chosen], truth.labels[spurious]]),
        boxes=everything.astype(np.float32),
        scores=np.concatenate([
            random.uniform(0.3, 1, int(chosen.sum())), random.uniform(0, 0.6, len(spurious))
        ]).astype(np.float32),
    )  # fmt: skip


def make_report(
    *,
    classes: tuple[str, ...] = ("person", "dog", "umbrella"),
    job: str = "first",
    kind: Any = "bbox",
    seed: int = 0,
) -> Report:
    """The report of a finished run of 12 epochs that was restarted once."""
    recipe = config.apply_overrides(read_recipe(RECIPE), {"optimizer.lr": "0.01"})
    truth = make_truth(len(classes), seed=seed)
    table = make_detections(truth, seed=seed)
    scores = build_scorer(kind, truth=truth).score(table)
    made, _ = analysis.analyse(table, truth=truth, scores=scores, classes=classes)
    counts = np.bincount(truth.labels, minlength=len(classes) + 1)[1:].tolist()
    main = "ar1000" if kind == "proposal" else "boxAP"
    shares = [1 - 0.8 ** (epoch + 1) for epoch in range(12)]
    evaluations: list[dict[str, Any]] = [
        {
            "iteration": (epoch + 1) * _EPOCH,
            "metrics": {
                **{name: value * share for name, value in scores.figures.items()},
                "validationLoss": 1.4 - share / 2,
            },
        }
        for epoch, share in enumerate(shares)
    ]
    return Report(
        recipe=RECIPE,
        memoryGB=3.21,
        secondsPerIteration=0.412,
        inferenceFps=14.2,
        boxAP=None if kind == "proposal" else round(scores.figures[main], 1),
        ar1000=round(scores.figures[main], 1) if kind == "proposal" else None,
        metrics=[{"name": name, "value": value} for name, value in scores.figures.items()],
        hardware={
            "accelerator": "NVIDIA H200",
            "worldSize": 8,
            "precision": "fp32",
            "memoryKind": "gpu_peak_reserved",
            "globalBatch": 16,
            "accumulationSteps": 1,
        },
        reference=recipe.reference,
        modelUri="s3://checkpoints/first/step-00001200/state.pt",
        run=RunFacts(
            job=job,
            image="registry.example/kubedet-trainer:0.1.0",
            startTime="2026-11-28T10:00:00Z",
            updateTime="2026-11-28T14:30:00Z",
            endTime="2026-11-28T14:30:00Z",
            iteration=12 * _EPOCH,
            totalIterations=12 * _EPOCH,
            iterationsPerEpoch=_EPOCH,
            changes=[Change(field="optimizer.lr", recipe="0.02", run="0.01")],
            settings=config.recipe_to_dict(recipe),
            versions={"python": "3.11.2", "torch": "2.14.1"},
            starts=[
                Start(time="2026-11-28T10:00:00Z", attempt=0, processRestart=0, iteration=0, worldSize=8),
                Start(
                    time="2026-11-28T11:10:00Z",
                    attempt=1,
                    processRestart=0,
                    iteration=300,
                    worldSize=8,
                    cause="NodeLost: node gpu-7 does not answer",
                ),
            ],
        ),
        data=DataFacts(
            uri="s3://data/animals",
            format="COCO",
            classes=list(classes),
            splits=[
                SplitFacts(name=name, images=40, emptyImages=2, objects=sum(counts), objectsOfClass=counts)
                for name in ("train", "val")
            ],
        ),
        leftOut={"crowds": 3},
        training=[
            {
                "iteration": iteration,
                "lr": 0.01 if iteration < 800 else 0.001,
                "losses": {"loss_rpn_cls": 40 / (iteration + 60), "loss_cls": 90 / (iteration + 80)},
            }
            for iteration in range(10, 12 * _EPOCH + 1, 10)
        ],
        evaluations=evaluations,
        spent=[
            {
                "iteration": point["iteration"],
                "seconds": point["iteration"] * 13.5,
                "gpuSeconds": point["iteration"] * 108,
            }
            for point in evaluations
        ],
        analysedIteration=12 * _EPOCH,
        best=BestEvaluation(metric=main, value=scores.figures[main], iteration=1200, epoch=12),
        analysis=made,
        memoryBytes={
            "weights": 165 << 20,
            "gradients": 160 << 20,
            "optimizer": 160 << 20,
            "peak": 3446 << 20,
        },
        time=TimeFacts(
            seconds={
                "training": 14100.0,
                "data_wait": 320.0,
                "evaluating": 900.0,
                "starting": 200.0,
                "lost": 680.0,
            },
            goodputPercent=87.0,
            gpuSeconds=129600.0,
        ),
    )


def as_document(report: Report) -> dict[str, Any]:
    """The report as it is read from its file."""
    return document.parse(document.dump(report), name="results.json")


def unfinished(report: Report) -> Report:
    """The same in the middle of its training."""
    return replace(report, run=replace(report.run, endTime=None, iteration=500), inferenceFps=None)


def first_version() -> dict[str, Any]:
    """What results.json held before it was a report."""
    row: dict[str, Any] = json.loads(document.dump(make_report()))
    kept = (
        "recipe",
        "memoryGB",
        "secondsPerIteration",
        "inferenceFps",
        "boxAP",
        "metrics",
        "hardware",
        "reference",
    )
    return {name: row[name] for name in kept}
