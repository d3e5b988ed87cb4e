"""How fast one core feeds a trainer with images, and what COCO's annotations cost in seconds and memory.

Prints one JSON document. Rates are per second of processor time of a single thread, so that a busy machine
does not change them much. Without ``--images`` the pictures are made up: noise with the spectrum of
photographs, as JPEG files of about 100 kB. Goals: decoding and resizing at 290 images a second and core;
COCO's annotations loaded in 20 s and under 400 MB in all processes of a node.

    python benchmarks/data.py [--images FOLDER] [--scratch FOLDER] [--processes 8]
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kubedet_trainer.data import arrays, batches, images, transforms
from kubedet_trainer.data.batches import Item
from kubedet_trainer.data.coco import CocoFile
from kubedet_trainer.data.sources import LocalSplit
from kubedet_trainer.data.transforms import Pipeline

_SIZE = (480, 640)
_JPEG_BYTES = 100_000
_ROUNDS = 7
_COCO_IMAGES = 118_000
_COCO_BOXES = 860_000
_PROCESSES = 8
_MEGABYTE = 1_000_000


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
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    document: dict[str, Any] = {"images": measure_images(read_files(arguments.images))}
    for name, polygons in (("annotations_boxes_only", False), ("annotations_with_polygons", True)):
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            document[name] = measure_annotations(
                Path(folder), polygons=polygons, num_processes=arguments.processes
            )
    print(json.dumps(document, indent=2))


def measure_images(files: Sequence[bytes]) -> dict[str, Any]:
    """Images a second and core of decoding, and of what is added to it step by step."""
    boxes = np.random.default_rng(0).uniform(0, 400, (8, 4)).astype(np.float32)
    labels = np.ones(8, np.int32)
    pipeline = Pipeline()

    def decode(data: bytes) -> images.Pixels:
        pixels = images.decode(data)
        assert isinstance(pixels, np.ndarray)
        return pixels

    def resize(data: bytes, *, flip: bool = False) -> Item:
        pixels = decode(data)
        sample = transforms.transform(pixels, boxes=boxes, pipeline=pipeline, flip=flip)
        height, width = pixels.shape[:2]
        return Item(image_id=1, original_size=(height, width), sample=sample, labels=labels)

    def augment(data: bytes) -> Item:
        # Every second image is flipped, as in training.
        return resize(data, flip=next(coin))

    coin = itertools.cycle((False, True))
    waiting: list[Item] = []

    def collate(data: bytes) -> None:
        waiting.append(augment(data))
        if len(waiting) == 2:
            batches.collate(waiting, slots=96, pad_multiple=32)
            waiting.clear()

    steps: dict[str, Callable[[bytes], Any]] = {
        "decode": decode,
        "decode_resize": resize,
        "decode_resize_flip": augment,
        "decode_resize_flip_collate": collate,
    }
    return {
        "count": len(files),
        "kilobytes_per_image": round(sum(map(len, files)) / len(files) / 1000, 1),
        "from": "640x480",
        "to": "1067x800",
        "images_per_second_and_core": {name: round(_rate(step, files), 1) for name, step in steps.items()},
    }


def _rate(step: Callable[[bytes], Any], files: Sequence[bytes]) -> float:
    """The best of several rounds: what disturbs a round can only slow it down."""
    seconds = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        for data in files:
            step(data)
        seconds.append(time.process_time() - started)
    return len(files) / min(seconds)


def read_files(folder: Path | None) -> list[bytes]:
    """JPEG files of 640x480: up to 64 of `folder`, or made up."""
    if folder is None:
        return [_make_jpeg(seed) for seed in range(16)]
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
    return _kilobytes(Path("/proc/self/smaps_rollup"), "Pss:") * 1024


def _peak_bytes() -> int:
    return _kilobytes(Path("/proc/self/status"), "VmHWM:") * 1024


def _kilobytes(file: Path, name: str) -> int:
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
            name = f"{number:012d}.jpg"
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
