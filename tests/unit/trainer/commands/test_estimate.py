"""`kubedet estimate`, as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from kubedet_trainer.commands.estimate import estimate


def run_json(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(estimate, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_tables_say_what_a_training_needs_and_takes() -> None:
    result = CliRunner().invoke(estimate, ["mask_rcnn_r50_fpn_1x"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("mask_rcnn_r50_fpn_1x, tf32: 44.4 million parameters, checkpoint 0.33 GiB")
    assert lines[1] == "8 x GPU, 16 images a step, 87960 steps"
    beginnings = ("weights", "gradients", "momentum", "activations", "working space", "estimate", "forward")
    for beginning in (*beginnings, "backward", "update", "all steps, hours", "GPU hours", "images that fit"):
        assert any(line.startswith(beginning) for line in lines), beginning


def test_json_has_the_same_for_programs() -> None:
    document = run_json("mask_rcnn_r50_fpn_1x", "--gpu", "H100", "--gpus", "4")
    assert (document["gpus"], document["globalBatch"], list(document["on"])) == (4, 16, ["H100"])
    assert document["on"]["H100"]["accumulationSteps"] == 2
    assert document["on"]["H100"]["gpuHours"] == pytest.approx(4 * document["on"]["H100"]["hours"])


def test_an_override_that_changes_the_shapes_is_counted() -> None:
    own = run_json("smoke_ssd")["memoryBytes"]
    lower = run_json("smoke_ssd", "precision=bf16")["memoryBytes"]
    assert lower["activations"] < own["activations"]
    assert lower["weights"] == own["weights"]


def test_hours_need_to_know_how_many_images_there_are() -> None:
    assert run_json("smoke_ssd")["iterations"] is None
    document = run_json("smoke_ssd", "--images", "6400", "schedule.epochs=3", "data.repeat=2")
    assert document["iterations"] == 2 * 3 * 6400 // document["globalBatch"]
    assert document["on"]["V100"]["hours"] > 0


def test_auto_takes_what_fits_the_gpu() -> None:
    arguments = ("cascade_mask_rcnn_x101_64x4d_fpn_1x", "--gpu", "v100", "--gpus", "1")
    [own] = run_json(*arguments)["on"].values()
    [filled] = run_json(*arguments, "data.images_per_process=auto")["on"].values()
    assert (own["imagesPerPass"], own["accumulationSteps"]) == (1, 16)
    assert filled["imagesPerPass"] == filled["mostImages"] > 1
    assert filled["imagesPerPass"] * filled["accumulationSteps"] == 16
    assert filled["fits"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["mask_rcnn"], 65, "Error: recipe: got 'mask_rcnn', must be one that `kubedet recipes` lists"),
        (["ssd300_coco", "--gpu", "p100"], 2, "Error: --gpu: got 'p100', must be one of v100, a100"),
        (["ssd300_coco", "data.scal=1,1"], 65, "Error: data.scal: got '1,1', must be a field of the recipe."),
    ],
)
def test_a_wrong_argument_ends_with_its_code(arguments: list[str], code: int, message: str) -> None:
    result = CliRunner().invoke(estimate, arguments)
    assert result.exit_code == code
    assert result.stderr.startswith(message)


def test_known_recipes_need_no_torch() -> None:
    code = (
        "import sys; from kubedet_trainer.commands.estimate import estimate; "
        "estimate(['ssd300_coco', '--json'], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
    )
