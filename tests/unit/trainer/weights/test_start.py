"""A training starts from a detector of other classes: rows follow the names of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.models.class_rows import class_rows
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.recipes.faster_rcnn import FasterRcnnOptions
from kubedet_trainer.weights.load import Weights, read_weights
from kubedet_trainer.weights.start import Origins, start_from
from trainer_builders import SMALL, make_detector

THEIRS = ("car", "dog", "tree")
DEPENDENT: dict[str, set[str]] = {
    "faster_rcnn": {"bbox_head.fc_cls", "bbox_head.fc_reg"},
    "fast_rcnn": {"bbox_head.fc_cls", "bbox_head.fc_reg"},
    "mask_rcnn": {"bbox_head.fc_cls", "bbox_head.fc_reg", "mask_head.conv_logits"},
    "fast_mask_rcnn": {"bbox_head.fc_cls", "bbox_head.fc_reg", "mask_head.conv_logits"},
    "cascade_rcnn": {f"bbox_head.{stage}.fc_cls" for stage in range(3)},
    "cascade_mask_rcnn": {f"bbox_head.{stage}.fc_cls" for stage in range(3)}
    | {f"mask_head.{stage}.conv_logits" for stage in range(3)},
    "retinanet": {"bbox_head.retina_cls"},
    "ssd": {f"bbox_head.cls_convs.{level}" for level in range(6)},
}
"""Architecture to the layers that have rows for each class."""


def _weights(architecture: str, *, classes: Sequence[str] | None = THEIRS, number: int = 3) -> Weights:
    """A detector of `number` classes in which no tensor is what a fresh one has."""
    state = make_detector(architecture, num_classes=number + 1, seed=1).state_dict()
    tensors = {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}
    return Weights(tensors=tensors, meta={}, classes=None if classes is None else tuple(classes))


def _start(
    architecture: str, classes: Sequence[str], weights: Weights
) -> tuple[Origins, dict[str, Tensor], dict[str, Tensor]]:
    """What came from where, and the tensors of the model before and after."""
    model = make_detector(architecture, num_classes=len(classes) + 1)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    origins = start_from(model, weights=weights, file="w.pth", classes=classes)
    return origins, fresh, model.state_dict()


def _rows(name: str, value: Tensor, *, label: int, architecture: str, num_labels: int) -> Tensor:
    """The rows of `label` (0 is the background) in a tensor of a head, counted out by hand."""
    if architecture in ("retinanet", "fcos"):  # anchor by anchor, without a background
        return value.view(-1, num_labels, *value.shape[1:])[:, label - 1]
    if architecture == "ssd":
        return value.view(-1, num_labels + 1, *value.shape[1:])[:, label]
    if "fc_reg" in name:
        return value[4 * label : 4 * label + 4]
    return value[label]


@pytest.mark.parametrize("architecture", sorted(SMALL))
def test_each_detector_names_exactly_the_tensors_whose_shape_depends_on_the_classes(
    architecture: str,
) -> None:
    few = make_detector(architecture, num_classes=3).state_dict()
    many = make_detector(architecture, num_classes=8).state_dict()
    by_shape = {name for name, value in few.items() if value.shape != many[name].shape}
    assert set(class_rows(make_detector(architecture))) == by_shape


@pytest.mark.parametrize("architecture", sorted(DEPENDENT))
def test_the_last_layers_of_the_heads_depend_on_the_classes(architecture: str) -> None:
    layers = DEPENDENT[architecture]
    assert set(class_rows(make_detector(architecture))) == {
        f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")
    }


def test_a_proposal_network_knows_no_classes() -> None:
    assert class_rows(make_detector("rpn")) == {}


@pytest.mark.parametrize("architecture", sorted(SMALL))
def test_the_same_classes_in_the_same_order_are_loaded_bit_by_bit(architecture: str) -> None:
    weights = _weights(architecture)
    origins, _, after = _start(architecture, THEIRS, weights)
    assert all(torch.equal(after[name], value) for name, value in weights.tensors.items())
    assert set(origins.loaded) == set(weights.tensors)
    assert (origins.rows_by_name, origins.initialised, origins.unused) == ((), (), ())


@pytest.mark.parametrize("architecture", sorted(DEPENDENT))
@pytest.mark.parametrize(
    ("classes", "kept"),
    [
        (("tree", "car", "dog"), {"tree": 3, "car": 1, "dog": 2}),  # reordered
        (("boat", "dog", "train"), {"dog": 2}),  # as many, of other names
        (("sign", "tree", "boat", "train", "car"), {"tree": 3, "car": 1}),  # more
        (("dog",), {"dog": 2}),  # fewer
    ],
)
def test_rows_follow_the_names_of_their_classes(
    architecture: str, classes: tuple[str, ...], kept: dict[str, int]
) -> None:
    weights = _weights(architecture)
    origins, fresh, after = _start(architecture, classes, weights)
    dependent = class_rows(make_detector(architecture))
    for name in dependent:
        for label, own in enumerate(classes, start=1):
            found = _rows(name, after[name], label=label, architecture=architecture, num_labels=len(classes))
            if own in kept:
                wanted = _rows(
                    name,
                    weights.tensors[name],
                    label=kept[own],
                    architecture=architecture,
                    num_labels=len(THEIRS),
                )
            else:
                wanted = _rows(
                    name, fresh[name], label=label, architecture=architecture, num_labels=len(classes)
                )
            assert torch.equal(found, wanted), (name, own)
    others = weights.tensors.keys() - dependent.keys()
    assert all(torch.equal(after[name], weights.tensors[name]) for name in others)
    assert set(origins.loaded) == others
    assert set(origins.rows_by_name) == set(dependent)
    assert [name for name in origins.kept_classes if name != "background"] == [
        name for name in classes if name in kept
    ]


@pytest.mark.parametrize("architecture", ["faster_rcnn", "ssd", "mask_rcnn"])
def test_the_background_is_a_class_that_both_know(architecture: str) -> None:
    weights = _weights(architecture)
    origins, _, after = _start(architecture, ["boat", "train"], weights)
    assert origins.kept_classes == ("background",)
    for name in class_rows(make_detector(architecture)):
        found = _rows(name, after[name], label=0, architecture=architecture, num_labels=2)
        wanted = _rows(name, weights.tensors[name], label=0, architecture=architecture, num_labels=3)
        assert torch.equal(found, wanted), name


def test_focal_scores_of_new_classes_begin_at_their_prior() -> None:
    origins, fresh, after = _start("retinanet", ["boat", "train"], _weights("retinanet"))
    assert origins.initialised == ("bbox_head.retina_cls.weight", "bbox_head.retina_cls.bias")
    assert torch.equal(after["bbox_head.retina_cls.bias"], fresh["bbox_head.retina_cls.bias"])
    assert after["bbox_head.retina_cls.bias"].sigmoid().tolist() == pytest.approx([0.01] * 18)


def test_names_of_2019_and_of_later_years_are_the_same_class() -> None:
    weights = _weights("faster_rcnn", classes=("traffic_light", "Dog", "tree"))
    origins, _, after = _start("faster_rcnn", ["dog", "traffic light"], weights)
    assert origins.kept_classes == ("background", "dog", "traffic light")
    assert torch.equal(after["bbox_head.fc_cls.bias"], weights.tensors["bbox_head.fc_cls.bias"][[0, 2, 1]])


def test_names_that_differ_only_in_case_stay_apart() -> None:
    weights = _weights("faster_rcnn", classes=("RBC", "rbc", "tree"))
    _, _, after = _start("faster_rcnn", ["rbc", "RBC"], weights)
    assert torch.equal(after["bbox_head.fc_cls.bias"], weights.tensors["bbox_head.fc_cls.bias"][[0, 2, 1]])


@pytest.mark.parametrize("named", [None, ("a", "b")])
def test_as_many_classes_without_usable_names_are_taken_in_their_order(
    named: tuple[str, ...] | None, caplog: pytest.LogCaptureFixture
) -> None:
    weights = _weights("faster_rcnn", classes=named)
    origins, _, after = _start("faster_rcnn", ["x", "y", "z"], weights)
    assert all(torch.equal(after[name], value) for name, value in weights.tensors.items())
    assert origins.rows_by_name == ()
    assert "w.pth does not name its classes (3): they are taken for those of the data set" in caplog.text
    assert ("w.pth names its classes (2), but has rows for 3" in caplog.text) == (named is not None)


def test_another_number_of_classes_without_names_keeps_none_of_them(caplog: pytest.LogCaptureFixture) -> None:
    origins, fresh, after = _start("faster_rcnn", ["car", "dog"], _weights("faster_rcnn", classes=None))
    assert origins.kept_classes == ("background",)
    assert torch.equal(after["bbox_head.fc_cls.weight"][1:], fresh["bbox_head.fc_cls.weight"][1:])
    assert "w.pth does not name its classes (3): none of them is kept" in caplog.text


@pytest.mark.parametrize(
    ("theirs", "ours", "difference"),
    [
        ("faster_rcnn", "retinanet", "unexpected (rpn_head.rpn_conv.weight"),
        ("faster_rcnn", "mask_rcnn", "8 missing (mask_head.convs.0.conv.weight"),
        ("retinanet", "ssd", "missing"),
    ],
)
def test_another_detector_is_refused_with_what_differs(theirs: str, ours: str, difference: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        _start(ours, ["boat", "train"], _weights(theirs))
    assert str(caught.value).startswith("pretrained: w.pth does not fit the model: ")
    assert difference in str(caught.value)
    assert str(caught.value).endswith("only the classes may be others")


@pytest.mark.parametrize(
    ("name", "rows"),
    [("bbox_head.fc_reg.weight", 4), ("bbox_head.fc_cls.bias", 9), ("neck.fpn_convs.0.conv.bias", 3)],
)
def test_rows_that_fit_no_number_of_classes_are_refused_and_nothing_is_loaded(name: str, rows: int) -> None:
    weights = _weights("faster_rcnn")
    value = weights.tensors[name]
    weights.tensors[name] = value.new_zeros(rows, *value.shape[1:])
    model = make_detector("faster_rcnn", num_classes=3)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(InvalidInput, match=rf"{name} is \({rows},"):
        start_from(model, weights=weights, file="w.pth", classes=["boat", "train"])
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("shared", ["theirs", "ours"])
def test_deltas_that_all_classes_share_in_one_detector_only_start_afresh(shared: str) -> None:
    def make(*, class_agnostic: bool, num_classes: int) -> Detector:
        options = SMALL["faster_rcnn"].model
        assert isinstance(options, FasterRcnnOptions)
        head = replace(options.box_head, class_agnostic=class_agnostic)
        return replace(options, box_head=head).build(Task(num_classes=num_classes + 1))

    theirs = make(class_agnostic=shared == "theirs", num_classes=3)
    ours = make(class_agnostic=shared == "ours", num_classes=2)
    fresh = {name: value.clone() for name, value in ours.state_dict().items()}
    tensors = {name: value + 1 for name, value in theirs.state_dict().items()}
    weights = Weights(tensors=tensors, meta={}, classes=THEIRS)
    origins = start_from(ours, weights=weights, file="w.pth", classes=["dog", "boat"])
    state = ours.state_dict()
    assert origins.initialised == ("bbox_head.fc_reg.bias", "bbox_head.fc_reg.weight")
    for name in origins.initialised:
        assert torch.equal(state[name], fresh[name])
    assert torch.equal(state["bbox_head.fc_cls.bias"][:2], tensors["bbox_head.fc_cls.bias"][[0, 2]])
    assert torch.equal(state["rpn_head.rpn_cls.bias"], tensors["rpn_head.rpn_cls.bias"])


@pytest.mark.parametrize("rows", [0, 1])
def test_a_detector_of_no_classes_is_refused(rows: int) -> None:
    weights = _weights("faster_rcnn")
    for name in class_rows(make_detector("faster_rcnn")):
        value = weights.tensors[name]
        weights.tensors[name] = value.new_zeros(rows * (4 if "fc_reg" in name else 1), *value.shape[1:])
    with pytest.raises(InvalidInput, match="4 misshapen"):
        _start("faster_rcnn", ["boat", "train"], weights)


def test_the_record_counts_and_names_what_came_from_where() -> None:
    origins, _, _ = _start("faster_rcnn", ["dog", "boat"], _weights("faster_rcnn"))
    record = origins.record()
    assert record["file"] == "w.pth"
    assert record["rowsByName"]["count"] == 4
    assert record["rowsByName"]["names"][0] == "bbox_head.fc_cls.weight"
    assert record["keptClasses"] == {"count": 2, "names": ["background", "dog"]}
    assert record["loaded"]["count"] == len(origins.loaded) > 40
    assert record["initialised"] == record["unused"] == {"count": 0, "names": []}
    assert "kept the rows of 2 classes (background, dog) in 4 tensors" in origins.describe()


def test_one_class_is_told_in_the_singular() -> None:
    origins, _, _ = _start("faster_rcnn", ["boat"], _weights("faster_rcnn"))
    assert "kept the rows of 1 class (background) in" in origins.describe()


class _Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)


def test_a_classifier_of_caffe_fills_the_backbone_and_what_else_it_has_is_unused() -> None:
    theirs, ours = _Plain(), _Plain()
    state = {"layer1.conv1.bias": torch.zeros(4), "fc.weight": torch.zeros(9, 4), "fc.bias": torch.zeros(9)}
    state |= theirs.backbone.state_dict()
    state.pop("1.num_batches_tracked")  # files of before 2018 have none
    head = ours.head.weight.clone()
    origins = start_from(
        ours, weights=Weights(tensors=state, meta={}, classes=None), file="w.pth", classes=["cell"]
    )
    assert torch.equal(ours.backbone.get_parameter("0.weight"), theirs.backbone.get_parameter("0.weight"))
    assert torch.equal(ours.head.weight, head)
    assert origins.unused == ("layer1.conv1.bias", "fc.weight", "fc.bias")
    assert origins.initialised == ("head.weight", "head.bias")


def test_a_backbone_leaves_what_no_classifier_has_fresh_and_says_so() -> None:
    ours = _Plain()
    ours.backbone.add_module("conv2_offset", nn.Conv2d(4, 18, 3))
    weights = Weights(tensors=_Plain().backbone.state_dict(), meta={}, classes=None)
    origins = start_from(ours, weights=weights, file="w.pth", classes=["cell"])
    assert {"backbone.conv2_offset.weight", "backbone.conv2_offset.bias"} < set(origins.initialised)
    assert "freshly initialised 4 (backbone.conv2_offset.weight" in origins.describe()


@pytest.mark.parametrize(
    ("name", "meta", "classes"),
    [
        ("faster_rcnn_r50_fpn_1x_20181010-3d1b3351.pth", {}, ("person", "toothbrush", 80)),
        ("faster_rcnn_r50_fpn_1x_20181010-3d1b3351.pth", {"CLASSES": ("a",)}, ("person", "toothbrush", 80)),
        ("ssd300_voc_vgg16_caffe_240e_20181221-2f05dd40.pth", {}, ("aeroplane", "tvmonitor", 20)),
        ("own.pth", {"CLASSES": ["cell", "nucleus"]}, ("cell", "nucleus", 2)),
        ("own.pth", {"CLASSES": "cell"}, ("cell", "cell", 1)),
    ],
)
def test_a_file_names_its_classes_or_is_known_to_have_those_of_the_zoo(
    tmp_path: Path, name: str, meta: dict[str, object], classes: tuple[str, str, int]
) -> None:
    torch.save({"meta": meta, "state_dict": {"head.bias": torch.zeros(1)}}, tmp_path / name)
    found = read_weights(tmp_path / name).classes
    assert found is not None
    assert (found[0], found[-1], len(found)) == classes


@pytest.mark.parametrize("meta", [{}, {"CLASSES": None}, {"CLASSES": [1, 2]}])
def test_a_file_that_does_not_name_its_classes_has_none(tmp_path: Path, meta: dict[str, object]) -> None:
    torch.save({"meta": meta, "state_dict": {"head.bias": torch.zeros(1)}}, tmp_path / "own.pth")
    assert read_weights(tmp_path / "own.pth").classes is None
