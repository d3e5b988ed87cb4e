"""The page of a zoo and its other files, from the rows that the operator hands over to a real browser."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import zoo_tables
from browser import HOSTILE, assert_quiet, open_page
from kubedet_trainer.commands.report import report as command
from kubedet_trainer.contract import catalogue
from kubedet_trainer.reports.zoo import document, markdown, views
from zoo_simulation import ZooSimulation

RPN, FAST, FASTER = "rpn_r50_fpn_1x", "fast_rcnn_r50_fpn_1x", "faster_rcnn_r50_fpn_1x"
MASK, RETINA, SSD = "mask_rcnn_r50_fpn_1x", "retinanet_r50_fpn_1x", "ssd300_coco"
OWN = "my_recipes:careful"
COLUMNS_OF_2019 = {
    "RPN": "Backbone|Style|Lr schd|Mem (GB)|Train time (s/iter)|Inf time (fps)|AR1000|Download",
    "Faster R-CNN": "Backbone|Style|Lr schd|Mem (GB)|Train time (s/iter)|Inf time (fps)|box AP|Download",
    "Mask R-CNN": (
        "Backbone|Style|Lr schd|Mem (GB)|Train time (s/iter)|Inf time (fps)|box AP|mask AP|Download"
    ),
    "Fast R-CNN (with pre-computed proposals)": (
        "Backbone|Style|Type|Lr schd|Mem (GB)|Train time (s/iter)|Inf time (fps)|box AP|mask AP|Download"
    ),
    "RetinaNet": "Backbone|Style|Lr schd|Mem (GB)|Train time (s/iter)|Inf time (fps)|box AP|Download",
    "Cascade R-CNN": "Backbone|Style|Lr schd|Mem (GB)|Train time (s/iter)|Inf time (fps)|box AP|Download",
    "Cascade Mask R-CNN": (
        "Backbone|Style|Lr schd|Mem (GB)|Train time (s/iter)|Inf time (fps)|box AP|mask AP|Download"
    ),
    "SSD": "Backbone|Size|Style|Lr schd|Mem (GB)|Train time (s/iter)|Inf time (fps)|box AP|Download",
    "SSD (PASCAL VOC)": (
        "Backbone|Size|Style|Lr schd|Mem (GB)|Train time (s/iter)|Inf time (fps)|box AP|Download"
    ),
    "Group Normalization (GN)": (
        "Backbone|model|Lr schd|Mem (GB)|Train time (s/iter)|Inf time (fps)|box AP|mask AP|Download"
    ),
    "Deformable Convolution v2": (
        "Backbone|Model|Style|Conv|Pool|Lr schd|Mem (GB)|Train time (s/iter)|Inf time (fps)|box AP|mask AP|"
        "Download"
    ),
}
SECTIONS_OF_2019 = [
    "# Benchmark and Model Zoo",
    "## Environment",
    "### Hardware",
    "### Software environment",
    "## Mirror sites",
    "## Common settings",
    "## Baselines",
    *(f"### {heading}" for heading in COLUMNS_OF_2019),
    "## Comparison with Detectron and Detectron.pytorch",
    "### Performance",
    "### Training Speed",
    "### Inference Speed",
    "### Training memory",
]
PUBLISHED_MODELS = 79
"""Rows of 2019 with a link."""
OURS = {"Published", "Difference", "Verdict"}


def write(zoo: ZooSimulation, folder: Path) -> dict[str, Any]:
    """Write the page as the pod does, next to the rows' checkpoints; returns its data."""
    table = zoo_tables.write_table(zoo, folder / "table")
    done = CliRunner().invoke(command, ["--zoo", str(table), "--output", (folder / "zoo").as_uri()])
    assert (done.exit_code, done.output) == (0, f"{folder}/zoo/index.html\n")
    read: dict[str, Any] = json.loads((folder / "zoo" / "zoo.json").read_text())
    return read


def row_of(table: dict[str, Any], recipe: str) -> dict[str, Any]:
    (row,) = [row for row in table["rows"] if row["recipe"] == recipe]
    return dict(row)


