"""A zoo in local mode: real processes, with a stub that keeps the contract for the trainer."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from kubedet_operator.api.decoding import InvalidManifest
from kubedet_operator.local.documents import Documents
from kubedet_operator.local.run import Screen
from kubedet_operator.local.zoo import run_zoo
from zoo_simulation import make_zoo

STUB = Path(__file__).resolve().parent / "stub_trainer.py"


def _manifest(*, variables: dict[str, object] | None = None, **spec: Any) -> dict[str, Any]:
    env = [{"name": name, "value": str(value)} for name, value in (variables or {}).items()]
    container = {"name": "trainer", "command": ["python3", str(STUB)]}
    worker = {"gpus": 0, "env": env, "template": {"spec": {"containers": [container]}}}
    job = {"dataset": {"storageUri": "synthetic://shapes"}, "checkpoint": None, "worker": worker}
    # Another test process may take the usual ports at the same moment.
    template = {"spec": {**job, "metrics": {"port": 9600}}}
    return make_zoo(**{"template": template, **spec})


def _run(output: Path, manifest: dict[str, Any]) -> tuple[int, str, str]:
    progress, result = io.StringIO(), io.StringIO()
    screen = Screen(progress=Console(file=progress, width=200), result=Console(file=result, width=200))
    code = run_zoo(Documents(job=manifest), output=output, environment=os.environ, screen=screen)
    return code, progress.getvalue(), result.getvalue()


def _status(output: Path) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((output / "zoo.json").read_text())
    return status


def _starts(output: Path) -> int:
    return sum(path.read_text().count("starts at iteration") for path in output.glob("*/logs/*.log"))


def test_a_table_is_trained_in_order_and_again_only_where_it_changed(tmp_path: Path) -> None:
    rows = {"recipes": ["smoke_rpn", "smoke_fast_rcnn", "smoke_ssd"]}
    zoo = _manifest(rows=rows, parallelism=2, repeats=2)
    code, said, table = _run(tmp_path, zoo)
    assert code == 0
    assert "smoke_fast_rcnn: Waiting (waits for the proposals of the row smoke_rpn)" in said
    assert "smoke_ssd: Succeeded secondsPerIteration 0.02, boxAP 41.5" in said
    assert table.count("41.5 ±0.0") == 3
    page = tmp_path / "checkpoints" / "zoo" / "index.html"
    assert f"page: {page}\n" in table
    assert "3 rows · 6 trainings" in page.read_text()
    assert page.with_name("MODEL_ZOO.md").read_text().count("| 41.5 ± 0.0 |") == 3
    assert _starts(tmp_path) == 6
    assert _run(tmp_path, zoo)[0] == 0
    assert _starts(tmp_path) == 6, "a second run trains nothing"
    zoo["spec"]["changes"] = [{"recipe": "smoke_ssd", "spec": {"overrides": {"optimizer.lr": "0.02"}}}]
    assert _run(tmp_path, zoo)[0] == 0
    assert _starts(tmp_path) == 8, "both repeats of the row that changed"


def test_paths_of_this_machine_become_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = _manifest()
    manifest["spec"]["template"]["spec"]["dataset"] = {"storageUri": "./my parts"}
    output = tmp_path / "a #1 table"
    code, _, said = _run(output, manifest)
    assert code == 0, said
    logs = [path.read_text() for path in output.glob("*/logs/*-worker-0.log")]
    assert logs
    assert (output / "checkpoints" / "zoo" / "index.html").exists()
    assert all(f"dataset {(tmp_path / 'my parts').as_uri()}," in log for log in logs)


def test_a_row_that_fails_is_told_and_ends_the_command_with_1(tmp_path: Path) -> None:
    env = [{"name": "STUB_EXIT", "value": "65"}]
    template = _manifest()["spec"]["template"]["spec"]["worker"]
    failing = {"recipe": "smoke_ssd", "spec": {"worker": {**template, "env": env}}}
    zoo = _manifest(rows={"recipes": ["smoke_ssd", "smoke_retinanet"]}, changes=[failing])
    code, said, _ = _run(tmp_path, zoo)
    assert code == 1
    assert "smoke_ssd: Failed" in said
    assert "recipe: got 'x', must be 'y'" in said
    page = (tmp_path / "checkpoints" / "zoo" / "index.html").read_text()
    assert "recipe: got &#39;x&#39;, must be &#39;y&#39;" in page
    phases = {row["recipe"]: row["phase"] for row in _status(tmp_path)["rows"]}
    assert phases == {"smoke_ssd": "Failed", "smoke_retinanet": "Succeeded"}


def test_a_stop_request_suspends_all_jobs_and_the_same_command_continues(tmp_path: Path) -> None:
    file, output = tmp_path / "zoo.yaml", tmp_path / "out"
    variables = {"STUB_ITERATIONS": 60, "STUB_SECONDS": "0.05"}
    rows = {"recipes": ["smoke_ssd", "smoke_retinanet"]}
    file.write_text(yaml.safe_dump(_manifest(variables=variables, rows=rows, parallelism=2)))
    kubedet = (sys.executable, "-m", "kubedet_trainer.commands.kubedet")
    command = [*kubedet, "run", str(file), "--output", str(output)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        states = _wait_for_states(output, 2)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 143, said
    reached = {int(path.read_text()) for path in states}
    assert max(reached) < 60
    again = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    logs = "".join(path.read_text() for path in output.glob("*/logs/*.log"))
    assert all(f"starts at iteration {iteration}" in logs for iteration in reached)
    assert _status(output)["counts"]["succeeded"] == 2


def test_a_page_that_cannot_be_written_is_told_and_fails_no_row(tmp_path: Path) -> None:
    output = tmp_path / "out"
    blocked = output / "checkpoints" / "zoo" / "index.html"
    blocked.mkdir(parents=True)
    code, _, said = _run(output, _manifest(rows={"recipes": ["smoke_ssd"]}))
    assert code == 0
    assert "the pod that writes the page failed with exit code" in said


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"suspend": True}, "spec.suspend: got True, must not be set on this machine"),
        ({"rows": {"recipes": ["smoke_sd"]}}, "Did you mean 'smoke_ssd'?"),
        (
            {"rows": {"recipes": ["smoke_ssd"]}, "template": {"spec": {"suspend": True}}},
            "smoke_ssd: spec.suspend: got True, must not be set on this machine",
        ),
        (
            {
                "rows": {"recipes": ["smoke_ssd"]},
                "template": {"spec": {"dataset": {"storageUri": "pvc://data"}}},
            },
            "smoke_ssd: spec.dataset.storageUri: got 'pvc://data', must not be a claim on this machine",
        ),
    ],
)
def test_what_cannot_run_here_is_refused(tmp_path: Path, spec: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidManifest) as refused:
        _run(tmp_path, _manifest(**spec))
    assert said in str(refused.value)


def test_a_file_in_the_place_of_the_output_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = r"--output: got '.*/file/out', must be a folder, but .*/file is a file; name another"
    with pytest.raises(InvalidManifest, match=said):
        _run(tmp_path / "file" / "out", _manifest(rows={"recipes": ["smoke_ssd"]}))


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "\0"], ids=["cut", "list", "deep", "nul"])
def test_a_status_that_cannot_be_read_is_named_with_a_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "zoo.json").write_text(text)
    with pytest.raises(InvalidManifest, match=r"zoo\.json: got .*, must be the status .*delete the file"):
        _run(tmp_path, _manifest(rows={"recipes": ["smoke_ssd"]}))


def _wait_for_states(output: Path, count: int) -> list[Path]:
    for _ in range(1200):
        found = [path for path in output.glob("checkpoints/**/state-0") if path.read_text()]
        if len(found) == count:
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {count} states in {output}")
