"""PASCAL VOC's annotations, as the COCO files that they become."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dataset_builders import convert_to_voc, load_coco, local_splits, make_image, voc_object, write_voc
from kubedet_trainer.commands.data import check_data
from kubedet_trainer.contract import Environment
from kubedet_trainer.data import arrays, prepare, voc
from kubedet_trainer.data.table import AnnotationTable
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.settings import DatasetSettings, read_dataset_settings

TRAIN, MORE, TEST = (
    f"{name}.txt"
    for name in (
        "VOC2007/ImageSets/Main/trainval",
        "VOC2012/ImageSets/Main/trainval",
        "VOC2007/ImageSets/Main/test",
    )
)
DOG = voc_object("dog", (1, 2, 30, 40))


def read(settings: DatasetSettings, split: str = "train") -> AnnotationTable:
    train, val = local_splits(settings, Path("unused"))
    return (train if split == "train" else val).read("ignore")


def first_problem(settings: DatasetSettings) -> str:
    """What a job would say."""
    try:
        for split in local_splits(settings, Path("unused")):
            arrays.load_annotations(split, cache=split.images / "cache")
    except (InvalidInput, MissingInput) as refused:
        return str(refused)
    pytest.fail("not refused")


def test_photographs_in_voc_form_load_as_their_coco_files_do(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data/bccd"
    settings = convert_to_voc(folder, splits=["train", "val"], root=tmp_path / "voc")
    both = local_splits(settings, tmp_path / "work")
    for split, name in zip(both, ("train", "val"), strict=True):
        found = arrays.load_annotations(split, cache=tmp_path / "cache")
        expected = load_coco(folder / f"instances_{name}.json", cache=tmp_path / "cache")
        arrays.require_images(found, split.images)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        np.testing.assert_array_equal(found.box_offsets, expected.box_offsets)
        np.testing.assert_array_equal(found.sizes, expected.sizes)
        assert found.classes == ("Platelets", "RBC", "WBC")
        names = np.array(["", *found.classes]), np.array(["", *expected.classes])
        np.testing.assert_array_equal(names[0][found.labels], names[1][expected.labels])


def test_years_are_joined_and_corners_counted_from_zero(tmp_path: Path) -> None:
    cat = voc_object("cat", (64, 48, 64, 48), more="<difficult>1</difficult>")
    part = "<part><name>head</name><bndbox><xmin>5</xmin></bndbox></part>"
    car = voc_object("car", (0, 0.5, 64, 48), more=f"<difficult>0</difficult>{part}")
    settings = write_voc(
        tmp_path, sets={TRAIN: {"000005": DOG + cat, "000007": ""}, MORE: {"2008_000002": car}, TEST: {}}
    )
    content = read(settings)
    assert content.classes == voc.CLASSES
    assert content.file_names == [
        "VOC2007/JPEGImages/000005.jpg",
        "VOC2007/JPEGImages/000007.jpg",
        "VOC2012/JPEGImages/2008_000002.jpg",
    ]
    assert content.image_sizes.tolist() == [[48, 64]] * 3
    assert content.image_rows.tolist() == [0, 0, 2]
    assert content.labels.tolist() == [12, 8, 7]
    assert content.boxes.tolist() == [[0, 1, 30, 39], [63, 47, 1, 1], [-1, -0.5, 65, 48.5]]
    assert content.ignored.tolist() == [False, True, False]
    assert read(settings, "val").file_names == []


def test_other_classes_are_those_of_both_splits(tmp_path: Path) -> None:
    zebra = voc_object("zebra", (1, 1, 9, 9))
    settings = write_voc(tmp_path, sets={TRAIN: {"1": DOG}, TEST: {"2": zebra}})
    for split, label in (("train", 1), ("val", 2)):
        content = read(settings, split)
        assert content.classes == ("dog", "zebra")
        assert content.labels.tolist() == [label]


@pytest.mark.parametrize("name", ["001.png", "001.JPG", "001.tiff", "first shot.jpeg", "划痕 1.webp"])
def test_images_have_any_suffix_and_names_have_spaces(name: str, tmp_path: Path) -> None:
    stem = Path(name).stem
    settings = write_voc(tmp_path, sets={TRAIN: {stem: DOG}, TEST: {}})
    (tmp_path / f"VOC2007/Annotations/{stem}.xml").write_text(f"<annotation>{DOG}</annotation>")
    made = make_image(tmp_path / "VOC2007/JPEGImages", f"x{Path(name).suffix.lower()}", width=96, height=80)
    made.rename(made.with_name(name))
    content = read(settings)
    assert content.file_names == [f"VOC2007/JPEGImages/{name}"]
    assert content.image_sizes.tolist() == [[80, 96]]


@pytest.mark.parametrize("encoding", ["gbk", "shift_jis", "big5", "latin-1", "utf-16", "utf-8-sig", "cp1251"])
def test_xml_is_read_in_any_encoding_that_python_knows(encoding: str, tmp_path: Path) -> None:
    name = {"latin-1": "naïve", "cp1251": "трещина"}.get(encoding, "傷")
    settings = write_voc(tmp_path, sets={TRAIN: {"1": DOG}, TEST: {}})
    declared = encoding.removesuffix("-sig")
    size = "<size><width>64</width><height>48</height></size>"
    content = size + DOG.replace("dog", name)
    text = f'<?xml version="1.0" encoding="{declared}"?><annotation>{content}</annotation>'
    (tmp_path / "VOC2007/Annotations/1.xml").write_bytes(text.encode(encoding))
    assert read(settings).classes == (name,)


@pytest.mark.parametrize("encoding", ["klingon", "gbk"])
def test_an_encoding_that_the_file_is_not_in_is_named(encoding: str, tmp_path: Path) -> None:
    settings = write_voc(tmp_path, sets={TRAIN: {"1": DOG}, TEST: {}})
    file = tmp_path / "VOC2007/Annotations/1.xml"
    file.write_bytes(
        f'<?xml version="1.0" encoding="{encoding}"?><annotation>'.encode() + b"\xff\xff</annotation>"
    )
    assert f"1.xml: encoding: got '{encoding}', must be one that Python knows" in first_problem(settings)


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_size_that_is_not_given_is_that_of_the_image(size: str, tmp_path: Path) -> None:
    settings = write_voc(tmp_path, sets={TRAIN: {"1": DOG}, TEST: {}})
    (tmp_path / "VOC2007/Annotations/1.xml").write_text(f"<annotation>{size}{DOG}</annotation>")
    make_image(tmp_path / "VOC2007/JPEGImages", "1.jpg", width=96, height=80)
    assert read(settings).image_sizes.tolist() == [[80, 96]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("<object>", "not XML"),
        ("</annotation><annotation>", "not XML"),
        (DOG.replace("<name>dog</name>", ""), "object[0]: name: absent, must be the class"),
        (DOG + "<object><name>dog</name></object>", "object[1]: bndbox: absent"),
        (DOG.replace("<xmin>1<", "<xmin>one<"), "bndbox.xmin: got 'one', must be a number"),
        (DOG.replace("<ymax>40</ymax>", ""), "bndbox.ymax: absent, must be a number"),
        (DOG.replace(">40<", ">nan<"), "bndbox.ymax: got 'nan', must be a number"),
        (
            voc_object("dog", (9, 1, 7, 5)),
            "object[0]: got bndbox 9,1 to 7,5, must have finite corners and width",
        ),
        (
            voc_object("dog", (1, 1, 66, 9)),
            "got bndbox 1,1 to 66,9, must lie within the image's 64x48 pixels",
        ),
        (voc_object("dog", (-1, 1, 9, 9)), "must lie within the image's 64x48 pixels [box-outside]"),
        (voc_object("dog", (1, 1, 9, 9), more="<difficult>yes</difficult>"), "difficult: got 'yes'"),
    ],
)
def test_a_broken_rule_is_named_with_file_field_and_value(content: str, said: str, tmp_path: Path) -> None:
    settings = write_voc(tmp_path, sets={TRAIN: {"000005": content}, TEST: {}})
    message = first_problem(settings)
    assert f"{tmp_path}/VOC2007/Annotations/000005.xml: " in message
    assert said in message


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("trainval.txt", "must be image sets as VOC2007/ImageSets/Main/trainval.txt"),
        ("VOC2007/ImageSets/Main/val.txt", "val.txt: absent"),
        (f"{TRAIN},VOC2007/ImageSets/Main/dog_train.txt", "dog_train.txt: line 1: got '000005 -1'"),
    ],
)
def test_a_list_that_is_none_is_refused(train: str, said: str, tmp_path: Path) -> None:
    write_voc(tmp_path, sets={TRAIN: {"000005": DOG}, TEST: {}})
    (tmp_path / "VOC2007/ImageSets/Main/dog_train.txt").write_text("000005 -1\n")
    settings = DatasetSettings(
        uri=tmp_path.as_uri(), format="VOC", train_annotations=train, val_annotations=TEST
    )
    assert said in first_problem(settings)


def test_check_data_lists_what_is_wrong_with_annotations_and_images(tmp_path: Path) -> None:
    flat = voc_object("dog", (9, 1, 7, 5))
    write_voc(tmp_path, sets={TRAIN: {"1": DOG + flat, "2": DOG}, TEST: {"3": DOG, "4": flat}})
    (tmp_path / "VOC2007/Annotations/3.xml").unlink()
    make_image(tmp_path / "VOC2007/JPEGImages", "1.jpg", width=32)
    make_image(tmp_path / "VOC2007/JPEGImages", "4.jpg")
    options = ["--dataset", str(tmp_path), "--format", "VOC", "--train-annotations", TRAIN]
    result = CliRunner().invoke(check_data, [*options, "--work-directory", str(tmp_path / "work")])
    assert result.exit_code == 65
    found = [line.split("VOC2007/")[1] for line in result.stdout.splitlines() if "VOC2007/" in line]
    box = "got bndbox 9,1 to 7,5, must have finite corners and width and height > 0 [zero-area]"
    assert found == [
        f"Annotations/1.xml: object[1]: {box}",
        "JPEGImages/1.jpg: size: is 32x48, must be 64x48 as its record says [image-size]",
        "JPEGImages/2.jpg: size: no such image, must be a file [missing-image]",
        "Annotations/3.xml: absent, must be there: its image is listed [missing-annotation]",
        f"Annotations/4.xml: object[0]: {box}",
    ]


def test_files_are_read_once_and_again_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = write_voc(tmp_path / "voc", sets={TRAIN: {"1": DOG}, TEST: {}})
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "voc").rglob("*")}

    def labels() -> list[int]:
        split = prepare.prepare_dataset(settings, tmp_path / "work").train
        found: list[int] = arrays.load_annotations(split, cache=tmp_path / "cache").labels.tolist()
        return found

    assert labels() == [12]
    with monkeypatch.context() as patch:
        patch.setattr(arrays, "read_split", lambda *_: pytest.fail("read twice"))
        assert labels() == [12]
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "voc").rglob("*")} == before
    file = tmp_path / "voc/VOC2007/Annotations/1.xml"
    file.write_text(file.read_text().replace("dog", "cat"))
    os.utime(file, ns=(0, 0))
    assert labels() == [8]


def test_shapes_are_not_voc() -> None:
    settings = DatasetSettings(
        uri="synthetic://shapes", format="VOC", train_annotations=TRAIN, val_annotations=TEST
    )
    with pytest.raises(InvalidInput, match=r"must be COCO for synthetic://shapes"):
        prepare.prepare_dataset(settings, Path("unused"))


def test_the_lists_of_the_zoo_are_the_defaults() -> None:
    variables: dict[str, str] = {
        Environment.DATASET_URI: "s3://bucket/voc",
        Environment.DATASET_FORMAT: "VOC",
    }
    settings = read_dataset_settings(variables)
    assert (settings.format, settings.train_annotations, settings.val_annotations) == (
        "VOC",
        f"{TRAIN},{MORE}",
        TEST,
    )


@pytest.mark.parametrize("root", ["annotations", 'annotation xmlns="http://host/voc"'])
def test_a_document_of_another_form_is_refused_instead_of_having_no_objects(
    root: str, tmp_path: Path
) -> None:
    settings = write_voc(tmp_path, sets={TRAIN: {"1": DOG}, TEST: {}})
    (tmp_path / "VOC2007/Annotations/1.xml").write_text(f"<{root}>{DOG}</{root.split()[0]}>")
    message = first_problem(settings)
    assert "1.xml: root element: got '" in message
    assert "must be 'annotation' without a namespace" in message


def test_a_listed_name_has_any_characters(tmp_path: Path) -> None:
    name = "-a\x85 b\u2028"
    assert read(write_voc(tmp_path, sets={TRAIN: {name: DOG}, TEST: {}})).file_names == [
        f"VOC2007/JPEGImages/{name}.jpg"
    ]


def test_a_list_of_powershell_is_read(tmp_path: Path) -> None:
    settings = write_voc(tmp_path, sets={TRAIN: {"é": DOG}, TEST: {}})
    (tmp_path / TRAIN).write_bytes("\ufeffé\r\n".encode("utf-16-le"))
    assert read(settings).file_names == ["VOC2007/JPEGImages/é.jpg"]