def figure_of(table: dict[str, Any], recipe: str, name: str) -> dict[str, Any]:
    return dict(document.figures_of(row_of(table, recipe))[name])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A page with rows of every kind, two trainings each."""
    folder = tmp_path_factory.mktemp("mixed")
    zoo = zoo_tables.make_zoo(
        folder,
        rows={"recipes": [RPN, FAST, FASTER, MASK, RETINA, SSD, OWN, "smoke_ssd"]},
        repeats=2,
        changes=[{"recipe": MASK, "spec": {"overrides": {"optimizer.lr": "0.01"}}}],
    )
    for seed, offset in enumerate((0.1, -0.1)):
        zoo_tables.end_row(zoo, RPN, seed=seed, ar1000=offset)
        zoo_tables.end_row(zoo, FASTER, seed=seed, boxAP=1 + offset, hardware=zoo_tables.H200)
        zoo_tables.end_row(zoo, MASK, seed=seed, boxAP=offset)
        zoo_tables.end_row(zoo, RETINA, seed=seed, boxAP=-1 + offset, secondsPerIteration=-0.2 + offset,
                           hardware=zoo_tables.H200, report=None)  # fmt: skip
        zoo_tables.end_row(zoo, OWN, seed=seed, job=HOSTILE)
        zoo.settle()
    zoo_tables.end_row(zoo, SSD, seed=0, boxAP=0.2)
    zoo_tables.end_row(zoo, SSD, seed=1, boxAP=0.4)
    zoo.fail("smoke_ssd", 0, f"out of memory {HOSTILE} | `rm -rf`")
    zoo.fail("smoke_ssd", 1, "out of memory")
    zoo.settle()
    for seed in (0, 1):
        zoo_tables.end_row(zoo, FAST, seed=seed, boxAP=0.1, hardware={**zoo_tables.V100, "precision": "bf16"})
    return folder, write(zoo, folder)


def test_every_row_has_its_verdict_and_why(mixed: tuple[Path, dict[str, Any]]) -> None:
    _, table = mixed
    verdicts = {row["recipe"]: row.get("verdict") for row in table["rows"]}
    assert verdicts == {
        RPN: "Equal",
        FASTER: "Above",
        RETINA: "Below",
        SSD: "Equal",
        MASK: "NotComparable",
        FAST: "NotComparable",
        OWN: "NotComparable",
        "smoke_ssd": None,
    }
    assert row_of(table, MASK)["reasons"] == ["the recipe is changed: optimizer.lr"]
    assert row_of(table, FAST)["reasons"] == ["trained in bf16, not fp32"]
    assert row_of(table, OWN)["reasons"] == ["nothing is published for this recipe"]
    assert table["counts"] == {"Succeeded": 7, "Failed": 1}
    assert table["verdicts"] == {"Equal": 2, "Above": 1, "Below": 1, "NotComparable": 3}


def test_the_page_says_of_every_row_what_the_status_says(tmp_path: Path) -> None:
    """The operator and the trainer judge by one list."""
    zoo = zoo_tables.make_zoo(tmp_path, rows={"recipes": [RPN, FASTER, RETINA]})
    zoo_tables.end_row(zoo, RPN)
    zoo_tables.end_row(zoo, FASTER, boxAP=-0.7)
    zoo_tables.end_row(zoo, RETINA, hardware={**zoo_tables.V100, "precision": "fp16"})
    table = write(zoo, tmp_path)
    for row in zoo.status["rows"]:
        shown = row_of(table, row["recipe"])
        assert (shown["verdict"], "; ".join(shown["reasons"])) == (row["verdict"], row.get("reason", ""))
        for name, difference in row["differences"].items():
            assert figure_of(table, row["recipe"], name)["difference"] == difference
    for item in table["differences"]:
        assert zoo.status["differences"][item["figure"]] == {
            name: item[name] for name in ("mean", "standardError", "rows") if name in item
        }


@pytest.mark.parametrize(("task", "verdict"), [("Train", "NotComparable"), ("Measure", "Equal")])
def test_the_batch_says_nothing_of_the_precision_of_weights_that_were_measured(
    tmp_path: Path, task: str, verdict: str
) -> None:
    measure = "Published" if task == "Measure" else "Training"
    zoo = zoo_tables.make_zoo(tmp_path, rows={"recipes": [RETINA]}, measure=measure)
    zoo_tables.end_row(zoo, RETINA, task=task, global_batch=2)
    table = write(zoo, tmp_path)
    assert zoo.status["rows"][0]["verdict"] == row_of(table, RETINA)["verdict"] == verdict
    obstacles = figure_of(table, RETINA, "secondsPerIteration")["reasons"]
    assert "2 images per step, not 16" in obstacles
    assert (row_of(table, RETINA)["runs"][0].get("checkpoint") is None) == (task == "Measure")


def test_repeats_show_mean_and_spread_and_the_table_its_mean_difference(
    mixed: tuple[Path, dict[str, Any]],
) -> None:
    _, table = mixed
    assert figure_of(table, RPN, "ar1000") == {
        "figure": "ar1000",
        "ours": 57.1,
        "spread": 0.141,
        "published": 57.1,
        "difference": 0.0,
        "verdict": "Equal",
        "reasons": [],
    }
    assert views.cell(row_of(table, RPN), "ar1000").ours == "57.1 ± 0.1"
    (box_ap,) = [item for item in table["differences"] if item["figure"] == "boxAP"]
    assert (box_ap["mean"], box_ap["rows"]) == (pytest.approx((1 - 1 + 0.3) / 3), 3)
    spread = (sum((d - 0.1) ** 2 for d in (1, -1, 0.3)) / 2) ** 0.5
    assert box_ap["standardError"] == pytest.approx(spread / 3**0.5, abs=1e-3)


def test_speed_and_memory_are_compared_on_the_published_hardware_alone(
    mixed: tuple[Path, dict[str, Any]],
) -> None:
    _, table = mixed
    same = figure_of(table, RPN, "memoryGB")
    assert (same["difference"], same.get("verdict"), same["reasons"]) == (0.0, None, [])
    other = figure_of(table, RETINA, "secondsPerIteration")
    assert "difference" not in other
    assert other["reasons"] == ["measured on NVIDIA H200, not on V100"]
    base = figure_of(table, FASTER, "secondsPerIteration")
    assert other["ratio"] == {
        "to": FASTER,
        "ours": pytest.approx(other["ours"] / base["ours"], abs=1e-3),
        "published": pytest.approx(other["published"] / base["published"], abs=1e-3),
    }
    assert "ratio" not in figure_of(table, FASTER, "secondsPerIteration")


def test_a_row_without_its_files_is_shown_by_its_status_and_one_without_results_by_its_message(
    mixed: tuple[Path, dict[str, Any]],
) -> None:
    folder, table = mixed
    run = row_of(table, RETINA)["runs"][0]
    assert "results.json: no such report" in run["unread"]
    assert "report" not in run
    assert figure_of(table, RETINA, "boxAP")["ours"] == pytest.approx(34.6)
    failed = row_of(table, "smoke_ssd")
    assert (failed["phase"], failed["runs"][0]["message"]) == (
        "Failed",
        f"out of memory {HOSTILE} | `rm -rf`",
    )
    page = (folder / "zoo" / "index.html").read_text()
    assert "its report could not be read" in page


def test_links_lead_to_the_run_its_log_and_its_weights(mixed: tuple[Path, dict[str, Any]]) -> None:
    folder, table = mixed
    place = folder / "zoo"
    addresses = [link.address for link in views.links(row_of(table, RPN), folder=place.as_uri())]
    assert len(addresses) == 4
    assert all((place / str(address)).is_file() for address in addresses)
    assert [link.text for link in views.links(row_of(table, RPN), folder="s3://other")] == [
        "report 1",
        "log 1",
        "report 2",
        "log 2",
    ]


@pytest.mark.parametrize(
    ("uri", "folder", "address"),
    [
        ("s3://zoo/a/b c/report.html", "s3://zoo/a", "b%20c/report.html"),
        ("file:///zoo/b%20c/report.html", "file:///zoo", "b%20c/report.html"),
        ("s3://elsewhere/report.html", "s3://zoo", None),
        ("https://zoo.example/report.html", "s3://zoo", "https://zoo.example/report.html"),
        ("javascript:alert(1)", "s3://zoo", None),
        ("s3://zoo/javascript:alert(1)", "s3://zoo", "javascript%3Aalert%281%29"),
        ("http://x/|\n> [a](b)`<i>", "s3://zoo", "http://x/%7C%0A%3E%20[a](b)%60%3Ci%3E"),
        ("https://zoo.example/a%20b?c=d&e#f", "s3://zoo", "https://zoo.example/a%20b?c=d&e#f"),
        ("http://[::1", "s3://zoo", None),
    ],
)
def test_addresses_are_relative_below_the_page_and_never_programs(
    uri: str, folder: str, address: str | None
) -> None:
    assert views.address_of(uri, folder=folder) == address


@pytest.mark.parametrize("width", [400, 768, 1600])
def test_the_page_of_a_zoo_fits_every_screen_and_loads_nothing(
    width: int, mixed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    content = (mixed[0] / "zoo" / "index.html").read_bytes()
    script = """({
        sections: [...document.querySelectorAll('section')].map(section => section.id),
        verdicts: [...document.querySelectorAll('.badge')].map(badge => badge.textContent),
        scripts: document.scripts.length,
        images: document.images.length,
    })"""
    seen = open_page(content, tmp_path, width=width, script=script, name="zoo")
    assert_quiet(seen)
    assert seen.answer["sections"] == [
        "overview", "rpn", "faster_rcnn", "mask_rcnn", "fast_rcnn", "retinanet", "ssd", "smoke", "yours",
        "comparison", "environment",
    ]  # fmt: skip
    assert seen.answer["verdicts"].count("not comparable") == 3
    assert (seen.answer["scripts"], seen.answer["images"]) == (1, 0)


@pytest.mark.parametrize("width", [400, 1600])
def test_all_rows_of_2019_fit_on_one_page(width: int, whole: Path, tmp_path: Path) -> None:
    content = (whole / "zoo" / "index.html").read_bytes()
    script = "document.querySelectorAll('table.zoo td.id').length"
    seen = open_page(content, tmp_path, width=width, script=script, name="whole", dark=width == 1600)
    assert_quiet(seen)
    assert seen.answer == 95
    assert len(content) < 500_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of all 95 recipes, without files of runs."""
    folder = tmp_path_factory.mktemp("whole")
    zoo = zoo_tables.make_zoo(folder, rows={"recipes": list(catalogue.NAMES)})
    while zoo.active():
        for number, recipe in enumerate(sorted(zoo.active())):
            zoo_tables.end_row(zoo, recipe, report=None, boxAP=(number % 7 - 3) / 5)
        zoo.settle()
    write(zoo, folder)
    return folder


