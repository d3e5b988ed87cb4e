"""Proposal files: our own, the pickles of 2019, and what must not get in by them."""

from __future__ import annotations

import io
import os
import pickle
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_builders import image_record, load_coco, write_annotations
from kubedet_trainer.data import proposals
from kubedet_trainer.data.arrays import Annotations
from kubedet_trainer.data.proposals import ProposalRecord, ProposalTable
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.settings import DatasetSettings

FIRST = np.array([[1, 2, 30, 40, 0.9], [3, 4, 10, 12, 0.5], [0, 0, 5, 5, 0.1]], np.float32)
THIRD = np.array([[7, 8, 20, 21, 0.25]], np.float32)


@pytest.fixture(name="annotations")
def _annotations(tmp_path: Path) -> Annotations:
    """Three images, 30, 10 and 20 in the file's order."""
    images = [image_record(number) for number in (30, 10, 20)]
    file = write_annotations(tmp_path / "instances.json", images=images, annotations=[])
    return load_coco(file, cache=tmp_path / "cache")


def write_npz(file: Path, arrays: dict[int, np.ndarray]) -> Path:
    record = ProposalRecord(
        image_ids=np.array(list(arrays), np.int64),
        offsets=np.cumsum([0, *map(len, arrays.values())]),
        boxes=np.concatenate([array[:, :4] for array in arrays.values()]),
        scores=np.concatenate([array[:, 4] for array in arrays.values()]),
    )
    with file.open("wb") as target:
        proposals.write_proposals(target, record)
    return file


def load(file: Path, annotations: Annotations, *, slots: int = 1000) -> ProposalTable:
    cache = file.parent / "cache"
    return proposals.load_proposals(file, annotations=annotations, slots=slots, cache=cache)


def assert_holds(table: ProposalTable, *expected: np.ndarray) -> None:
    for row, array in enumerate(expected):
        boxes, scores = table.of_image(row)
        np.testing.assert_array_equal(boxes, array[:, :4])
        np.testing.assert_array_equal(scores, array[:, 4])
        assert boxes.dtype == scores.dtype == np.float32


def test_best_rows_come_in_the_order_of_the_annotations(tmp_path: Path, annotations: Annotations) -> None:
    file = write_npz(tmp_path / "train.npz", {20: THIRD, 10: np.empty((0, 5), np.float32), 30: FIRST})
    table = load(file, annotations, slots=2)
    assert_holds(table, FIRST[:2], FIRST[:0], THIRD)
    assert table.counts().tolist() == [2, 0, 1]
    assert_holds(load(file, annotations), FIRST, FIRST[:0], THIRD)


def test_a_spawned_worker_maps_the_same_file(tmp_path: Path, annotations: Annotations) -> None:
    file = write_npz(tmp_path / "train.npz", {30: FIRST, 10: FIRST, 20: FIRST})
    sent = pickle.dumps(load(file, annotations))
    assert len(sent) < 1000
    assert isinstance(pickle.loads(sent).boxes, np.memmap)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"offsets": np.array([0, 3, 3])}, "offsets: must rise"),
        ({"boxes": np.full((4, 4), np.nan, np.float32)}, "boxes: must be four finite corners"),
        (
            {"boxes": np.full((4, 4), 9, np.float32) - FIRST[0, :4]},
            r"boxes\[0\]: got .* x2 >= x1 and y2 >= y1",
        ),
        ({"scores": np.full(4, np.nan, np.float32)}, r"scores\[0\]: got nan, must be a finite number"),
        ({"scores": np.array([object()] * 4)}, "is not a file of proposals"),
        ({"image_ids": np.array([30, 10, 21])}, "has no entry for image 20 and 0 more"),
    ],
)
def test_a_malformed_file_is_refused(
    tmp_path: Path, annotations: Annotations, change: dict[str, Any], complaint: str
) -> None:
    file = write_npz(tmp_path / "train.npz", {30: FIRST, 10: FIRST[:0], 20: THIRD})
    with np.load(file) as content:
        arrays = dict(content)
    np.savez(file, **{**arrays, **change})
    with pytest.raises(InvalidInput, match=f"train.npz: .*{complaint}"):
        load(file, annotations)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_pickles_of_2019_are_read(
    tmp_path: Path, annotations: Annotations, protocol: int, module: bytes
) -> None:
    arrays = [np.asfortranarray(FIRST).astype(np.float64), FIRST[:0], THIRD[:, :4].astype(">f4")]
    content = pickle.dumps(arrays, protocol=protocol)
    present = b"numpy._core.multiarray" if b"numpy._core" in content else b"numpy.core.multiarray"
    if protocol == 4:  # names are preceded by their length, and all lies in a frame of known length
        content = content.replace(bytes([len(present)]) + present, bytes([len(module)]) + module)
        length = int.from_bytes(content[3:11], "little") + len(module) - len(present)
        content = content[:3] + length.to_bytes(8, "little") + content[11:]
    (tmp_path / "train.pkl").write_bytes(content.replace(present, module))
    third = np.concatenate([THIRD[:, :4], [[1]]], axis=1)
    assert_holds(load(tmp_path / "train.pkl", annotations), FIRST, FIRST[:0], third)


