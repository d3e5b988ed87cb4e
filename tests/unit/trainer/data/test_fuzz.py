"""Readers of foreign files, fed with what nobody would write: whatever happens is an understood error.

A few hundred inputs a reader; with ``KUBEDET_FUZZ_SECONDS`` as many as fit into that time for each reader,
from another start each time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from dataset_builders import (
    annotation_record,
    coco_split,
    image_record,
    make_image,
    voc_object,
    write_voc,
)
from kubedet_trainer.data import arrays, images, prepare, proposals, run_lengths, table
from kubedet_trainer.data.arrays import Annotations, Reading
from kubedet_trainer.data.proposals import ProposalRecord
from kubedet_trainer.data.sources import LocalSplit
from kubedet_trainer.errors import TrainerError
from kubedet_trainer.settings import DatasetSettings
from kubedet_trainer.training.manifest import parse_manifest
from memory_peak import memory_below

_SECONDS = float(os.environ.get("KUBEDET_FUZZ_SECONDS", 0))
pytestmark = pytest.mark.timeout(_SECONDS + 300)
_INPUTS = 200
_BLOCK = 50
"""Inputs whose memory is measured together."""
_ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), -float("inf")),
    *("", "0", "1", "a", "\0", "\ud800", "../x", "/dev/zero", "x" * 5000, [], {}, [[]], [None], {"id": 1}),
    *([1, 2], [0, 0, 0, 0], [1e9] * 6, [-1, -1, 2, 2], {"size": [48, 64], "counts": "04"}),
    *({"size": [48, 64], "counts": [3072]}, {"size": [1, 1], "counts": [2**63]}, [[1, 2, 3, 4, 5, 6]]),
]
_NASTY = [b"[", b"{", b'"', b"9", b"-", b"e", b"<", b"\0", b"\xff"]


def inputs(name: str) -> Iterator[Random]:
    """A source of random numbers for each input."""
    start = time.monotonic()
    first = time.time_ns() if _SECONDS else 0
    count = 0
    while time.monotonic() - start < _SECONDS if _SECONDS else count < _INPUTS:
        with memory_below(2**28, what=f"one of the inputs from {name} {first + count} on"):
            for _ in range(_BLOCK):
                yield Random(f"{name} {first + count}")
                count += 1
    print(f"{name}: {count} inputs from {first} on")


def shaken(data: bytes, random: Random) -> bytes:
    """Bytes changed, cut, doubled or moved at a few places."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(changed) + 1)
        match random.randrange(5):
            case 0:
                changed[place : place + 1] = bytes([random.randrange(256)])
            case 1:
                del changed[place : place + random.randint(1, 40)]
            case 2:
                changed[place:place] = changed[place : place + random.randint(1, 40)]
            case 3:
                changed[place:place] = random.choice(_NASTY) * random.choice([1, 1, 1, 5000])
            case 4:
                start = random.randrange(len(changed) + 1)
                changed[place : place + 8] = changed[start : start + 8]
    return bytes(changed)


def mutated(value: Any, random: Random) -> Any:
    """A JSON document with a few values replaced, dropped, renamed or repeated."""
    if random.random() < 0.03:
        return random.choice(_ODD)
    if isinstance(value, dict):
        changed = {key: mutated(item, random) for key, item in value.items() if random.random() > 0.02}
        if random.random() < 0.02:
            changed[random.choice(["id", "bbox", "segmentation", "area", "iscrowd"])] = random.choice(_ODD)
        return changed
    if isinstance(value, list):
        changed_items = [mutated(item, random) for item in value if random.random() > 0.02]
        return changed_items * random.choice([1] * 20 + [0, 2])
    return value


def as_json(document: Any, random: Random) -> bytes:
    """The document, mutated or shaken or both."""
    if random.random() < 0.8:
        document = mutated(document, random)
    data = json.dumps(document).encode()
    return shaken(data, random) if random.random() < 0.3 else data


@contextlib.contextmanager
def only_understood_errors() -> Iterator[None]:
    """An error with an exit code is one line of text that can be written; any other one is a bug."""
    said = ""
    try:
        yield
    except TrainerError as error:
        said = str(error)
    assert "\n" not in said
    said.encode()


SQUARE = [[4, 5, 24, 5, 24, 15, 4, 15]]
COCO = {
    "info": {"year": 2017},
    "images": [image_record(n) for n in range(3)],
    "annotations": [annotation_record(n, image=n % 3, segmentation=SQUARE, ignore=0) for n in range(6)],
    "categories": [{"id": 1, "name": "cat", "supercategory": "pets"}, {"id": 2, "name": "dog"}],
}


def read_everything(split: LocalSplit) -> None:
    """Read a split as training does, without the cache, whose files take most of the time."""
    how = Reading(masks=True, truth=True, classes=("cat",), leave_out=True)
    with only_understood_errors():
        content = arrays.read_split(split, how)
        if problems := list(table.problems(content)):
            assert "\n" not in "".join(map(str, problems))
            return
        annotations = arrays.annotations_of(content, how)
        for row in range(len(annotations)):
            annotations.ground_truth(row)
            annotations.file_name(row)