def test_markdown_has_the_sections_and_columns_of_2019(whole: Path) -> None:
    text = (whole / "zoo" / "MODEL_ZOO.md").read_text()
    assert [line for line in text.splitlines() if re.match("#+ ", line)] == SECTIONS_OF_2019
    for heading, columns in COLUMNS_OF_2019.items():
        section = text.split(f"### {heading}\n")[1].split("\n#")[0]
        header = next(line for line in section.splitlines() if line.startswith("|"))
        names = [name.strip() for name in header.strip("|").split(" | ")]
        assert "|".join(name for name in names if name not in OURS) == columns
        assert set(names) >= OURS
    assert len(re.findall(r"^\| .*\[2019\]", text, re.MULTILINE)) == PUBLISHED_MODELS


def test_markdown_names_rows_as_the_page_of_2019_does(whole: Path) -> None:
    text = (whole / "zoo" / "MODEL_ZOO.md").read_text()
    for start in (
        "| R-50-FPN | caffe | 1x | 4.50 | 0.379 | 14.4 | 58.2 | 58.2 |",
        "| R-50-FPN | caffe | Mask | 1x | 5.40 | 0.473 | 10.7 |",
        "| VGG16 | 300 | caffe | 120e | 3.50 | 0.286 | 22.9 |",
        "| R-50-FPN (d) | Mask R-CNN | 2x | 7.20 | 0.806 |",
        r"| R-50-FPN (c) | Mask R-CNN | 2x | 7.20 | 0.806 |",
        "| R-50-FPN | Faster R-CNN | pytorch | dconv(c3-c5) | - | 1x | 3.90 |",
        "| R-50-FPN | Faster R-CNN | pytorch | - | mdpool | 1x |",
        "| Faster R-CNN | 1x | 36.7 | 37.1 | 36.4 / 36.7 |",
        "| Mask R-CNN | 0.889 | 1.435 | 0.690 / 0.732 | 0.690 |",
    ):
        assert f"\n{start}" in text, start


