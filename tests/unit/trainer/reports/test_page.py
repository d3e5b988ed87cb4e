"""The page of a run, and the page that compares runs, in a real browser."""

from __future__ import annotations

import csv
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from tensorboardX.proto import event_pb2

import report_builders
from browser import HOSTILE, assert_quiet, open_page
from kubedet_trainer.commands.report import report as command
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.reports import comparing, document, files, page, published, views
from kubedet_trainer.storage.uris import open_store

WIDTHS = (400, 768, 1200, 1600)


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (30, 80, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(noise, (966, 360)))[1].tobytes()


def render(report: document.Report, jpeg: bytes) -> bytes:
    names = [f"{kind}-{number}" for kind in ("best", "worst") for number in range(1, 7)]
    return page.render_run(report_builders.as_document(report), pictures=dict.fromkeys(names, jpeg))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_of_a_run_fits_every_screen_and_loads_nothing(
    width: int, jpeg: bytes, tmp_path: Path
) -> None:
    content = render(report_builders.make_report(), jpeg)
    script = "[...document.querySelectorAll('section')].map(section => section.id)"
    seen = open_page(content, tmp_path, width=width, script=script, name="run")
    assert_quiet(seen)
    assert seen.answer == ["row", "curves", "classes", "errors", "pictures", "time", "run"]
    assert len(content) < 2_000_000


@pytest.mark.parametrize("width", [400, 1200])
def test_a_page_of_many_classes_fits_too(width: int, jpeg: bytes, tmp_path: Path) -> None:
    classes = tuple(f"class number {number}" for number in range(1, 81))
    seen = open_page(
        render(report_builders.make_report(classes=classes), jpeg),
        tmp_path,
        width=width,
        name="many",
        dark=True,
    )
    assert_quiet(seen)


@pytest.mark.parametrize("width", [400, 1200])
def test_proposals_have_recall_instead_of_precision(width: int, jpeg: bytes, tmp_path: Path) -> None:
    report = report_builders.make_report(kind="proposal")
    script = "[...document.querySelectorAll('h3')].map(heading => heading.textContent)"
    seen = open_page(render(report, jpeg), tmp_path, width=width, script=script, name="proposals")
    assert_quiet(seen)
    assert "Share of objects found (%), by overlap" in seen.answer
    assert "Confusion matrix" not in seen.answer


def test_hostile_names_are_shown_as_text(jpeg: bytes, tmp_path: Path) -> None:
    """Of classes, of the job and of the data set."""
    report = report_builders.make_report(
        classes=(HOSTILE, "dog", '"><img src=x onerror=alert(2)>'), job=HOSTILE
    )
    script = """({
        alerts: window.alerts ?? [],
        title: document.title,
        job: document.querySelector('h1').textContent,
        names: [...document.querySelectorAll('table.classes tbody td:first-child')].map(
            cell => cell.textContent),
        images: [...document.images].filter(image => !image.src.startsWith('data:')).length,
        scripts: document.scripts.length,
    })"""
    seen = open_page(render(report, jpeg), tmp_path, width=1200, script=script, name="hostile")
    assert_quiet(seen)
    assert seen.answer["job"] == HOSTILE
    assert HOSTILE in seen.answer["title"]
    assert seen.answer["names"] == list(report.data.classes)
    assert (seen.answer["images"], seen.answer["scripts"]) == (0, 1)


def test_a_click_on_a_heading_sorts_the_classes(jpeg: bytes, tmp_path: Path) -> None:
    report = report_builders.make_report(classes=("cat", "ant", "bee"))
    script = """(() => {
        const table = document.querySelector('table.classes');
        const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent);
        const sorted = index => { table.tHead.rows[0].cells[index].click(); return names(); };
        return [names(), sorted(0), sorted(0), sorted(1)];
    })()"""
    seen = open_page(render(report, jpeg), tmp_path, width=1200, script=script, name="sorted")
    counts = dict(zip(report.data.classes, report.data.splits[1].objectsOfClass, strict=True))
    by_count = sorted(counts, key=lambda name: -counts[name])
    assert seen.answer == [["cat", "ant", "bee"], ["ant", "bee", "cat"], ["cat", "bee", "ant"], by_count]


