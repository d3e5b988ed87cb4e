"""Shapes that are made up: what their annotations say is what the images show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dataset_builders import load_coco, problems_of
from kubedet_trainer.data import images, run_lengths, synthetic
from kubedet_trainer.data.synthetic import ShapesDataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes") / "data"
    synthetic.write_shapes(ShapesDataset(images=40, val_images=1), folder=root)
    return root


def shapes_that_stand_alone(folder: Path) -> list[tuple[NDArray[np.uint8], dict[str, Any]]]:
    """Images of a single shape, and its annotation."""
    content = json.loads((folder / "annotations/instances_train2017.json").read_text())
    found = []
    for image in content["images"]:
        own = [record for record in content["annotations"] if record["image_id"] == image["id"]]
        if len(own) == 1:
            pixels = images.decode((folder / "train2017" / image["file_name"]).read_bytes())
            assert isinstance(pixels, np.ndarray)
            found.append((pixels, own[0]))
    return found


def mask_of(record: dict[str, Any]) -> NDArray[np.uint8]:
    return run_lengths.decode(run_lengths.compress(record["segmentation"], size=(240, 320)), size=(240, 320))


def test_a_mask_is_what_was_painted(folder: Path) -> None:
    alone = shapes_that_stand_alone(folder)
    assert len(alone) >= 5
    overlaps = []
    for pixels, record in alone:
        mask = mask_of(record)
        kernel = np.ones((7, 7), np.uint8)
        face = cv2.erode(mask, kernel) > 0
        around = cv2.dilate(mask, kernel, iterations=2) > cv2.dilate(mask, kernel)
        colours = pixels.astype(np.float64)
        inside, outside = (np.median(colours[part], axis=0) for part in (face, around))
        # How far each pixel is on the way from what lies around to the face of the shape.
        axis = (inside - outside) / np.square(inside - outside).sum()
        share = (colours - outside) @ axis
        near = cv2.dilate(mask, kernel) > 0
        painted = (share > 0.5) & near
        overlaps.append((painted & (mask > 0)).sum() / (painted | (mask > 0)).sum())
    # A mask that is half a pixel too small all around reaches 0.93.
    assert np.mean(overlaps) > 0.96


def test_boxes_surround_the_masks_and_the_data_set_breaks_no_rule(folder: Path, tmp_path: Path) -> None:
    file = folder / "annotations/instances_train2017.json"
    assert problems_of(file, images=folder / "train2017") == []
    annotations = load_coco(file, cache=tmp_path, masks=True)
    for row in range(len(annotations)):
        boxes, _ = annotations.ground_truth(row)
        for box, code in zip(boxes, annotations.masks(row), strict=True):
            rows, columns = np.nonzero(run_lengths.decode(code, size=(240, 320)))
            extent = [columns.min(), rows.min(), columns.max(), rows.max()]
            np.testing.assert_allclose(extent, box, atol=1.5)
