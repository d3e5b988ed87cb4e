"""Making a data set local without an object store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataset_builders import load_coco, problems_of
from kubedet_trainer.data import prepare, synthetic
from kubedet_trainer.data.synthetic import ShapesDataset
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.settings import DatasetSettings

SHAPES = DatasetSettings(uri="synthetic://shapes?images=6&val_images=2&size=96x64&seed=3")


def prepared_root(settings: DatasetSettings, directory: Path) -> Path:
    """The folder of a data set whose paths are the default ones."""
    return prepare.prepare_dataset(settings, directory).train.images.parent


def content(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_shapes_are_a_valid_coco_data_set_at_the_default_paths(tmp_path: Path) -> None:
    root = prepared_root(SHAPES, tmp_path)
    for images, file, count in (
        (SHAPES.train_images, SHAPES.train_annotations, 6),
        (SHAPES.val_images, SHAPES.val_annotations, 2),
    ):
        assert problems_of(root / file, images=root / images) == []
        annotations = load_coco(root / file, cache=tmp_path / "cache")
        assert len(annotations) == count
        assert annotations.classes == ("circle", "square", "triangle")
        assert (annotations.ground_truth_counts() > 0).all()


def test_the_same_arguments_give_the_same_shapes(tmp_path: Path) -> None:
    first = content(prepared_root(SHAPES, tmp_path / "a"))
    assert first == content(prepared_root(SHAPES, tmp_path / "b"))
    other = DatasetSettings(uri=SHAPES.uri.replace("seed=3", "seed=4"))
    assert first != content(prepared_root(other, tmp_path / "a"))


def test_a_larger_set_begins_with_the_images_of_a_smaller_one(tmp_path: Path) -> None:
    small = prepared_root(SHAPES, tmp_path)
    large = prepared_root(DatasetSettings(uri=SHAPES.uri.replace("images=6", "images=7")), tmp_path)
    images = {name: data for name, data in content(small).items() if name.startswith("train2017")}
    assert images.items() <= content(large).items()
    records = [
        json.loads((root / SHAPES.train_annotations).read_text())["annotations"] for root in (small, large)
    ]
    assert records[1][: len(records[0])] == records[0]


def test_preparing_again_changes_nothing(tmp_path: Path) -> None:
    root = prepared_root(SHAPES, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    assert prepared_root(SHAPES, tmp_path) == root
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == before


def test_a_generation_that_is_interrupted_leaves_nothing_and_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = content(prepared_root(SHAPES, tmp_path / "whole"))
    write_shapes = synthetic.write_shapes

    def break_off(dataset: ShapesDataset, *, folder: Path) -> None:
        write_shapes(dataset, folder=folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "write_shapes", break_off)
    with pytest.raises(KeyboardInterrupt):
        prepared_root(SHAPES, tmp_path / "broken")
    assert [path.name for path in (tmp_path / "broken").iterdir() if path.is_dir()] == []
    monkeypatch.undo()
    assert content(prepared_root(SHAPES, tmp_path / "broken")) == whole


def test_a_mounted_folder_is_used_as_it_is(tmp_path: Path) -> None:
    settings = DatasetSettings(uri=f"file://{tmp_path}")
    assert prepared_root(settings, tmp_path / "work") == tmp_path
    assert not (tmp_path / "work").exists()
    with pytest.raises(MissingInput, match=r"nowhere is not a folder"):
        prepared_root(DatasetSettings(uri=f"file://{tmp_path}/nowhere"), tmp_path)


def test_defaults_of_shapes() -> None:
    assert prepare.parse_shapes("synthetic://shapes") == ShapesDataset(
        images=240, val_images=60, size=(320, 240), seed=0
    )


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("synthetic://shapes?image=5", "has no 'image'. Did you mean 'images'?"),
        ("synthetic://shapes?images=0", "images: got '0', must be a whole number >= 1"),
        ("synthetic://shapes?images=many", "images: got 'many'"),
        ("synthetic://shapes?size=320", "size: got '320', must be WIDTHxHEIGHT, both >= 64"),
        ("synthetic://cubes", "must be synthetic://shapes"),
        ("pvc://claim/x", "must be s3://bucket/prefix, file:///path or synthetic://shapes"),
    ],
)
def test_an_unknown_data_set_is_refused_with_the_remedy(uri: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        prepared_root(DatasetSettings(uri=uri), tmp_path)
    assert said in str(refused.value)


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"dataset\.format: got 'KITTI', must be one of COCO, VOC, YOLO"):
        prepared_root(DatasetSettings(uri="synthetic://shapes", format="KITTI"), tmp_path)