def test_coco_files(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for number, random in enumerate(inputs("coco")):
        file.write_bytes(as_json(COCO, random))
        os.utime(file, ns=(0, number))
        read_everything(coco_split(file))


def test_voc_files(tmp_path: Path) -> None:
    content = voc_object("cat", (1, 2, 30, 40), more="<difficult>1</difficult>")
    sets = {f"VOC2007/ImageSets/Main/{name}.txt": {"000001": content} for name in ("train", "val")}
    settings = write_voc(tmp_path / "voc", sets=sets)
    make_image(tmp_path / "voc/VOC2007/JPEGImages", "000001.jpg")
    listed = tmp_path / "voc/VOC2007/ImageSets/Main/train.txt"
    xml = tmp_path / "voc/VOC2007/Annotations/000001.xml"
    whole = {listed: listed.read_bytes(), xml: b'<?xml version="1.0" encoding="utf-8"?>' + xml.read_bytes()}
    for number, random in enumerate(inputs("voc")):
        for file, data in whole.items():
            file.write_bytes(shaken(data, random) if random.random() < 0.7 else data)
            os.utime(file, ns=(0, number))
        with only_understood_errors():
            read_everything(prepare.prepare_dataset(settings, tmp_path).train)


def test_yolo_files(tmp_path: Path) -> None:
    make_image(tmp_path / "images", "a.jpg")
    (tmp_path / "labels").mkdir()
    settings = DatasetSettings(uri=tmp_path.as_uri(), format="YOLO", train_annotations="data.yaml")
    whole = {
        tmp_path / "data.yaml": b"path: .\ntrain: ../images\nval: [images]\nnc: 2\nnames: {0: cat, 1: dog}\n",
        tmp_path / "labels/a.txt": b"0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6\n",
    }
    for number, random in enumerate(inputs("yolo")):
        for file, data in whole.items():
            file.write_bytes(shaken(data, random) if random.random() < 0.7 else data)
            os.utime(file, ns=(0, number))
        with only_understood_errors():
            read_everything(prepare.prepare_dataset(settings, tmp_path).train)


def test_run_lengths() -> None:
    code = run_lengths.encode(np.random.default_rng(0).random((48, 64)) < 0.5)
    sound: list[Any] = [SQUARE, *({"size": [48, 64], "counts": runs} for runs in (code.decode(), [72, 3000]))]
    for random in inputs("run lengths"):
        outline = mutated(random.choice(sound), random)
        counts = outline.get("counts") if isinstance(outline, dict) else None
        if isinstance(counts, str) and random.random() < 0.7:
            changed = shaken(counts.encode("utf-8", "replace"), random).decode("latin1")
            outline = {**outline, "counts": changed}
        run_lengths.area(outline)
        with contextlib.suppress(ValueError):  # which the readers turn into a problem with its place
            found = run_lengths.compress(outline, size=(48, 64))
            assert run_lengths.decode(found, size=(48, 64)).shape == (48, 64)


def test_manifests() -> None:
    sound = {
        "iteration": 20,
        "epoch": 1,
        "sizeBytes": 100,
        "sha256": "0" * 64,
        "recipe": {"name": "x", "model": {"depth": 18}},
        "classes": ["cat"],
        "metrics": {"boxAP": 1.0},
        "time": "",
    }
    for random in inputs("manifests"):
        parse_manifest(as_json(sound, random))


def load_proposals(file: Path, annotations: Annotations, cache: Path) -> None:
    with only_understood_errors():
        proposals.load_proposals(file, annotations=annotations, slots=10, cache=cache)


def proposal_file(name: str) -> bytes:
    boxes = np.random.default_rng(0).uniform(0, 40, (4, 5)).astype(np.float32)
    if name.endswith(".pkl"):
        return pickle.dumps([boxes, boxes[:0], boxes], protocol=2)
    content = io.BytesIO()
    record = ProposalRecord(
        image_ids=np.arange(3),
        offsets=np.array([0, 4, 4, 8]),
        boxes=np.tile(boxes[:, :4], (2, 1)),
        scores=np.ones(8, np.float32),
    )
    proposals.write_proposals(content, record)
    return content.getvalue()


@pytest.mark.parametrize("name", ["train.pkl", "train.npz"])
def test_proposals(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(COCO))
    annotations = arrays.load_annotations(coco_split(tmp_path / "x.json"), cache=tmp_path / "cache")
    sound, file = proposal_file(name), tmp_path / name
    for number, random in enumerate(inputs(name)):
        file.write_bytes(shaken(sound, random))
        os.utime(file, ns=(0, number))
        load_proposals(file, annotations, tmp_path / "cache")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff", ".gif"])
def test_images(suffix: str, tmp_path: Path) -> None:
    sound = make_image(tmp_path, f"x{suffix}").read_bytes()
    for random in inputs(suffix):
        images.decode(shaken(sound, random), max_pixels=2**22)