def test_a_pickle_of_python_2_is_read(tmp_path: Path, annotations: Annotations) -> None:
    text = io.BytesIO()
    text.write(b"(l")
    for array in (FIRST, FIRST, THIRD):
        data = "".join(f"\\x{byte:02x}" for byte in array.tobytes()).encode()
        text.write(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR")
        text.write(b"(I1\n(I%d\nI5\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR" % len(array))
        text.write(b"(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'" + data + b"'\ntba")
    (tmp_path / "val.pkl").write_bytes(text.getvalue() + b".")
    assert_holds(load(tmp_path / "val.pkl", annotations), FIRST, FIRST, THIRD)


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_that_runs_code_is_refused_by_name(tmp_path: Path, annotations: Annotations) -> None:
    marker, file = tmp_path / "owned", tmp_path / "train.pkl"
    file.write_bytes(pickle.dumps([FIRST, Command(marker), THIRD], protocol=2))
    with pytest.raises(
        InvalidInput, match=r"train\.pkl: refused, it names posix\.system, must be only float"
    ):
        load(file, annotations)
    assert not marker.exists()
    pickle.loads(file.read_bytes())
    assert marker.exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (pickle.dumps([np.array([{}], object)] * 3, protocol=2), "numbers of type 'O8'"),
        (pickle.dumps([FIRST] * 2, protocol=2), "got 2 arrays, must be 3: one for each image"),
        (pickle.dumps([FIRST, 5, THIRD], protocol=2), r"\[1\]: got int, must be a float array"),
        (pickle.dumps(FIRST, protocol=2), "got array, must be a list"),
        (pickle.dumps([FIRST] * 3, protocol=2)[:-200], "is not a pickle of float arrays"),
        (pickle.dumps([FIRST[:, :3]] * 3, protocol=2), r"\[0\]: got shape \(3, 3\)"),
    ],
)
def test_a_pickle_of_anything_else_is_refused(
    tmp_path: Path, annotations: Annotations, content: bytes, complaint: str
) -> None:
    (tmp_path / "train.pkl").write_bytes(content)
    with pytest.raises(InvalidInput, match=complaint):
        load(tmp_path / "train.pkl", annotations)


HOSTILE_PICKLES = {
    "memo": b"\x80\x02]r\xff\xff\xff\x7f.",
    "memo of protocol 0": b"(lp9999999999\n.",
    "frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x0f].",
    "bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.",
    "nothing": b"",
    "lists in lists": b"(" * 100_000 + b"l" * 100_000 + b".",
    "a number without end": b"I" + b"9" * 100_000 + b"\n.",
}


@pytest.mark.parametrize("kind", HOSTILE_PICKLES)
def test_a_hostile_pickle_is_refused_before_it_takes_memory(
    kind: str, tmp_path: Path, annotations: Annotations
) -> None:
    file = tmp_path / "train.pkl"
    file.write_bytes(HOSTILE_PICKLES[kind])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidInput, match=r"train\.pkl: ") as refused:
        load(file, annotations)
    assert "\n" not in str(refused.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"


def test_an_array_that_is_named_a_million_times_is_refused(tmp_path: Path, annotations: Annotations) -> None:
    file = tmp_path / "train.pkl"
    file.write_bytes(pickle.dumps([np.zeros((10_000, 5), np.float32)] * 100_000, protocol=2))
    with pytest.raises(InvalidInput, match="it repeats its arrays"):
        load(file, annotations)


def test_a_compressed_archive_is_refused(tmp_path: Path, annotations: Annotations) -> None:
    np.savez_compressed(tmp_path / "train.npz", boxes=np.zeros((10**6, 4), np.float32))
    with pytest.raises(InvalidInput, match="it is compressed"):
        load(tmp_path / "train.npz", annotations)


@pytest.mark.parametrize("name", ["train.npz", "train.pkl"])
def test_only_regular_files_are_read(name: str, tmp_path: Path, annotations: Annotations) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InvalidInput, match="not a regular file"):
        load(tmp_path / name, annotations)


def test_missing_proposals_name_the_remedy(tmp_path: Path) -> None:
    settings = DatasetSettings(uri="file:///data")
    with pytest.raises(InvalidInput, match=r"dataset\.proposals: absent.*`kubedet propose`, or fromJob"):
        proposals.prepare_proposals(settings, tmp_path, split="train")
    settings = DatasetSettings(uri="file:///data", proposals_uri=tmp_path.as_uri())
    with pytest.raises(MissingInput, match=r"neither val\.npz nor val\.pkl"):
        proposals.prepare_proposals(settings, tmp_path, split="val")
    (tmp_path / "val.pkl").touch()
    assert proposals.prepare_proposals(settings, tmp_path, split="val") == tmp_path / "val.pkl"
