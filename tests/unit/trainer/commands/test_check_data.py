"""All that is wrong with a data set, at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dataset_builders import (
    annotation_record,
    image_record,
    load_coco,
    make_image,
    problems_of,
    write_annotations,
)
from kubedet_trainer.commands.data import check_data


def check(root: Path, *, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> list[str]:
    write_annotations(root / "instances.json", images=images, annotations=annotations)
    return problems_of(root / "instances.json", images=root / "images")


@pytest.mark.parametrize("name", ["bccd", "coco_mini"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_published_data_sets_break_no_rule(shared: Path, name: str, split: str) -> None:
    folder = shared / "data" / name
    assert problems_of(folder / f"instances_{split}.json", images=folder / "images") == []


@pytest.mark.parametrize(
    ("record", "rule", "said"),
    [
        (
            annotation_record(7, image=1, bbox=(60, 5, 20, 10)),
            "box-outside",
            "within the image's 64x48 pixels",
        ),
        (
            annotation_record(7, image=1, bbox=(-2, 5, 20, 10)),
            "box-outside",
            "within the image's 64x48 pixels",
        ),
        (
            annotation_record(7, image=1, bbox=(1e308, 5, 1e308, 1e308)) | {"area": 50.0},
            "zero-area",
            "finite",
        ),
        (annotation_record(7, image=1, bbox=(5, 5, 20, 0)), "zero-area", "width and height > 0"),
        (annotation_record(7, image=1, bbox=(5, 5, -3, 9)), "zero-area", "width and height > 0"),
        (annotation_record(7, image=1, bbox=(5, float("nan"), 3, 9)), "zero-area", "finite"),
        (annotation_record(7, image=1, category_id=3), "unknown-category", "category_id 3"),
        (annotation_record(7, image=4), "unknown-image", "image_id 4"),
        ({"id": 7, "image_id": 1, "category_id": 1}, "malformed-record", "field 'bbox' is absent"),
        (annotation_record(7, image=1) | {"bbox": [1, 2, 3]}, "malformed-record", "annotations[0]"),
        (annotation_record(7, image=1) | {"bbox": [1, 2, 3, "4"]}, "malformed-record", "annotations[0]"),
    ],
)
def test_a_bad_annotation_is_named_by_file_id_and_rule(
    record: dict[str, Any], rule: str, said: str, tmp_path: Path
) -> None:
    make_image(tmp_path / "images", "1.jpg")
    (line,) = check(tmp_path, images=[image_record(1)], annotations=[record])
    assert line.startswith(f"{tmp_path / 'instances.json'}: annotation")
    assert line.endswith(f"[{rule}]")
    assert said in line


def test_a_box_may_stick_out_by_a_pixel(tmp_path: Path) -> None:
    make_image(tmp_path / "images", "1.jpg")
    record = annotation_record(7, image=1, bbox=(-0.9, -1, 65.8, 50))
    assert check(tmp_path, images=[image_record(1)], annotations=[record]) == []


def test_the_two_flat_boxes_of_coco_itself_are_known(tmp_path: Path) -> None:
    make_image(tmp_path / "images", "200365.jpg", width=640, height=480)
    record = annotation_record(918, image=200365, bbox=(296.65, 388.33, 1.03, 0.0))
    images = [image_record(200365, width=640, height=480)]
    assert check(tmp_path, images=images, annotations=[record]) == []
    annotations = load_coco(tmp_path / "instances.json", cache=tmp_path / "cache")
    assert len(annotations.boxes) == 0


def test_duplicate_ids_are_listed(tmp_path: Path) -> None:
    make_image(tmp_path / "images", "1.jpg")
    records = [annotation_record(7, image=1), annotation_record(7, image=1)]
    found = check(tmp_path, images=[image_record(1), image_record(1)], annotations=records)
    file = tmp_path / "instances.json"
    assert set(found) == {
        f"{file}: image 1: the id is used more than once [duplicate-id]",
        f"{file}: annotation 7: the id is used more than once [duplicate-id]",
    }


def test_bad_images_are_named_by_file_id_and_rule(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    whole = make_image(folder, "1.jpg").read_bytes()
    (folder / "2.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "3.jpg").write_text("not a picture")
    make_image(folder, "4.jpg", width=100)
    found = check(tmp_path, images=[image_record(number) for number in range(1, 6)], annotations=[])
    assert [(line.split(": ")[0], line.split(": ")[1], line.rpartition(" [")[2]) for line in found] == [
        (str(folder / "2.jpg"), "image 2", "truncated-image]"),
        (str(folder / "3.jpg"), "image 3", "undecodable-image]"),
        (str(folder / "4.jpg"), "image 4", "image-size]"),
        (str(folder / "5.jpg"), "image 5", "missing-image]"),
    ]


def test_everything_is_listed_at_once(tmp_path: Path) -> None:
    records = [annotation_record(number, image=1, bbox=(60, 5, 20, 10)) for number in range(1, 31)]
    found = check(tmp_path, images=[image_record(1)], annotations=records)
    assert len(found) == 31
    assert found[0] == (
        f"{tmp_path / 'instances.json'}: annotation 1 of image 1: got box [60.0, 5.0, 20.0, 10.0], must lie "
        "within the image's 64x48 pixels [box-outside]"
    )


def invoke(root: Path, *options: str) -> Any:
    """`kubedet check-data` on the same split for training and validation."""
    paths = [f"--{split}-{kind}" for split in ("train", "val") for kind in ("images", "annotations")]
    given = [part for pair in zip(paths, ("images", "instances.json") * 2, strict=True) for part in pair]
    work = ["--work-directory", str(root / "work")]
    return CliRunner().invoke(check_data, ["--dataset", str(root), *given, *work, *options])


def test_it_ends_with_a_summary(tmp_path: Path) -> None:
    for number in (1, 2):
        make_image(tmp_path / "images", f"{number}.jpg", seed=number)
    records = [annotation_record(number, image=1) for number in range(120)]
    records += [annotation_record(200, image=1, iscrowd=1), annotation_record(201, image=1, ignore=1)]
    write_annotations(
        tmp_path / "instances.json", images=[image_record(1), image_record(2)], annotations=records
    )
    result = invoke(tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[:4] == [
        "dataset.train.annotations: instances.json: 2 images, 1 without objects; 122 objects, "
        "at most 122 in an image",
        "  cat: 122 boxes, 14 to 14 pixels (median 14)",
        "  dog: 0 boxes",
        "  1 images have more objects than the 100 detections that evaluation counts (evaluation_detections)",
    ]
    assert lines[8:] == [
        "left out of training: 1 images without objects (kept by data.keep_empty)",
        "left out of training: 1 crowds",
        "left out of training: 1 ignored objects",
        "2 pictures are in more than one split",
        "0 problems",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["data.classes=cow"], "got 'cow' in data.classes, must be one of the categories: cat, dog."),
        (["data.min_image_side=64"], "no training image has a box, must be at least one; left out: 1 images"),
        (["--recipe", "mask_rcnn_r50_fpn_1x"], "annotation 1 of image 1: segmentation: is absent"),
    ],
)
def test_it_says_what_a_job_of_the_recipe_would_say(options: list[str], said: str, tmp_path: Path) -> None:
    make_image(tmp_path / "images", "1.jpg")
    write_annotations(
        tmp_path / "instances.json", images=[image_record(1)], annotations=[annotation_record(1, image=1)]
    )
    assert invoke(tmp_path).exit_code == 0
    result = invoke(tmp_path, *options)
    assert result.exit_code == 65
    assert said in result.stdout


@pytest.mark.parametrize(("split", "called"), [("val", "validation"), ("test", "test")])
def test_a_split_with_nothing_to_compare_with_is_called_by_its_name(
    split: str, called: str, tmp_path: Path
) -> None:
    make_image(tmp_path / "images", "1.jpg")
    annotation = annotation_record(1, image=1)
    write_annotations(tmp_path / "instances.json", images=[image_record(1)], annotations=[annotation])
    write_annotations(
        tmp_path / "ignored.json", images=[image_record(1)], annotations=[annotation | {"ignore": 1}]
    )
    options = [f"--{split}-images", "images", f"--{split}-annotations", "ignored.json"]
    result = invoke(tmp_path, *options)
    assert result.exit_code == 65
    assert f"no {called} image has a box, must be at least one; left out: 1 ignored objects" in result.stdout
