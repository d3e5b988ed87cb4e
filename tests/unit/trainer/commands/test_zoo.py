"""`kubedet recipes`: what it lists, chooses and compares, at the width of a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

import golden_files
from kubedet_trainer.commands.zoo import recipes
from kubedet_trainer.recipes import RECIPES, comparison
from kubedet_trainer.recipes.published import PUBLISHED

ListRecipes = Callable[..., Result]
"""Runs `kubedet recipes` with arguments, in a terminal of `columns`."""


@pytest.fixture
def list_recipes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ListRecipes:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, columns: int = 80) -> Result:
        monkeypatch.setenv("COLUMNS", str(columns))
        result = CliRunner().invoke(recipes, arguments)
        monkeypatch.delenv("COLUMNS")
        return result

    return run


def _rows(output: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in output.splitlines() if line.strip()}


def test_all_recipes_are_listed_with_their_figures_within_80_columns(list_recipes: ListRecipes) -> None:
    output = list_recipes().stdout
    rows = _rows(output)
    assert rows.keys() >= RECIPES.keys()
    assert rows["faster_rcnn_r50_fpn_1x"] == ["5.10", "0.554", "9.9", "36.4"]
    assert rows["mask_rcnn_r50_fpn_gn_2x"] == ["7.20", "0.806", "5.4", "39.9", "36.1"]
    assert rows["ssd300_voc"] == ["1.20", "0.189", "40.1", "77.8"]
    assert max(map(len, output.splitlines())) <= 80


def test_a_wide_terminal_has_the_speed_at_batch_8_too(list_recipes: ListRecipes) -> None:
    output = list_recipes(columns=120).stdout
    assert _rows(output)["ssd300_voc"] == ["1.20", "0.189", "40.1", "58.0", "77.8"]
    heading, *lines = output.splitlines()
    row = next(line for line in lines if line.startswith("rpn_r50_fpn_1x "))
    assert row.endswith("57.1")
    assert len(row) == len(heading)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (
            ["--method", "mask_rcnn", "--backbone", "R-50-FPN", "--schedule", "2x", "--section", "mask_rcnn"],
            {"mask_rcnn_r50_fpn_2x"},
        ),
        (["--section", "ssd", "--dataset", "coco"], {"ssd300_coco", "ssd512_coco"}),
        (
            [
                "--method",
                "Cascade R-CNN",
                "--schedule",
                "1x",
                "--schedule",
                "20e",
                "--backbone",
                "x101_64x4d",
            ],
            {"cascade_rcnn_x101_64x4d_fpn_1x", "cascade_rcnn_x101_64x4d_fpn_20e"},
        ),
        (["--published", "--method", "rpn", "--backbone", "r50"], {"rpn_r50_fpn_1x", "rpn_r50_fpn_2x"}),
    ],
)
def test_recipes_are_chosen_by_what_they_are_of(
    list_recipes: ListRecipes, chosen: list[str], expected: set[str]
) -> None:
    documents = json.loads(list_recipes("--json", *chosen).stdout)
    assert {document["recipe"] for document in documents} == expected
    assert _rows(list_recipes(*chosen).stdout).keys() >= expected


def test_json_has_the_row_and_where_its_weights_lie(list_recipes: ListRecipes) -> None:
    (document,) = json.loads(list_recipes("--json", "--section", "dcn", "--method", "faster_rcnn",
                                          "--backbone", "r101").stdout)  # fmt: skip
    assert document["reference"]["boxAP"] == 42.1
    assert document["memoryKind"] == "allocated"
    assert document["weights"].endswith("/dcn/faster_rcnn_dconv_c3-c5_r101_fpn_1x_20190125-a7e31b65.pth")


def test_unknown_choice_is_refused_with_the_nearest(list_recipes: ListRecipes) -> None:
    result = list_recipes("--method", "fastr_rcnn")
    assert result.exit_code == 2
    assert "--method: got 'fastr_rcnn', must be one of rpn, " in result.stderr
    assert "Did you mean 'faster_rcnn'?" in result.stderr


def test_a_choice_that_nothing_fits_is_refused(list_recipes: ListRecipes) -> None:
    assert list_recipes("--method", "rpn", "--schedule", "3x").exit_code == 2


def test_recipe_is_printed_completely_in_either_form(list_recipes: ListRecipes) -> None:
    name = "faster_rcnn_r50_fpn_1x"
    as_yaml = yaml.safe_load(list_recipes(name).stdout)
    assert as_yaml == json.loads(list_recipes(name, "--json").stdout)
    assert as_yaml["optimizer"]["lr"] == 0.02


def test_unknown_recipe_names_the_nearest_and_ends_with_65(list_recipes: ListRecipes) -> None:
    result = list_recipes("faster_rcnn_r50_fpn")
    assert result.exit_code == 65
    assert "Did you mean 'faster_rcnn_r50_fpn_" in result.stderr


def test_comparison_data_is_the_pages() -> None:
    page = golden_files.read_page("comparison")
    for row, theirs in zip(comparison.ACCURACY, page["accuracy"], strict=True):
        assert (row.method, row.schedule) == (theirs["method"], theirs["schedule"])
        for key in ("detectron", "detectron_pytorch"):
            quality = getattr(row, key)
            found = {name: value for name, value in vars(quality).items() if value} if quality else None
            assert found == theirs.get(key)
        for key, recipe in (
            ("mmdetection_pytorch_style", row.recipe),
            ("mmdetection_caffe_style", row.caffe_recipe),
        ):
            for name, value in theirs.get(key, {}).items():
                assert getattr(PUBLISHED[recipe], name) == value
    for rows, table, figure in (
        (comparison.TRAINING_SECONDS, "train_s_per_iter", "seconds_per_iteration"),
        (comparison.INFERENCE_FPS, "inference_fps", "inference_fps"),
    ):
        for speed, theirs in zip(rows, page[table], strict=True):
            zoo = PUBLISHED[f"{speed.method}_r50_fpn_1x"]
            ours = {
                "detectron_p100": speed.detectron_p100,
                "detectron_pytorch_xp": speed.detectron_pytorch_xp,
                "mmdetection_v100": getattr(zoo, figure),
                "mmdetection_xp": speed.zoo_xp,
            }
            assert {name: value for name, value in ours.items() if value} == {
                name: value for name, value in theirs.items() if name != "method"
            }


def test_comparison_shows_what_was_measured_beside_the_others(
    list_recipes: ListRecipes, tmp_path: Path
) -> None:
    folder = tmp_path / "runs/mask_rcnn_r50_fpn_1x/checkpoints"
    folder.mkdir(parents=True)
    results = {
        "recipe": "mask_rcnn_r50_fpn_1x",
        "boxAP": 37.2,
        "maskAP": 34.1,
        "secondsPerIteration": 0.1234,
        "hardware": {"accelerator": "NVIDIA H200", "worldSize": 8},
    }
    (folder / "results.json").write_text(json.dumps(results))
    output = list_recipes("--compare").stdout
    assert "mask_rcnn 1x       37.7/33.9  37.7/33.7  37.3/34.2  37.5/34.4  37.2/34.1      -" in output
    assert "mask_rcnn           0.889        1.435  0.690  0.732  0.123" in output
    assert (
        "mask_rcnn_r50_fpn_1x: 8 x NVIDIA H200, runs/mask_rcnn_r50_fpn_1x/checkpoints/results.json" in output
    )
    assert max(map(len, output.splitlines())) <= 100


def test_comparison_refuses_results_of_nobody(list_recipes: ListRecipes, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    result = list_recipes("--compare", "--results", str(tmp_path))
    assert result.exit_code == 65
    assert "must be the results.json of a run" in result.stderr
