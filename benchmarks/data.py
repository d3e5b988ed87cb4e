"""How fast one core feeds a trainer with images, beside torchvision, and what COCO's annotations cost.

Prints one JSON document. Rates are per second of processor time of a single thread, ours and torchvision's in
the order ours, theirs, theirs, ours, so that a busy machine does not change the ratio much. Both read the
same JPEG files, resize them to 1067x800, mirror every second one and place two of them in a padded batch of
bytes; pixels are normalised on the device. Without ``--images`` the pictures are made up: noise with the
spectrum of photographs, as JPEG files of about 100 kB. Goals: at least as fast as torchvision; a batch of two
with masks in 8 MB; COCO's annotations loaded in 20 s and under 400 MB in all processes of a node.

    python benchmarks/data.py [--images FOLDER] [--scratch FOLDER] [--processes 8] [--images-only]
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as theirs

from kubedet_trainer.data import arrays, batches, images, run_lengths, transforms
from kubedet_trainer.data.batches import Item
from kubedet_trainer.data.coco import CocoFile
from kubedet_trainer.data.masks import ImageMasks
from kubedet_trainer.data.sources import LocalSplit
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.structures import Batch

_SIZE = (480, 640)
_JPEG_BYTES = 100_000
_ROUNDS = 7
_OBJECTS = 7
"""Of an image, as in COCO."""
_COCO_IMAGES = 118_000
_COCO_BOXES = 860_000
_PROCESSES = 8
_MEGABYTE = 1_000_000
PICTURES = 16
"""Different ones that are made up."""


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of photographs; those of 640x480 are used")
    parser.add_argument("--scratch", type=Path, help="folder for 0.5 GB of made-up annotations")
    parser.add_argument(
        "--processes", type=int, default=_PROCESSES, help="ranks and loader workers of a node"
    )
    parser.add_argument(
        "--images-only", action="store_true", help="leave out annotations, which take minutes"
    )
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    files = read_files(arguments.images)
    document: dict[str, Any] = {"images": measure_images(files), "batch": measure_bytes()}
    if not arguments.images_only:
        for name, polygons in (("annotations_boxes_only", False), ("annotations_with_polygons", True)):
            with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
                document[name] = measure_annotations(
                    Path(folder), polygons=polygons, num_processes=arguments.processes
                )
    print(json.dumps(document, indent=2))


class Ours:
    """What a loader process does with each image."""

    def __init__(self, *, with_masks: bool = False) -> None:
        random = np.random.default_rng(0)
        self._boxes = random.uniform(0, 400, (_OBJECTS, 4)).astype(np.float32)
        self._codes = [run_lengths.of_box(box, size=_SIZE) for box in _some_boxes(random)]
        self._with_masks = with_masks
        self._flips = itertools.cycle((False, True))
        self._waiting: list[Item] = []

    def decode(self, data: bytes) -> images.Pixels:
        """Read the pixels."""
        pixels = images.decode(data)
        assert isinstance(pixels, np.ndarray)
        return pixels

    def item(self, data: bytes) -> Item:
        """One image with boxes; every second is mirrored, as in training."""
        return self.item_of(self.decode(data))

    def item_of(self, pixels: images.Pixels) -> Item:
        """The same of what was decoded."""
        size, flip = (pixels.shape[0], pixels.shape[1]), next(self._flips)
        sample = transforms.transform(pixels, boxes=self._boxes, pipeline=Pipeline(), flip=flip)
        masks = ImageMasks(codes=self._codes, original_size=size, size=sample.size, flip=flip)
        return Item(
            image_id=1,
            original_size=size,
            sample=sample,
            labels=np.ones(len(self._boxes), np.int32),
            masks=masks if self._with_masks else None,
        )

    def resize(self, data: bytes) -> None:
        """Decode, resize and mirror one image, in memory of its own."""
        sample = self.item(data).sample
        sample.draw(np.empty((*sample.size, 3), np.uint8))

    def batch(self, data: bytes) -> Batch | None:
        """Decode, and with every second image draw both into a batch."""
        self._waiting.append(self.item(data))
        if len(self._waiting) < 2:
            return None
        made = batches.collate(self._waiting, slots=8, pad_multiple=32)
        self._waiting.clear()
        return made

    def share(self, data: bytes) -> None:
        """The same, and put the batch where the rank can read it."""
        if (made := self.batch(data)) is not None:
            assert made.memory is not None
            made.memory.share_memory_()  # type: ignore[no-untyped-call]  # torch's


class Theirs:
    """The same with torchvision, whose pixels are RGB."""

    def __init__(self) -> None:
        self._flips = itertools.cycle((False, True))
        self._waiting: list[Tensor] = []

    def decode(self, data: bytes) -> Tensor:
        """Read the pixels."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is to be replaced
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            pixels: Tensor = decode_jpeg(encoded, mode=ImageReadMode.RGB)
        return pixels

    def resize(self, data: bytes) -> Tensor:
        """Decode, resize and mirror one image."""
        pixels: Tensor = theirs.resize(self.decode(data), [800, 1067])
        mirrored: Tensor = theirs.horizontal_flip(pixels) if next(self._flips) else pixels
        return mirrored

    def batch(self, data: bytes) -> None:
        """The same, and with every second image copy both into a batch, as its detectors do."""
        self._waiting.append(self.resize(data))
        if len(self._waiting) == 2:
            batch = torch.zeros((2, 3, 800, 1088), dtype=torch.uint8)
            for target, pixels in zip(batch, self._waiting, strict=True):
                target[:, : pixels.shape[1], : pixels.shape[2]].copy_(pixels)
            self._waiting.clear()


