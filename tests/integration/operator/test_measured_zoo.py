"""A zoo of published weights: nothing is trained, and its figures are those of `kubedet evaluate`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from http_servers import Handler, serve
from published_weights import PUBLISHER, write_weights

DATASET = "synthetic://shapes?images=4&val_images=8&size=160x128"
RECIPES = ("smoke_rpn", "smoke_fast_rcnn", "smoke_mask_rcnn", "smoke_retinanet")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mirror")
    return {recipe: write_weights(recipe, folder=folder) for recipe in RECIPES}


@pytest.fixture(scope="module")
def mirror(files: Mapping[str, Path]) -> Iterator[str]:
    """An address that has the files by the paths of their publisher."""
    root = files["smoke_rpn"].parents[2]

    class Files(Handler):
        def answer(self) -> None:
            file = root / self.path.lstrip("/")
            self.send_response(200 if file.is_file() else 404)
            content = file.read_bytes() if file.is_file() else b""
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with serve(Files) as port:
        yield f"http://127.0.0.1:{port}"


def _kubedet(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "kubedet_trainer.commands.kubedet", *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def _rows(folder: Path) -> dict[str, dict[str, Any]]:
    status = json.loads((folder / "runs/published/zoo.json").read_text())
    return {row["recipe"]: row for row in status["rows"]}


def test_rows_of_published_weights_have_the_figures_of_evaluate(
    tmp_path: Path, files: Mapping[str, Path], mirror: str
) -> None:
    """The RPN's row makes the proposals of the validation split that the Fast R-CNN is measured with."""
    zoo = {
        "apiVersion": "kubedet.dev/v1alpha1",
        "kind": "ModelZoo",
        "metadata": {"name": "published"},
        "spec": {
            "measure": "Published",
            "rows": {"recipes": list(RECIPES)},
            "template": {
                "spec": {
                    "dataset": {"storageUri": DATASET},
                    "overrides": {"data.num_workers": "0"},
                    "weightsMirror": mirror,
                    "benchmark": {"images": 4, "iterations": 4},
                    "metrics": {"port": 9700},  # another test process may take the usual one
                    "worker": {"replicas": 1, "gpus": 0},
                }
            },
            "changes": [
                {"recipe": recipe, "spec": {"pretrained": {"storageUri": f"{PUBLISHER}/{file.name}"}}}
                for recipe, file in files.items()
            ],
        },
    }
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(zoo))
    said = _kubedet("run", "zoo.yaml", folder=tmp_path)
    rows = _rows(tmp_path)
    assert {row["phase"] for row in rows.values()} == {"Succeeded"}, said
    for recipe, file in files.items():
        (run,) = rows[recipe]["runs"]
        found = run["results"]
        assert (found["task"], found["modelUri"]) == ("Measure", f"{PUBLISHER}/{file.name}")
        assert min(found["secondsPerIteration"], found["inferenceFps"], found["memoryGB"]) > 0
        report = json.loads(_path(found["reportUri"]).with_name("results.json").read_text())
        ours = {item["name"]: item["value"] for item in report["metrics"]}
        wanted = _evaluate(file, folder=tmp_path, proposals=rows["smoke_rpn"]["runs"][0]["results"])
        assert wanted.items() <= ours.items(), recipe
        main = "ar1000" if recipe == "smoke_rpn" else "boxAP"
        assert wanted[main] > 0, "a figure of 0 could be right by chance"
        assert found[main] == round(wanted[main], 1)
    proposals = _path(rows["smoke_rpn"]["runs"][0]["results"]["proposalsUri"])
    assert [path.name for path in proposals.iterdir()] == ["val.npz"]

    starts = sorted(tmp_path.glob("runs/published/*/logs/*"))
    before = {path: path.stat().st_size for path in starts}
    _kubedet("run", "zoo.yaml", folder=tmp_path)
    assert {path: path.stat().st_size for path in starts} == before, "a second run measures nothing"


def _evaluate(file: Path, *, folder: Path, proposals: Mapping[str, Any]) -> dict[str, float]:
    given = ("--proposals", proposals["proposalsUri"]) if "fast_rcnn" in file.name else ()
    printed = _kubedet("evaluate", str(file), "--dataset", DATASET, *given, "--json", folder=folder)
    figures: dict[str, float] = json.loads(printed)
    return figures
