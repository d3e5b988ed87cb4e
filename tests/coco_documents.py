"""COCO documents with one deviation each, written and read as the trainer reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataset_builders import (
    annotation_record,
    image_record,
    load_coco,
    make_image,
)
from kubedet_trainer.data.arrays import Annotations
from kubedet_trainer.errors import InvalidInput

Document = dict[str, Any]
POLYGON = [4, 5, 24, 5, 24, 15]
"""Half of the box that all objects have: 100 of 200 pixels."""


def document() -> Document:
    """Two images with two objects each."""
    return {
        "images": [image_record(1), image_record(2)],
        "annotations": [annotation_record(n, image=1 + n % 2, category_id=1 + n // 2) for n in range(4)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def write(root: Path, content: Document) -> Path:
    """Write the file and its images."""
    for number in (1, 2):
        make_image(root / "images", f"{number}.jpg", seed=number)
    file = root / "instances.json"
    file.write_text(json.dumps(content))
    return file


def changed(root: Path, change: Callable[[Document], object], **reading: Any) -> Annotations:
    """The annotations after a change of the document."""
    content = document()
    change(content)
    return load_coco(write(root, content), cache=root / "cache", **reading)


def refused(root: Path, change: Callable[[Document], object], **reading: Any) -> str:
    """What a job says to a changed document."""
    with pytest.raises(InvalidInput) as error:
        changed(root, change, **reading)
    return str(error.value)


def of_each(section: str, change: Callable[[Document], object]) -> Callable[[Document], None]:
    def apply(content: Document) -> None:
        for record in content[section]:
            change(record)

    return apply


def rename_ids(new: Callable[[int], object], *, section: str, field: str) -> Callable[[Document], None]:
    """Replace the ids of a section, and what refers to them."""

    def apply(content: Document) -> None:
        for record in content[section]:
            record["id"] = new(record["id"])
        for record in content["annotations"]:
            record[field] = new(record[field])

    return apply