def _some_boxes(random: np.random.Generator) -> list[list[float]]:
    corners = random.uniform(0, 300, (_OBJECTS, 2))
    boxes: list[list[float]] = np.concatenate(
        [corners, random.uniform(2, 170, (_OBJECTS, 2))], axis=1
    ).tolist()
    return boxes


def measure_images(files: Sequence[bytes]) -> dict[str, Any]:
    """Images a second and core, each stage with all before it, ours beside torchvision's."""
    stages: dict[str, tuple[Callable[[bytes], Any], Callable[[bytes], Any] | None]] = {
        "decode": (Ours().decode, Theirs().decode),
        "decode_resize_flip": (Ours().resize, Theirs().resize),
        "decode_resize_flip_batch": (Ours().batch, Theirs().batch),
        "with_masks": (Ours(with_masks=True).batch, None),
        "with_masks_in_shared_memory": (Ours(with_masks=True).share, None),
    }
    return {
        "count": len(files),
        "kilobytes_per_image": round(sum(map(len, files)) / len(files) / 1000, 1),
        "from": "640x480",
        "to": "1067x800",
        "images_per_second_and_core": {name: _compare(*stage, files) for name, stage in stages.items()},
    }


def _compare(
    ours: Callable[[bytes], Any], theirs: Callable[[bytes], Any] | None, files: Sequence[bytes]
) -> dict[str, Any]:
    if theirs is None:
        return {"ours": round(statistics.median(_rate(ours, files) for _ in range(2 * _ROUNDS)), 1)}
    rates: dict[str, list[float]] = {"ours": [], "torchvision": []}
    ratios = []
    for _ in range(_ROUNDS):
        first, second, third, fourth = (_rate(step, files) for step in (ours, theirs, theirs, ours))
        rates["ours"] += [first, fourth]
        rates["torchvision"] += [second, third]
        ratios.append((first + fourth) / (second + third))
    return {
        **{name: round(statistics.median(values), 1) for name, values in rates.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratio_from_to": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def _rate(step: Callable[[bytes], Any], files: Sequence[bytes]) -> float:
    started = time.process_time()
    for data in files:
        step(data)
    return len(files) / (time.process_time() - started)


def measure_bytes() -> dict[str, Any]:
    """What a batch of two of COCO's widest images takes in shared memory, pinned and on the device."""
    ours = Ours(with_masks=True)
    items = [ours.item_of(np.zeros((480, 800, 3), np.uint8)) for _ in range(2)]
    batch = batches.collate(items, slots=8, pad_multiple=32)
    assert batch.memory is not None
    return {
        "pixels": list(batch.pixels.shape),
        "objects": int(batch.targets.valid.sum()),
        "megabytes": round(batch.memory.nbytes / _MEGABYTE, 3),
        "megabytes_of_pixels": round(batch.pixels.nbytes / _MEGABYTE, 3),
    }


def read_files(folder: Path | None) -> list[bytes]:
    """JPEG files of 640x480: up to 64 of `folder`, or made up."""
    if folder is None:
        return [_make_jpeg(seed) for seed in range(PICTURES)]
    files = []
    for file in sorted(folder.glob("*.jpg")):
        pixels = images.decode(data := file.read_bytes())
        if isinstance(pixels, np.ndarray) and pixels.shape[:2] == _SIZE:
            files.append(data)
    return files[:64]


def _make_jpeg(seed: int) -> bytes:
    """Noise whose amplitude falls with the frequency, as in photographs, at the quality nearest to 100 kB."""
    height, width = _SIZE
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1 / width
    planes = [np.fft.irfft2(np.fft.rfft2(random.normal(size=_SIZE)) / frequency, s=_SIZE) for _ in range(3)]
    # Channels of a photograph are alike.
    picture = np.stack([0.8 * planes[0] + 0.2 * plane for plane in planes], axis=-1)
    picture = (128 + 45 * picture / picture.std()).clip(0, 255).astype(np.uint8)
    encoded = (
        cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for quality in range(98, 40, -2)
    )
    return min((data.tobytes() for data in encoded), key=lambda data: abs(len(data) - _JPEG_BYTES))


def measure_annotations(folder: Path, *, polygons: bool, num_processes: int) -> dict[str, Any]:
    """Load a COCO-sized file in one process, then in all processes of a node, which share the arrays."""
    file = folder / "instances.json"
    write_coco_sized(file, polygons=polygons)
    context = multiprocessing.get_context("spawn")
    first = _load_in(context, file, num_processes=1)[0]
    together = _load_in(context, file, num_processes=num_processes)
    return {
        "images": _COCO_IMAGES,
        "boxes": _COCO_BOXES,
        "file_megabytes": round(file.stat().st_size / _MEGABYTE, 1),
        "first_load_seconds": round(first["seconds"], 2),
        "first_load_processor_seconds": round(first["processor_seconds"], 2),
        "first_load_peak_megabytes": round(first["peak_bytes"] / _MEGABYTE, 1),
        "further_load_seconds": round(max(report["seconds"] for report in together), 3),
        "processes": num_processes,
        "megabytes_of_all_processes": round(sum(report["added_bytes"] for report in together) / _MEGABYTE, 1),
    }


def _load_in(context: Any, file: Path, *, num_processes: int) -> list[dict[str, float]]:
    barrier, reports = context.Barrier(num_processes), context.Queue()
    processes = [context.Process(target=_load, args=(file, barrier, reports)) for _ in range(num_processes)]
    for process in processes:
        process.start()
    found = [reports.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    return found


def _load(file: Path, barrier: Barrier, reports: multiprocessing.Queue[dict[str, float]]) -> None:
    """Runs in a process of its own: load, touch every page, and report while the others still hold theirs."""
    barrier.wait()
    before = _proportional_bytes()
    peak_before = _peak_bytes()
    started, processor_started = time.perf_counter(), time.process_time()
    source = CocoFile(file=file, images=file.parent)
    annotations = arrays.load_annotations(
        LocalSplit(sources=(source,), name=str(file)), cache=file.parent / "cache"
    )
    seconds, processor_seconds = time.perf_counter() - started, time.process_time() - processor_started
    peak = _peak_bytes() - peak_before
    assert len(annotations) == _COCO_IMAGES
    assert len(annotations.boxes) == _COCO_BOXES
    for array in vars(annotations).values():
        if isinstance(array, np.ndarray):
            array.sum()
    barrier.wait()
    added = _proportional_bytes() - before
    barrier.wait()
    reports.put(
        {
            "seconds": seconds,
            "processor_seconds": processor_seconds,
            "peak_bytes": peak,
            "added_bytes": added,
        }
    )


def _proportional_bytes() -> int:
    """Memory of this process, pages shared by n processes counted as an n-th (proc(5), smaps_rollup)."""
    return kilobytes(Path("/proc/self/smaps_rollup"), "Pss:") * 1024


def _peak_bytes() -> int:
    return kilobytes(Path("/proc/self/status"), "VmHWM:") * 1024


def kilobytes(file: Path, name: str) -> int:
    """The number after `name` in a file of proc(5)."""
    (line,) = (line for line in file.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


def write_coco_sized(file: Path, *, polygons: bool) -> None:
    """Made-up annotations: images, boxes and length of the polygons as in COCO train2017."""
    random = np.random.default_rng(0)
    corners = random.uniform(0, 300, (_COCO_BOXES, 2)).round(2).tolist()
    sizes = random.uniform(2, 170, (_COCO_BOXES, 2)).round(2).tolist()
    owners = np.sort(random.integers(1, _COCO_IMAGES + 1, _COCO_BOXES)).tolist()
    categories = random.integers(1, 81, _COCO_BOXES).tolist()
    # Rendered once: writing 40 million different numbers would take minutes and be parsed just as fast.
    outlines = [
        json.dumps([random.uniform(0, 640, 2 * points).round(2).tolist()] if polygons else [])
        for points in random.integers(8, 40, 1000).tolist()
    ]
    with file.open("w") as stream:
        stream.write('{"info": {"description": "made up"}, "images": [')
        for number in range(1, _COCO_IMAGES + 1):
            name = f"{number % PICTURES:012d}.jpg"
            stream.write(
                f'{", " if number > 1 else ""}{{"license": 3, "file_name": "{name}", '
                f'"coco_url": "http://images.cocodataset.org/train2017/{name}", "height": 480, "width": 640, '
                f'"date_captured": "2013-11-14 11:38:44", '
                f'"flickr_url": "http://farm1.staticflickr.com/1/127244861_ab0c0381e7_z.jpg", '
                f'"id": {number}}}'
            )
        stream.write('], "annotations": [')
        for row in range(_COCO_BOXES):
            (x, y), (width, height) = corners[row], sizes[row]
            stream.write(
                f'{", " if row else ""}{{"segmentation": {outlines[row % 1000]}, '
                f'"area": {width * height:.4f}, "iscrowd": 0, "image_id": {owners[row]}, '
                f'"bbox": [{x}, {y}, {width}, {height}], '
                f'"category_id": {categories[row]}, "id": {row + 1}}}'
            )
        names = [{"id": number, "name": f"class {number}"} for number in range(1, 81)]
        stream.write(f'], "categories": {json.dumps(names)}}}')


if __name__ == "__main__":
    main()
