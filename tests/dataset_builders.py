"""Small data sets on disk for the trainer's tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from kubedet_trainer.config import DataConfig
from kubedet_trainer.data import arrays, check, prepare, splits
from kubedet_trainer.data.arrays import Annotations, Reading, Truth
from kubedet_trainer.data.coco import CocoFile
from kubedet_trainer.data.prepare import LocalDataset
from kubedet_trainer.data.sources import LocalSplit
from kubedet_trainer.data.splits import Split
from kubedet_trainer.dist import World
from kubedet_trainer.models.options.task import NormalisationOptions
from kubedet_trainer.settings import DatasetSettings

PLAIN = NormalisationOptions(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), to_rgb=False)
"""Pixels as they are."""

DATA = DataConfig(normalisation=PLAIN)
"""What most recipes ask of a data set."""

ALONE = World(device=torch.device("cpu"))
"""One process on a CPU."""


def coco_split(*files: Path, images: Path | None = None) -> LocalSplit:
    """The split that these COCO files make; the images lie in ``images`` beside the first, or in `images`."""
    folder = images or files[0].parent / "images"
    sources = tuple(CocoFile(file=file, images=folder) for file in files)
    return LocalSplit(sources=sources, name=str(files[0]))


def local_splits(settings: DatasetSettings, directory: Path) -> tuple[LocalSplit, LocalSplit]:
    """What a data set is trained and evaluated on."""
    local = prepare.prepare_dataset(settings, directory)
    assert local.val is not None
    return local.train, local.val


def load_coco(file: Path, *, cache: Path, images: Path | None = None, **reading: Any) -> Annotations:
    """The annotations of one COCO file; `reading` are fields of `Reading`."""
    return arrays.load_annotations(coco_split(file, images=images), cache=cache, reading=Reading(**reading))


def load_truth(file: Path, *, cache: Path, masks: bool = False) -> Truth:
    """What evaluation compares with, of one COCO file."""
    truth = load_coco(file, cache=cache, truth=True, masks=masks).truth
    assert truth is not None
    return truth


def problems_of(file: Path, *, images: Path, data: DataConfig = DATA) -> list[str]:
    """What `kubedet check-data` lists of a split that is trained on and evaluated.

    That it has nothing to learn is left out: most of these splits have one fault and little else.
    """
    split = coco_split(file, images=images)
    lines: list[str] = []
    local = LocalDataset(train=split, val=split)
    check.check_dataset(local, data, report=lines.append, find_proposals=lambda *_: None)
    return [line for line in dict.fromkeys(lines) if "image has a box" not in line]


def make_image(folder: Path, name: str, *, width: int = 64, height: int = 48, seed: int = 0) -> Path:
    """Write a picture of random blotches and return its path; the suffix chooses the format."""
    folder.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    pixels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    # OpenCV's own writing does not take every path.
    (folder / name).write_bytes(cv2.imencode(Path(name).suffix, pixels)[1].tobytes())
    return folder / name


def image_record(number: int, *, width: int = 64, height: int = 48) -> dict[str, Any]:
    """An entry of ``images``, named after its id."""
    return {"id": number, "file_name": f"{number}.jpg", "width": width, "height": height}


def annotation_record(
    number: int, *, image: int, bbox: Sequence[float] = (4, 5, 20, 10), **more: Any
) -> dict[str, Any]:
    """An entry of ``annotations``; `more` replaces or adds fields."""
    area = bbox[2] * bbox[3]
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": list(bbox),
        "area": area,
        "iscrowd": 0,
        **more,
    }


def write_annotations(
    file: Path,
    *,
    images: Sequence[dict[str, Any]],
    annotations: Sequence[dict[str, Any]],
    classes: Sequence[str] = ("cat", "dog"),
) -> Path:
    """Write a COCO file whose categories have the ids 1, 2, ..."""
    file.parent.mkdir(parents=True, exist_ok=True)
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    file.write_text(
        json.dumps({"images": list(images), "annotations": list(annotations), "categories": categories})
    )
    return file


def make_split(root: Path, *, sizes: Sequence[tuple[int, int]], empty: Sequence[int] = ()) -> Split:
    """A training split of images 1, 2, ... with these (width, height), and one box each.

    The images at the positions in `empty` have a crowd only, so they are sampled but have no ground truth.
    """
    images, annotations = [], []
    for number, (width, height) in enumerate(sizes, start=1):
        make_image(root / "images", f"{number}.jpg", width=width, height=height, seed=number)
        images.append(image_record(number, width=width, height=height))
        crowd = int(number - 1 in empty)
        annotations.append(annotation_record(number, image=number, bbox=(number, 5, 20, 10), iscrowd=crowd))
    file = write_annotations(root / "instances.json", images=images, annotations=annotations)
    return splits.training_split(load_coco(file, cache=root / "cache"), folder=root / "images", data=DATA)


def voc_object(name: str, corners: Sequence[float], *, more: str = "") -> str:
    """An ``object`` of a VOC annotation with the corners xmin, ymin, xmax, ymax; `more` is added as it is."""
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{side}>{corner:g}</{side}>" for side, corner in sides)
    return f"<object><name>{name}</name><bndbox>{box}</bndbox>{more}</object>"


def write_voc(
    root: Path, *, sets: Mapping[str, Mapping[str, str]], width: int = 64, height: int = 48
) -> DatasetSettings:
    """Write VOC annotations and return the settings of `root`, trained on all sets but the last.

    Args:
        root: holds the year folders afterwards.
        sets: for each image set file the content of the annotation of each image, ``size`` left out.
        width: of all images.
        height: of all images.
    """
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    for file, content_by_name in sets.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("".join(f"{name}\n" for name in content_by_name))
        folder = (root / file).parents[2] / "Annotations"
        folder.mkdir(exist_ok=True)
        (folder.parent / "JPEGImages").mkdir(exist_ok=True)
        for name, content in content_by_name.items():
            (folder / f"{name}.xml").write_text(f"<annotation>{size}{content}</annotation>")
    *train, val = sets
    return DatasetSettings(
        uri=root.as_uri(), format="VOC", train_annotations=",".join(train), val_annotations=val
    )


def convert_to_voc(folder: Path, *, splits: Sequence[str], root: Path) -> DatasetSettings:
    """The COCO splits ``instances_SPLIT.json`` of `folder` as VOC below `root`, the last one for validation.

    All images must be of one size.
    """
    sets: dict[str, dict[str, str]] = {}
    for split in splits:
        content = json.loads((folder / f"instances_{split}.json").read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        objects: dict[int, str] = {image["id"]: "" for image in content["images"]}
        for record in content["annotations"]:
            x, y, width, height = record["bbox"]
            corners = (x + 1, y + 1, x + width, y + height)
            objects[record["image_id"]] += voc_object(names[record["category_id"]], corners)
        sets[f"VOC2007/ImageSets/Main/{split}.txt"] = {
            Path(image["file_name"]).stem: objects[image["id"]] for image in content["images"]
        }
        size = {"width": content["images"][0]["width"], "height": content["images"][0]["height"]}
    settings = write_voc(root, sets=sets, **size)
    (root / "VOC2007/JPEGImages").rmdir()
    (root / "VOC2007/JPEGImages").symlink_to(folder / "images")
    return settings
