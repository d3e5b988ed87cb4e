"""The recipes are the zoo's: names, figures, schedules, pixels, batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import pytest

import golden_files
import trainer_builders
from kubedet_trainer.config import Recipe
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.models.options.backbones import ResNetOptions, VggOptions
from kubedet_trainer.models.options.dense import SsdHeadOptions
from kubedet_trainer.models.options.task import NormalisationOptions
from kubedet_trainer.models.options.two_stage import RoiOptions
from kubedet_trainer.recipes import RECIPES, published_files, read_recipe, smoke
from kubedet_trainer.recipes.mask_rcnn import MaskRcnnOptions
from kubedet_trainer.recipes.published import PUBLISHED

ROOT = Path(__file__).resolve().parents[4]
FIGURES = {
    "memory_gb": "memoryGB",
    "train_s_per_iter": "secondsPerIteration",
    "inference_fps": "inferenceFps",
    "inference_fps_batch8": "inferenceFpsBatch8",
    "box_ap": "boxAP",
    "mask_ap": "maskAP",
    "ar1000": "ar1000",
}
SCHEDULES = {
    "1x": (12, (8, 11)),
    "2x": (24, (16, 22)),
    "3x": (36, (28, 34)),
    "20e": (20, (16, 19)),
    "120e": (24, (16, 22)),
    "240e": (24, (16, 20)),
}
RGB_SCALED = NormalisationOptions(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), to_rgb=True)
RGB = NormalisationOptions(mean=(123.675, 116.28, 103.53), std=(1, 1, 1), to_rgb=True)
BGR = NormalisationOptions(mean=(102.9801, 115.9465, 122.7717), std=(1, 1, 1), to_rgb=False)
BACKBONES = {
    "R-50-FPN": ((3, 4, 6, 3), 1, 64),
    "R-101-FPN": ((3, 4, 23, 3), 1, 64),
    "X-101-32x4d-FPN": ((3, 4, 23, 3), 32, 4),
    "X-101-64x4d-FPN": ((3, 4, 23, 3), 64, 4),
}
WEIGHTS = {
    ("R-50-FPN", "pytorch"): "resnet50-0676ba61",
    ("R-101-FPN", "pytorch"): "resnet101-63fe2227",
    ("X-101-32x4d-FPN", "pytorch"): "resnext101_32x4d-a5af3160",
    ("X-101-64x4d-FPN", "pytorch"): "resnext101_64x4d-ee2c6f71",
    ("R-50-FPN", "caffe"): "resnet50_caffe-788b5fa3",
    ("R-101-FPN", "caffe"): "resnet101_caffe-3ad79236",
    ("VGG16", "caffe"): "vgg16_caffe-292e1171",
    ("R-50-FPN", "detectron"): "resnet50_gn-9186a21c",
    ("R-101-FPN", "detectron"): "resnet101_gn-cac0ab98",
    ("R-50-FPN", "contrib"): "resnet50_gn_thangvubk-ad1730dd",
}


Part = TypeVar("Part")


def _part(recipe: Recipe, name: str, kind: type[Part]) -> Part:
    """A part of the recipe's model, which must be of this `kind`."""
    part = getattr(recipe.model, name)
    assert isinstance(part, kind)
    return part


@pytest.fixture(scope="module")
def page() -> dict[str, dict[str, Any]]:
    rows = golden_files.read_page("model_zoo")["recipes"]
    return {row["recipe"]: row for row in rows}


def test_recipes_are_the_95_of_the_zoo_in_its_order_and_the_smoke_ones(
    page: dict[str, dict[str, Any]],
) -> None:
    assert [name for name in RECIPES if name not in smoke.RECIPES] == list(page) == list(PUBLISHED)
    assert len(page) == 95


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_carries_its_own_name(name: str) -> None:
    assert read_recipe(name).name == name


