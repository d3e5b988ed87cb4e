"""What it costs to start the workers of a loader, and to have them, by the way in which they are started.

Prints one JSON document: for each start method seconds to the first batch of a first and a second loader, as
training and evaluation have them, and the memory of each of two workers on a split
of COCO's size. Proportional memory counts pages that n processes share as an n-th. A goal is that
no worker has annotations of its own: 25 MB in all.

    python benchmarks/loader_workers.py [--scratch FOLDER]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from data import kilobytes, read_files, write_coco_sized

from kubedet_trainer.config import DataConfig
from kubedet_trainer.data import arrays, loader, splits
from kubedet_trainer.data.coco import CocoFile
from kubedet_trainer.data.sources import LocalSplit
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.dist import World
from kubedet_trainer.models.options.task import NormalisationOptions
from kubedet_trainer.worker import fork_server

_WORKERS = 2
_BATCHES = 20
_MEGABYTE = 1_000_000
_FORKED_SERVER = "forkserver, forked from the rank at its start"


def main() -> None:
    """Measure every start method and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scratch", type=Path, help="folder for 0.2 GB of made-up annotations")
    with tempfile.TemporaryDirectory(dir=parser.parse_args().scratch) as folder:
        print(json.dumps(measure_workers(Path(folder)), indent=2))


def measure_workers(folder: Path) -> dict[str, Any]:
    """For each way to start loader workers: seconds to the first batch, and memory of each worker."""
    (folder / "images").mkdir()
    for number, data in enumerate(read_files(None)):
        (folder / f"images/{number:012d}.jpg").write_bytes(data)
    write_coco_sized(folder / "instances.json", polygons=False)
    context = multiprocessing.get_context("spawn")
    found = {}
    for method in ("fork", "forkserver", _FORKED_SERVER, "spawn"):
        reports: multiprocessing.Queue[dict[str, float]] = context.Queue()
        process = context.Process(target=_start_workers, args=(method, folder, reports))
        process.start()
        found[method] = reports.get(timeout=600)
        process.join()
    return {"workers": _WORKERS, "started_by": found}


def _start_workers(method: str, folder: Path, reports: multiprocessing.Queue[dict[str, float]]) -> None:
    """Runs in a process of its own, as a rank does: start workers twice, as training and evaluation do."""
    vars(sys.modules["__main__"]).pop("__file__")  # no worker of a rank imports its main module again
    is_forked = method == _FORKED_SERVER
    if is_forked:
        fork_server.start()
    context = multiprocessing.get_context("forkserver" if is_forked else method)
    if method == "forkserver":
        context.set_forkserver_preload([loader.__name__])
    annotations = arrays.load_annotations(
        LocalSplit(
            sources=(CocoFile(file=folder / "instances.json", images=folder / "images"),), name="made up"
        ),
        cache=folder / "cache",
    )
    plain = NormalisationOptions(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), to_rgb=False)
    split = splits.training_split(annotations, folder=folder / "images", data=DataConfig(normalisation=plain))
    plan = loader.sampling_plan(split, images_per_process=2, global_batch=2, seed=0)
    report: dict[str, float] = {}
    for turn in ("first", "second"):
        started = time.perf_counter()
        with mock.patch.object(loader, "_processes", return_value=context):
            made = loader.train_loader(
                split,
                plan=plan,
                pipeline=replace(Pipeline(), flip_probability=0.5),
                world=World(device=torch.device("cpu")),
                end_iteration=_BATCHES,
                num_workers=_WORKERS,
            )
        iterator = iter(made)
        next(iterator)
        report[f"seconds_to_the_{turn}_loaders_first_batch"] = round(time.perf_counter() - started, 2)
        for _ in range(_BATCHES - 4):
            next(iterator)
        workers = [Path(f"/proc/{child.pid}/smaps_rollup") for child in multiprocessing.active_children()]
        report["megabytes_of_a_worker_proportional"] = _mean_megabytes(workers, "Pss:")
        report["megabytes_of_a_worker_private"] = _mean_megabytes(workers, "Private_Dirty:")
        made.close()
    reports.put(report)


def _mean_megabytes(files: list[Path], name: str) -> float:
    return round(statistics.mean(kilobytes(file, name) for file in files) * 1024 / _MEGABYTE, 1)


if __name__ == "__main__":
    main()