def test_older_and_unfinished_reports_make_pages_of_what_they_have(jpeg: bytes, tmp_path: Path) -> None:
    old = page.render_run(report_builders.first_version(), pictures={})
    script = "document.body.textContent"
    seen = open_page(old, tmp_path, width=400, script=script, name="old")
    assert_quiet(seen)
    assert "faster_rcnn_r50_fpn_1x" in seen.answer
    going = report_builders.unfinished(report_builders.make_report())
    seen = open_page(render(going, jpeg), tmp_path, width=400, script=script, name="unfinished")
    assert_quiet(seen)
    assert "Not finished: iteration 500 of 1200" in seen.answer


@pytest.mark.parametrize("width", [400, 1600])
def test_runs_are_compared_on_one_page(width: int, tmp_path: Path) -> None:
    runs = {
        name: report_builders.as_document(report_builders.make_report(seed=seed, job=name))
        for seed, name in enumerate((HOSTILE, "second", "third"))
    }
    runs["second"]["run"]["settings"]["optimizer"]["lr"] = 0.005
    runs["old"] = report_builders.first_version()
    cells = "document.querySelectorAll('section:last-of-type tbody td:first-child')"
    script = f"[...{cells}].map(cell => cell.textContent)"
    content = page.render_comparison(runs)
    seen = open_page(content, tmp_path, width=width, script=script, name="comparison")
    assert_quiet(seen)
    assert "optimizer.lr" in seen.answer
    assert "seed" not in seen.answer, "which the old report does not tell"


def test_differences_name_only_what_differs() -> None:
    first, second = (report_builders.as_document(report_builders.make_report()) for _ in range(2))
    second["run"]["settings"]["optimizer"]["lr"] = 0.005
    second["hardware"]["worldSize"] = 4
    assert comparing.recipe_differences({"a": first, "b": second}) == [
        ("worldSize", ["8", "4"]),
        ("optimizer.lr", ["0.01", "0.005"]),
    ]


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["file:///runs/a/checkpoints", "file:///runs/b/checkpoints"], ["a", "b"]),
        (["s3://zoo/a", "s3://zoo/b"], ["a", "b"]),
        (["s3://zoo/a", "s3://other/a"], ["zoo", "other"]),
        (["file:///x/a", "file:///x/a/b"], ["a", "a/b"]),
    ],
)
def test_runs_are_named_by_what_their_places_differ_in(places: list[str], names: list[str]) -> None:
    assert comparing.name_runs(places) == names


def test_a_row_is_compared_with_the_published_one_only_where_it_can_be() -> None:
    report = report_builders.as_document(report_builders.make_report())
    compared = {item.figure: item for item in published.compare(report)}
    box_ap = compared["boxAP"]
    assert box_ap.difference == pytest.approx(report["boxAP"] - report["reference"]["boxAP"])
    assert box_ap.obstacles == [
        "the recipe is changed: optimizer.lr",
        "40 validation images, not the 5000 of COCO",
    ]
    assert "measured on NVIDIA H200, not on V100" in compared["memoryGB"].obstacles
    report["run"]["changes"] = []
    report["data"]["splits"][1]["images"] = 5000
    report["hardware"]["accelerator"] = "Tesla V100-SXM2-16GB"
    for precision in ("fp32", "tf32"):
        report["hardware"]["precision"] = precision
        assert [item.obstacles for item in published.compare(report)] == [[]] * len(compared)
    report["hardware"]["precision"] = "bf16"
    assert {item.obstacles[0] for item in published.compare(report)} == {"trained in bf16, not fp32"}


def test_the_history_is_a_table_with_a_row_for_each_iteration() -> None:
    text = document.history_table(report_builders.as_document(report_builders.make_report()))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [int(row["iteration"]) for row in rows] == list(range(10, 1201, 10))
    assert {"learningRate", "loss", "loss_cls", "boxAP", "boxAP50", "validationLoss"} < set(rows[0])
    assert rows[0]["boxAP"] == ""
    assert float(rows[9]["boxAP"]) > 0
    assert float(rows[9]["loss"]) == pytest.approx(
        float(rows[9]["loss_cls"]) + float(rows[9]["loss_rpn_cls"])
    )


