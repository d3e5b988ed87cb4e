"""What lies where others can write to it is read as what it should be, or refused by name."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import report_builders
import zoo_tables
from kubedet_trainer.commands.report import report as command
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.reports import document, page
from kubedet_trainer.reports.zoo import files

RETINA, FASTER = "retinanet_r50_fpn_1x", "faster_rcnn_r50_fpn_1x"


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a document can be wrong: every field, and the first of the items of every list."""
    below = (
        value.items()
        if isinstance(value, dict)
        else list(enumerate(value))[:1]
        if isinstance(value, list)
        else ()
    )
    for name, item in below:
        yield (*path, name)
        yield from _places(item, (*path, name))


def test_whatever_a_report_holds_it_is_shown_or_refused_by_name() -> None:
    whole = report_builders.as_document(report_builders.make_report())
    numbers = (5, True, float("nan"), float("inf"))
    odd: tuple[Any, ...] = ("x", None, [], {}, [1], *numbers, "<script>alert(1)</script>")
    cases = [(place, value) for place in _places(whole) for value in odd]
    refusals: list[str] = []
    for place, value in random.Random(0).sample(cases, 200):
        broken = deepcopy(whole)
        part = broken
        for name in place[:-1]:
            part = part[name]
        part[place[-1]] = value
        try:
            read = document.parse(json.dumps(broken).encode(), name="results.json")
        except InvalidInput as error:
            refusals.append(str(error))
            continue
        assert b"<script>alert" not in page.render_run(read, pictures={})
        assert b"<script>alert" not in page.render_comparison({"a": read, "b": whole})
        document.history_table(read)
    assert len(refusals) > 100
    assert all(refusal.startswith("results.json: ") for refusal in refusals)


@pytest.mark.parametrize(
    ("part", "wrong", "said"),
    [
        ("run", {"job": "a"}, "run.startTime: absent, must be set"),
        ("time", {"seconds": "x", "goodputPercent": 9, "gpuSeconds": 0}, "time.seconds: got 'x'"),
        ("inferenceFpsBatch8", float("nan"), "inferenceFpsBatch8: got nan, must be a finite number"),
        ("hardware", {"accelerator": ["V100"]}, "hardware.accelerator: got ['V100'], must be text"),
    ],
)
def test_a_report_that_cannot_be_read_is_that_row_s_own_trouble(
    part: str, wrong: Any, said: str, tmp_path: Path
) -> None:
    zoo = zoo_tables.make_zoo(tmp_path, rows={"recipes": [RETINA, FASTER]})
    for recipe in (RETINA, FASTER):
        zoo_tables.end_row(zoo, recipe)
    place = zoo.job(RETINA)["spec"]["checkpoint"]["storageUri"].removeprefix("file://")
    results = Path(place, "results.json")
    results.write_text(json.dumps({**json.loads(results.read_text()), part: wrong}))
    table = zoo_tables.write_table(zoo, tmp_path / "table")
    done = CliRunner().invoke(command, ["--zoo", str(table), "--output", (tmp_path / "zoo").as_uri()])
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "zoo" / "zoo.json").read_text())["rows"]
    unread = {row["recipe"]: row["runs"][0].get("unread") for row in rows}
    assert unread[FASTER] is None
    assert said in unread[RETINA]
    assert {row["phase"] for row in rows} == {"Succeeded"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "must be the JSON of a ModelZoo"),
        (b"H4sIAAAA", "must be the JSON of a ModelZoo"),
        (b'{"kind": "List"}', "must be one ModelZoo; write it with `kubectl get zoo NAME -o json`"),
        (b'{"kind": "ModelZoo", "metadata": {}}', "status.rows is empty"),
        (b"[" * 100_000, "must be the JSON of a ModelZoo"),
        (b'{"kind": "ModelZoo", "status": []}', "status.rows is empty"),
        (b'{"kind": "ModelZoo", "status": {"rows": [{"recipe": "a"}]}}', "metadata: absent, must be set"),
        (
            b'{"kind": "ModelZoo", "metadata": {"name": "a"}, "status": {"rows": [{"runs": 5}]}}',
            "status.rows[0].recipe: absent, must be set",
        ),
        (
            b'{"kind": "ModelZoo", "metadata": {"name": "a"}, "status": {"rows": [{"recipe": "a", "runs": '
            b'[{"seed": 0, "results": {"boxAP": NaN}}]}]}}',
            "status.rows[0].runs[0].results.boxAP: got nan, must be a finite number",
        ),
    ],
)
def test_what_is_no_zoo_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "zoo.json"
    file.write_bytes(content)
    with pytest.raises(InvalidInput) as refused:
        files.read_zoo(file)
    assert said in str(refused.value)
    done = CliRunner().invoke(command, ["--zoo", str(file)])
    assert done.exit_code == 65
    assert CliRunner().invoke(command, []).exit_code == 2
