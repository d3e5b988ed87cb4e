"""What becomes of an evaluation's detections: figures, their analysis, pictures. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kubedet_trainer.config.recipe import EvaluationKind
from kubedet_trainer.data.splits import Split
from kubedet_trainer.evaluation import analysis
from kubedet_trainer.evaluation.analysis import Analysis
from kubedet_trainer.evaluation.coco import build_scorer
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.reports import examples


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """Detections that are to be scored, and how."""

    detections: DetectionTable
    split: Split
    """Where they were found."""
    kind: EvaluationKind
    max_detections: int
    """The best of an image that count."""
    is_judged: bool
    """Whether the figures are to be those of pycocotools, see `build_scorer`."""
    classes: Sequence[str] = ()
    """Names of the labels 1, 2, ... for the analysis; without any there is none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """What came of it."""

    figures: Mapping[str, float]
    """By name, in percent. Absent where there is nothing to find, say no small object."""
    analysis: Analysis | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """JPEGs of the best and the worst images by name."""


def score(request: Request) -> Scored:
    """Do what is asked for.

    Raises:
        TrainerError: an image that is to be drawn cannot be read.
    """
    split, found = request.split, request.detections
    truth = split.annotations.truth
    scores = build_scorer(
        request.kind, truth=truth, max_detections=request.max_detections, is_judged=request.is_judged
    ).score(found)
    if not request.classes:
        return Scored(figures=scores.figures)
    assert truth is not None, "what was scored has a truth"
    analysed, verdicts = analysis.analyse(found, truth=truth, scores=scores, classes=request.classes)
    pictures = examples.draw_examples(
        split,
        found,
        matching=scores.matching,
        analysis=analysed,
        verdicts=verdicts,
        classes=request.classes,
    )
    return Scored(figures=scores.figures, analysis=analysed, pictures=pictures)