def test_no_heading_of_the_history_is_a_formula() -> None:
    read = report_builders.as_document(report_builders.make_report())
    read["training"][0]["losses"]["=cmd|'/c calc'"] = 1.0
    heading, *lines = document.history_table(read).splitlines()
    assert ",'=cmd|'/c calc'," in f"{heading},"
    assert {line.count(",") for line in lines} == {heading.count(",")}


def test_tensorboard_has_every_point_once(jpeg: bytes, tmp_path: Path) -> None:
    """Read back by the format's own framing: length, checksum, message, checksum."""
    report = store_report(tmp_path, jpeg)
    files.remake(open_store(tmp_path.as_uri()))
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert file.name.startswith("events.out.tfevents")
    points = list(read_events(file.read_bytes()))
    wanted = {("train/learning_rate", point["iteration"]): point["lr"] for point in report.training}
    found = {(tag, step): value for tag, step, value in points}
    assert {key: found[key] for key in wanted} == pytest.approx(wanted)
    assert len(points) == len(found)
    losses = [point["metrics"]["validationLoss"] for point in report.evaluations]
    assert [value for tag, _, value in points if tag == "validation/loss"] == pytest.approx(losses)


def read_events(data: bytes) -> Iterator[tuple[str, int, float]]:
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        for value in event.summary.value:
            yield value.tag, event.step, value.simple_value
        data = data[16 + length :]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"[1]", "has no recipe"),
        (b"{", "must be the results.json of a run"),
        (b"[" * 100_000, "must be the results.json of a run"),
        (b'{"recipe": 5}', "recipe: got 5, must be text; the next evaluation of the run writes it again"),
        (
            b'{"recipe": "a", "evaluations": [{"iteration": 9}]}',
            "evaluations[0].metrics: absent, must be set",
        ),
        (b'{"recipe": "a", "reportVersion": 99, "run": 5}', "must be at most 1; use a newer kubedet"),
        (b'{"recipe": "a", "reportVersion": 99}', "must be at most 1; use a newer kubedet"),
    ],
)
def test_what_is_no_report_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(InvalidInput, match=r"results\.json") as refused:
        document.parse(data, name="s3://runs/a/results.json")
    assert told in str(refused.value)


def store_report(folder: Path, jpeg: bytes, **options: Any) -> document.Report:
    report = report_builders.make_report(**options)
    files.write_report(
        open_store(folder.as_uri()), document.dump(report), pictures={"best-1": jpeg, "worst-1": jpeg}
    )
    return report


def test_a_page_is_made_again_from_the_data_and_the_pictures(jpeg: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    store_report(folder, jpeg)
    before = (folder / "report.html").read_bytes()
    assert before.count(b"data:image/jpeg") == 2
    (folder / "report.html").unlink()
    (folder / "history.csv").unlink()
    done = CliRunner().invoke(command, [str(tmp_path / "run")])
    assert (done.exit_code, done.output) == (0, f"{folder}/report.html\n")
    assert (folder / "report.html").read_bytes() == before
    assert (folder / "history.csv").exists()


def test_several_runs_make_one_page(jpeg: bytes, tmp_path: Path) -> None:
    for name in ("first", "second"):
        store_report(tmp_path / name, jpeg, job=name)
    output = tmp_path / "both.html"
    done = CliRunner().invoke(
        command, [str(tmp_path / "first"), str(tmp_path / "second"), "--output", str(output)]
    )
    assert (done.exit_code, done.output) == (0, f"{output}\n")
    assert b"2 runs compared" in output.read_bytes()


def test_a_folder_without_a_report_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(tmp_path)])
    assert done.exit_code == 66
    assert f"{tmp_path}/results.json: no such report" in done.output


def test_every_figure_has_a_place_on_the_page(jpeg: bytes) -> None:
    report = report_builders.as_document(report_builders.make_report())
    text = page.render_run(report, pictures={}).decode()
    for shown in (
        "registry.example/kubedet-trainer:0.1.0",
        "NodeLost: node gpu-7 does not answer",
        "36 GPU hours",
        "Goodput 87 %",
        "optimizer.lr",
        "s3://data/animals",
        "Not learnt: 3 crowds",
        "activations and workspace",
        "2.14.1",
    ):
        assert shown in text
    assert views.main_figure(report) == "boxAP"
    assert json.loads(views.pretty(report["run"]["settings"]))["optimizer"]["lr"] == 0.01
