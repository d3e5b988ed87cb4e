"""The weights of a zoo's rows go next to its page, and are loaded again from there."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import cv2  # noqa: F401  # here, since it changes the environment
import pytest
import torch
from click.testing import CliRunner, Result

import zoo_tables
from kubedet_trainer import recipes
from kubedet_trainer.commands.publish import publish
from kubedet_trainer.commands.report import report
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.training.source import read_source
from trainer_builders import save_checkpoints

RPN, SSD = "smoke_rpn", "smoke_ssd"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A zoo of two rows: one with a checkpoint, one whose checkpoint is gone; and its page in zoo."""
    zoo = zoo_tables.make_zoo(tmp_path, rows={"recipes": [RPN, SSD]})
    recipe = recipes.read_recipe(RPN)
    place = Path(zoo.job(RPN)["spec"]["checkpoint"]["storageUri"].removeprefix("file://"))
    model = recipe.model.build(Task(num_classes=3))
    save_checkpoints(place, recipe=recipe, model=model, classes=["disc", "square"])
    (state,) = place.glob("step-*/*.pt")
    for name in (RPN, SSD):
        zoo_tables.end_row(zoo, name, report=None, job=name)
    zoo.settle()
    for row in zoo.status["rows"]:
        if row["recipe"] == RPN:
            row["runs"][0]["results"]["modelUri"] = state.as_uri()
    zoo.zoo = {**(zoo.zoo or {}), "status": zoo.status}
    (tmp_path / "zoo.json").write_text(json.dumps(zoo.zoo))
    make_page(tmp_path)
    return tmp_path


def make_page(folder: Path) -> None:
    done = CliRunner().invoke(report, ["--zoo", str(folder / "zoo.json"), "--output", str(folder / "zoo")])
    assert done.exit_code == 0, done.output


def run(folder: Path) -> Result:
    arguments = ["--zoo", str(folder / "zoo"), "--work-directory", str(folder / "work")]
    return CliRunner().invoke(publish, arguments)


def weights_of(folder: Path, recipe: str) -> dict[str, Any] | None:
    table = json.loads((folder / "zoo" / "zoo.json").read_text())
    (row,) = [row for row in table["rows"] if row["recipe"] == recipe]
    found: dict[str, Any] | None = row.get("weights")
    return found


def test_weights_are_next_to_the_page_with_their_hash_in_the_name_and_load_again(folder: Path) -> None:
    done = run(folder)
    assert done.exit_code == 66
    assert f"1 rows have no weights: {SSD}: " in done.output
    (file,) = (folder / "zoo").glob("*.pth")
    assert re.fullmatch(rf"{RPN}_\d{{8}}-[0-9a-f]{{8}}\.pth", file.name)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert file.stem.endswith(digest[:8])
    weights = weights_of(folder, RPN)
    assert weights is not None
    assert (weights["file"], weights["sha256"], weights["bytes"]) == (file.name, digest, file.stat().st_size)
    assert weights_of(folder, SSD) is None
    assert f'<a href="{file.name}"' in (folder / "zoo" / "index.html").read_text()
    assert f"[model](<{file.name}>)" in (folder / "zoo" / "MODEL_ZOO.md").read_text()
    source = read_source(file.as_uri(), cache=folder / "cache")
    assert source.recipe is not None
    assert source.recipe["name"] == RPN
    checkpoint = read_source(weights["checkpoint"], cache=folder / "cache")
    assert source.weights.tensors.keys() == checkpoint.weights.tensors.keys()
    assert all(
        torch.equal(tensor, checkpoint.weights.tensors[name])
        for name, tensor in source.weights.tensors.items()
    )


def test_a_page_that_is_written_again_keeps_the_link_and_a_second_run_publishes_nothing(folder: Path) -> None:
    run(folder)
    (file,) = (folder / "zoo").glob("*.pth")
    before = file.stat().st_mtime_ns
    make_page(folder)
    assert (weights_of(folder, RPN) or {})["file"] == file.name
    assert run(folder).exit_code == 66
    assert [path.stat().st_mtime_ns for path in (folder / "zoo").glob("*.pth")] == [before]


def test_weights_of_another_training_are_not_linked_from_a_new_row(folder: Path) -> None:
    run(folder)
    zoo = json.loads((folder / "zoo.json").read_text())
    for row in zoo["status"]["rows"]:
        row["runs"][0]["results"]["modelUri"] = "file:///elsewhere/step-00000001/state.pt"
    (folder / "zoo.json").write_text(json.dumps(zoo))
    make_page(folder)
    assert weights_of(folder, RPN) is None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "must be one of them"),
        (["checkpoint", "--zoo", "page"], 2, "must be one of them"),
        (["--zoo", "page", "--output", "folder"], 2, "--output: must not be set with --zoo"),
        (["--zoo", "nowhere"], 66, "zoo.json: no such table"),
    ],
)
def test_what_cannot_be_published_is_refused(
    arguments: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(publish, arguments)
    assert (done.exit_code, said in done.output) == (code, True), done.output