@pytest.mark.parametrize("name", PUBLISHED)
def test_reference_figures_and_memory_counter_are_the_pages(
    page: dict[str, dict[str, Any]], name: str
) -> None:
    row, recipe = page[name], read_recipe(name)
    published = recipe.published

    assert published is not None
    assert recipe.memory_kind == published.memory_kind
    assert recipe.global_batch == published.images_per_step
    assert recipe.reference == {ours: row[key] for key, ours in FIGURES.items() if key in row}
    assert published.memory_kind == (
        "allocated" if row["section"].startswith(("Group", "Def")) else "reserved"
    )
    assert (published.style, published.schedule) == (row["style"], row["schedule"])
    assert published.backbone.replace("_", "") == row["backbone"].lower().removesuffix("-fpn").replace(
        "-", ""
    )
    assert published.dataset == row["dataset"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_method_backbone_and_its_weights_are_the_rows(page: dict[str, dict[str, Any]], name: str) -> None:
    row, recipe = page[name], read_recipe(name)

    assert recipe.model.architecture == row["method"].rstrip("0123456789")
    weights = WEIGHTS[row["backbone"], row.get("pretrained", row["style"])]
    assert Path(recipe.pretrained or "").name == f"{weights}.pth"
    if row["backbone"] == "VGG16":
        assert f"ssd{_part(recipe, 'backbone', VggOptions).input_size}" == row["method"]
        return
    backbone = _part(recipe, "backbone", ResNetOptions)
    assert (backbone.stage_blocks, backbone.groups, backbone.base_width) == BACKBONES[row["backbone"]]
    assert (backbone.style, backbone.norm) == (row["style"], row.get("norm", "bn"))
    kinds = {None: "none", "dconv(c3-c5)": "offsets", "mdconv(c3-c5)": "modulated"}
    assert backbone.deformable == kinds[row.get("deform_conv")]
    if hasattr(recipe.model, "box_roi"):
        kinds = {None: "align", "dpool": "deformable", "mdpool": "modulated"}
        assert _part(recipe, "box_roi", RoiOptions).kind == kinds[row.get("deform_pool")]


@pytest.mark.parametrize("name", PUBLISHED)
def test_optimisation_is_that_of_the_rows_group(page: dict[str, dict[str, Any]], name: str) -> None:
    row, recipe = page[name], read_recipe(name)
    optimizer = recipe.optimizer
    ssd = {"coco": (64, 8, 5, 2e-3, 3), "voc": (32, 4, 10, 1e-3, 2)}.get(row["dataset"])

    assert (recipe.schedule.epochs, recipe.schedule.decay_epochs) == SCHEDULES[row["schedule"]]
    assert recipe.schedule.warmup_iterations == 500
    assert recipe.schedule.warmup_ratio == pytest.approx(1 / 3)
    found = (
        recipe.global_batch,
        recipe.data.images_per_process,
        recipe.data.repeat,
        optimizer.lr,
        recipe.data.num_workers,
    )
    if row["backbone"] == "VGG16":
        assert found == ssd
        assert (optimizer.weight_decay, optimizer.clip_norm) == (5e-4, None)
        return
    is_16x1 = name.startswith("cascade_mask_rcnn_x101_64x4d")
    assert found == (16, 1 if is_16x1 else 2, 1, 0.01 if row["method"] == "retinanet" else 0.02, 2)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (1e-4, 35)


@pytest.mark.parametrize("name", PUBLISHED)
def test_data_and_evaluation_are_those_of_the_method(page: dict[str, dict[str, Any]], name: str) -> None:
    row, recipe = page[name], read_recipe(name)
    data, is_ssd = recipe.data, row["backbone"] == "VGG16"

    if is_ssd:
        assert data.normalisation == RGB
    else:
        is_caffe = row["style"] == "caffe" or row.get("pretrained") == "detectron"
        assert data.normalisation == (BGR if is_caffe else RGB_SCALED)
    side = int(row["method"].removeprefix("ssd")) if is_ssd else 0
    found = (data.scale, data.keep_aspect, data.augmentation, data.pad_multiple)
    assert found == (((side, side), False, "ssd", 1) if is_ssd else ((1333, 800), True, "flip", 32))
    assert data.masks is ("mask" in row["method"])
    assert data.num_proposals == (1000 if row["method"].startswith("fast_") else None)
    kinds = {"rpn": "proposal", "voc": "voc"}
    expected = kinds.get(row["method"]) or kinds.get(row["dataset"]) or ("segm" if data.masks else "bbox")
    assert recipe.evaluation_kind == expected


def test_group_normalisation_is_everywhere_but_in_the_rpn() -> None:
    model = read_recipe("mask_rcnn_r101_fpn_gn_3x").model

    assert isinstance(model, MaskRcnnOptions)
    assert (model.backbone.norm, model.neck.norm, model.box_head.norm, model.mask_head.norm) == ("gn",) * 4
    assert (model.box_head.num_convs, model.box_head.num_fcs) == (4, 1)


@pytest.mark.parametrize(
    ("name", "first_and_last"),
    [
        ("ssd300_coco", ((21, 45), (261, 315))),
        ("ssd300_voc", ((30, 60), (264, 315))),
        ("ssd512_coco", ((20, 51), (460, 542))),
        ("ssd512_voc", ((35, 76), (460, 537))),
    ],
)
def test_anchors_of_ssd_are_laid_out_for_its_size_and_data(
    name: str, first_and_last: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    sizes = _part(read_recipe(name), "ssd_head", SsdHeadOptions).anchor_sizes

    assert (sizes[:2], sizes[-2:]) == first_and_last


def test_every_linked_row_has_its_file_and_the_others_none(page: dict[str, dict[str, Any]]) -> None:
    text = (ROOT / "docs" / "zoo.md").read_text()

    for name, row in page.items():
        assert published_files.has_published_file(name) is row["published_model"]
        if row["published_model"]:
            assert f"| {Path(published_files.published_uri(name)).stem} |" in text
    with pytest.raises(InvalidInput, match="published none for 'rpn_r50_caffe_fpn_1x'"):
        published_files.published_uri("rpn_r50_caffe_fpn_1x")


def test_published_file_is_tried_on_each_mirror_under_the_same_path() -> None:
    found = published_files.addresses(published_files.published_uri("faster_rcnn_r50_fpn_1x"))

    file = "mmdetection/models/faster_rcnn_r50_fpn_1x_20181010-3d1b3351.pth"
    assert found == [f"{base}/{file}" for base in published_files.MIRRORS]
    assert all(found == published_files.addresses(address) for address in found)


def test_own_mirror_stands_for_all_and_keeps_the_path_or_only_the_name() -> None:
    weights = read_recipe("rpn_r50_fpn_1x").pretrained

    assert weights is not None
    assert published_files.addresses(weights) == [weights]
    assert published_files.addresses(weights, mirror="s3://weights/zoo/") == [
        "s3://weights/zoo/models/resnet50-0676ba61.pth",
        "s3://weights/zoo/resnet50-0676ba61.pth",
    ]


def test_every_architecture_has_a_smoke_recipe_for_tests_to_reach_it() -> None:
    architectures = {make().model.architecture for make in RECIPES.values()}

    assert trainer_builders.SMALL.keys() >= architectures


def test_smoke_recipes_are_compared_with_nothing() -> None:
    recipe = read_recipe("smoke_faster_rcnn")

    assert recipe.published is None
    assert recipe.reference == {}


def test_unknown_recipe_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        InvalidInput, match=r"got .faster_rcnn_r50_fpn_1., .*Did you mean .faster_rcnn_r50_fpn_1x."
    ):
        read_recipe("faster_rcnn_r50_fpn_1")
