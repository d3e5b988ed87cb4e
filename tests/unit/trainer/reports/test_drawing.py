"""Pictures with boxes, and contact sheets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from kubedet_trainer.data import run_lengths
from kubedet_trainer.reports import drawing
from kubedet_trainer.reports.drawing import Marks

GREY = np.full((120, 200, 3), 128, np.uint8)


def marks(*boxes: tuple[float, ...], scores: list[float] | None = None) -> Marks:
    return Marks(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.arange(1, len(boxes) + 1),
        scores=None if scores is None else np.array(scores),
    )


def test_a_box_is_framed_in_its_classes_colour_and_the_image_stays() -> None:
    before = GREY.copy()
    picture = drawing.draw_detections(GREY, marks=marks((40, 60, 150, 110), scores=[0.9]), classes=["cell"])
    np.testing.assert_array_equal(GREY, before)
    for x, y in ((100, 110), (40, 90), (150, 90)):
        assert tuple(picture[y, x].tolist()) == drawing.class_colour(1)
    assert tuple(picture[85, 100].tolist()) == (128, 128, 128)
    caption = picture[40:58, 40:80].reshape(-1, 3)
    assert (caption == drawing.class_colour(1)).all(axis=1).mean() > 0.3


@pytest.mark.parametrize("box", [(0, 0, 199, 119), (150, 100, 199, 119), (-5, -5, 20, 20), (190, 0, 240, 30)])
def test_a_caption_stays_within_the_picture(box: tuple[float, ...]) -> None:
    picture = drawing.draw_detections(GREY, marks=marks(box, scores=[0.5]), classes=["a long name"])
    changed = (picture == drawing.class_colour(1)).all(axis=2)
    assert changed.sum() > 500


def test_resizing_moves_the_boxes_along() -> None:
    picture = drawing.draw_detections(GREY, marks=marks((40, 60, 150, 110)), classes=["cell"], longest=400)
    assert picture.shape == (240, 400, 3)
    assert tuple(picture[220, 200].tolist()) == drawing.class_colour(1)


def test_no_detection_leaves_the_image_as_it_is() -> None:
    np.testing.assert_array_equal(drawing.draw_detections(GREY, marks=marks(), classes=[]), GREY)


def code_of(*rectangles: tuple[int, int, int, int]) -> bytes:
    """The mask of a grey image that fills these rectangles."""
    outlines = [[x1, y1, x2 + 1, y1, x2 + 1, y2 + 1, x1, y2 + 1] for x1, y1, x2, y2 in rectangles]
    return run_lengths.compress(outlines, size=GREY.shape[:2])


@pytest.mark.parametrize("longest", [None, 400])
def test_a_mask_lies_over_its_object_with_a_bright_edge(longest: int | None) -> None:
    found = replace(marks((40, 60, 150, 110)), masks=[code_of((50, 60, 90, 110))])
    picture = drawing.draw_detections(GREY, marks=found, classes=["cell"], longest=longest)
    factor = picture.shape[1] // 200

    def pixel(x: int, y: int) -> NDArray[np.float64]:
        colour: NDArray[np.float64] = picture[y * factor, x * factor].astype(np.float64)
        return colour

    colour = np.array(drawing.class_colour(1))
    np.testing.assert_allclose(pixel(70, 90), 0.55 * 128 + 0.45 * colour, atol=1.5)
    np.testing.assert_array_equal(pixel(120, 90), GREY[90, 120])
    assert picture[90 * factor, 47 * factor : 53 * factor].mean(axis=1).max() > colour.mean() + 40


def test_a_small_object_is_not_hidden_by_a_large_one() -> None:
    small, large = (90, 70, 110, 90), (40, 50, 160, 110)
    table, cup = (np.array(drawing.class_colour(label)) for label in (1, 2))
    for order in ((small, large), (large, small)):
        found = replace(marks(*order), masks=[code_of(box) for box in order])
        found = replace(found, labels=np.array([2 if box is small else 1 for box in order]))
        picture = drawing.draw_detections(GREY, marks=found, classes=["table", "cup"])
        seen_through_both = 0.55 * (0.55 * 128 + 0.45 * table) + 0.45 * cup
        np.testing.assert_allclose(picture[80, 100], seen_through_both, atol=2)


def test_an_empty_mask_is_drawn_as_nothing() -> None:
    found = replace(marks((40, 60, 150, 110)), masks=[code_of((250, 150, 260, 160))])
    picture = drawing.draw_detections(GREY, marks=found, classes=["cell"])
    np.testing.assert_array_equal(picture[70:100, 50:140], GREY[70:100, 50:140])


def test_the_first_classes_have_colours_far_apart() -> None:
    colours = np.array([drawing.class_colour(label) for label in range(1, 6)], float)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=2)
    assert distances[~np.eye(5, dtype=bool)].min() > 80


def test_no_label_covers_another_one_and_the_best_keeps_its_place() -> None:
    boxes = [(40 + step, 60 + step, 150 + step, 110 + step) for step in range(0, 24, 3)]
    scores = [0.9 - 0.1 * number for number in range(len(boxes))]
    found = marks(*boxes, scores=scores)
    white = np.full((300, 400, 3), 255, np.uint8)
    picture = drawing.draw_detections(white, marks=found, classes=[f"class {n}" for n in range(len(boxes))])
    alone = drawing.draw_detections(white, marks=marks(boxes[0], scores=[0.9]), classes=["class 0"])
    tag = (alone[:59] == drawing.class_colour(1)).all(axis=2)
    assert tag.sum() > 300
    assert (picture[:59][tag] == drawing.class_colour(1)).all()
    sizes = [(picture == drawing.class_colour(label)).all(axis=2).sum() for label in range(1, len(boxes) + 1)]
    assert sizes[0] > 700


def test_colours_may_be_given() -> None:
    found = replace(marks((40, 60, 150, 110)), colours=[(1, 2, 3)])
    picture = drawing.draw_detections(GREY, marks=found, classes=["cell"])
    for x, y in ((100, 60), (100, 110), (101, 111)):
        assert tuple(picture[y, x].tolist()) == (1, 2, 3)
