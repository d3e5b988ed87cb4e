"""Tables of zoos as the pod that writes their page gets them: from the operator's own decisions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import report_builders
from kubedet_operator.api import names
from kubedet_trainer.recipes.published import PUBLISHED
from kubedet_trainer.reports import document, files
from kubedet_trainer.storage.uris import open_store
from zoo_simulation import ZooSimulation, settled

V100 = {"accelerator": "Tesla V100-SXM2-16GB", "worldSize": 8, "precision": "fp32", "globalBatch": 16}
H200 = {**V100, "accelerator": "NVIDIA H200", "precision": "tf32"}


def make_zoo(folder: Path, **spec: Any) -> ZooSimulation:
    """A zoo whose rows keep their checkpoints below `folder`, all of its jobs running."""
    checkpoint = {"storageUri": folder.as_uri()}
    return settled(**{"parallelism": 200, "template": {"spec": {"checkpoint": checkpoint}}, **spec})


def end_row(
    zoo: ZooSimulation,
    recipe: str,
    *,
    seed: int = 0,
    hardware: dict[str, Any] = V100,
    report: str | None = "whole",
    job: str | None = None,
    global_batch: int | None = None,
    task: str | None = None,
    **changed: float,
) -> None:
    """End a training with its published figures, plus what `changed` says.

    `report` is None for a run that has left no files.
    """
    row = PUBLISHED.get(recipe)
    reference = row.as_results() if row else {}
    measured = reference or {"memoryGB": 1.0, "secondsPerIteration": 0.2, "inferenceFps": 9.0, "boxAP": 20.0}
    figures = {name: round(value + changed.get(name, 0.0), 3) for name, value in measured.items()}
    place = zoo.job(recipe, seed)["spec"]["checkpoint"]["storageUri"]
    results = {
        **figures,
        "reference": reference,
        "hardware": {**hardware, **({"globalBatch": global_batch or row.images_per_step} if row else {})},
        **({"task": task} if task else {}),
        "validationImages": 4952 if recipe.endswith("voc") else 5000,
        "reportUri": f"{place}/report.html",
        "modelUri": f"{place}/step-00000010/state.pt",
    }
    if report is not None:
        whole = json.loads(document.dump(report_builders.make_report(job=job or f"job of {recipe}")))
        whole["run"]["changes"] = []
        whole["data"]["uri"] = "s3://datasets/coco2017"
        data = json.dumps({**whole, **results, "recipe": recipe}).encode()
        files.write_report(open_store(place), data)
    zoo.succeed(recipe, seed, **results)


def write_table(zoo: ZooSimulation, file: Path) -> Path:
    """What the pod that writes the page would read now, in `file`."""
    zoo.settle()
    zoo.wait(3600)
    file.write_text(zoo.pages[-1]["metadata"]["annotations"][names.ZOO_TABLE])
    return file