def test_hostile_names_are_text_in_every_file(tmp_path: Path) -> None:
    zoo = zoo_tables.make_zoo(tmp_path, rows={"recipes": [RETINA, FASTER]})
    nasty = f"=cmd|'/c calc' {HOSTILE} [x](javascript:alert(1)) `code`\n# heading"
    zoo_tables.end_row(zoo, RETINA, hardware={**zoo_tables.V100, "accelerator": HOSTILE}, job=HOSTILE)
    zoo.fail(FASTER, message=nasty)
    table = write(zoo, tmp_path)
    script = """({
        scripts: document.scripts.length,
        links: [...document.links].filter(link => link.protocol === 'javascript:').length,
        text: document.body.textContent,
    })"""
    page = (tmp_path / "zoo" / "index.html").read_bytes()
    seen = open_page(page, tmp_path, width=768, script=script, name="zoo-hostile")
    assert_quiet(seen)
    assert (seen.answer["scripts"], seen.answer["links"]) == (1, 0)
    assert HOSTILE in seen.answer["text"]
    text = (tmp_path / "zoo" / "MODEL_ZOO.md").read_text()
    assert "<script" not in text
    assert "\n# heading" not in text
    assert r"\[x\](javascript:alert(1)) \`code\`" in text
    assert row_of(table, FASTER)["runs"][0]["message"] == nasty
    cells = [
        cell for line in csv.reader(io.StringIO((tmp_path / "zoo" / "zoo.csv").read_text())) for cell in line
    ]
    assert not [cell for cell in cells if cell.startswith("=")]


def test_csv_has_a_line_for_each_row(mixed: tuple[Path, dict[str, Any]]) -> None:
    lines = list(csv.DictReader(io.StringIO((mixed[0] / "zoo" / "zoo.csv").read_text())))
    assert len(lines) == 8
    (line,) = [line for line in lines if line["recipe"] == RPN]
    assert (line["ar1000"], line["ar1000Spread"], line["ar1000Published"], line["trainings"]) == (
        "57.1", "0.141", "57.1", "2",
    )  # fmt: skip


def test_what_kubectl_prints_makes_the_same_page(tmp_path: Path) -> None:
    zoo = zoo_tables.make_zoo(tmp_path, rows={"recipes": [RETINA]})
    zoo_tables.end_row(zoo, RETINA)
    first = write(zoo, tmp_path)
    file = tmp_path / "zoo.json"
    file.write_text(json.dumps({**(zoo.zoo or {}), "kind": "ModelZoo"}))
    done = CliRunner().invoke(command, ["--zoo", str(file), "--output", str(tmp_path / "zoo")])
    assert done.exit_code == 0, done.output
    again = json.loads((tmp_path / "zoo" / "zoo.json").read_text())
    assert {**again, "writeTime": ""} == {**first, "writeTime": ""}


def test_text_of_markdown_is_no_markup() -> None:
    assert markdown.text("a|b *c* _d_ <e> & `f`\n# g") == (r"a\|b \*c\* \_d\_ &lt;e&gt; &amp; \`f\` \# g")
