"""Local mode runs real processes; a stub that keeps the contract stands in for the trainer."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from builders import make_manifest, merge
from kubedet_operator.api.decoding import InvalidManifest
from kubedet_operator.local.container import CannotRunHere
from kubedet_operator.local.documents import Documents
from kubedet_operator.local.run import Screen, run_job
from screen import read_screen

STUB = Path(__file__).resolve().parent / "stub_trainer.py"


def _manifest(*, variables: dict[str, object] | None = None, **spec: Any) -> dict[str, Any]:
    env = [{"name": name, "value": str(value)} for name, value in (variables or {}).items()]
    container = {"name": "trainer", "command": ["python3", str(STUB)]}
    worker = {"env": env, "template": {"spec": {"containers": [container]}}}
    # Another test process may take the usual ports at the same moment.
    return make_manifest(**merge({"worker": worker, "metrics": {"port": 9500}}, spec))


@dataclass(frozen=True)
class Outcome:
    code: int
    progress: str
    result: str


def _run(output: Path, manifest: dict[str, Any], **secrets: dict[str, str]) -> Outcome:
    progress, result = io.StringIO(), io.StringIO()
    screen = Screen(progress=Console(file=progress, width=200), result=Console(file=result, width=200))
    documents = Documents(job=manifest, secrets=secrets)
    code = run_job(documents, output=output, environment=os.environ, screen=screen)
    return Outcome(code, progress.getvalue(), result.getvalue())


def test_a_run_ends_with_its_row_and_where_everything_lies(tmp_path: Path) -> None:
    # Longer than the pauses between two questions for progress, however slow the machine.
    outcome = _run(tmp_path, _manifest(variables={"STUB_ITERATIONS": 30, "STUB_SECONDS": "0.1"}))
    assert outcome.code == 0
    assert "Training" in outcome.progress
    for text in ("smoke_faster_rcnn", "41.5", "81.2", str(tmp_path / "checkpoints" / "report.html")):
        assert text in outcome.result
    assert "starts at iteration 0" in (tmp_path / "logs" / "demo-worker-0.log").read_text()


def test_several_replicas_have_ports_folders_and_logs_of_their_own(tmp_path: Path) -> None:
    outcome = _run(tmp_path, _manifest(worker={"replicas": 2}))
    assert outcome.code == 0
    assert "Restarting" not in outcome.progress
    logs = {path.name for path in (tmp_path / "logs").iterdir()}
    assert logs == {"demo-worker-0.log", "demo-worker-1.log", "demo-rendezvous.log"}
    assert {path.name for path in (tmp_path / "work").iterdir()} >= {"demo-worker-0", "demo-worker-1"}


def test_a_killed_worker_is_restarted_and_resumes(tmp_path: Path) -> None:
    outcome = _run(tmp_path, _manifest(variables={"STUB_CRASH_AT": 3}))
    assert outcome.code == 0
    assert "Restarting" in outcome.progress
    assert "137" in outcome.progress
    log = (tmp_path / "logs" / "demo-worker-0.log").read_text()
    assert "attempt 1 starts at iteration 3" in log


def test_a_permanent_failure_ends_the_run_with_its_code_and_root_cause(tmp_path: Path) -> None:
    outcome = _run(tmp_path, _manifest(variables={"STUB_EXIT": 65}))
    assert outcome.code == 65
    assert "recipe: got 'x', must be 'y'" in outcome.progress
    assert "boom" in outcome.progress
    assert (tmp_path / "logs" / "demo-worker-0.log").read_text().count("starts") == 1


def test_an_application_failure_is_not_retried_beyond_the_limit(tmp_path: Path) -> None:
    outcome = _run(tmp_path, _manifest(variables={"STUB_EXIT": 139}, backoffLimit=0))
    assert outcome.code == 139
    assert "spec.backoffLimit is 0" in outcome.progress


def test_a_stop_request_suspends_and_the_same_command_resumes(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    variables = {"STUB_ITERATIONS": 60, "STUB_SECONDS": "0.05"}
    job.write_text(yaml.safe_dump(_manifest(variables=variables, worker={"replicas": 2})))
    output = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "kubedet_trainer.commands.kubedet",
        "run",
        str(job),
        "--output",
        str(output),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        _wait_for(output / "checkpoints" / "state-0")
        _wait_for(output / "checkpoints" / "state-1")
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    assert running.returncode == 143, said
    assert "the same command resumes" in said
    reached = int((output / "checkpoints" / "state-0").read_text())
    assert 0 < reached < 60
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert f"starts at iteration {reached}" in (output / "logs" / "demo-worker-0.log").read_text()


def test_a_terminal_shows_one_bar_below_whole_lines(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    variables = {"STUB_ITERATIONS": 20, "STUB_SECONDS": "0.1", "STUB_CRASH_AT": 8}
    job.write_text(yaml.safe_dump(_manifest(variables=variables)))
    code, written = _run_on_a_terminal("run", str(job), "--output", str(tmp_path / "out"))
    assert code == 0, written
    lines = read_screen(written)
    assert len([line for line in lines if "Done" in line or "Training" in line]) == 1, lines
    (restart,) = (line for line in lines if "Restarting" in line)
    assert restart.startswith("Restarting: worker demo-worker-0 (")
    assert len([line for line in lines if line.startswith("logs ")]) == 1


def _run_on_a_terminal(*arguments: str) -> tuple[int, str]:
    """Exit code of a `kubedet` command, and all that it wrote to its terminal of 200 columns."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, 200))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-m", "kubedet_trainer.commands.kubedet", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm-256color"},
    ) as running:
        os.close(theirs)
        written = bytearray()
        with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as screen:
            while part := screen.read(4096):
                written += part
    return running.returncode, written.decode()


def test_paths_of_this_machine_become_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "a #1 run"
    manifest = _manifest(dataset={"storageUri": "./my parts"}, pretrained={"storageUri": "../weights.pth"})
    assert _run(output, manifest).code == 0
    log = (output / "logs" / "demo-worker-0.log").read_text()
    assert f"dataset {(tmp_path / 'my parts').as_uri()}" in log
    assert f", pretrained {(tmp_path.parent / 'weights.pth').as_uri()}" in log
    assert (output / "checkpoints" / "state-0").is_file()


def test_secrets_come_from_the_same_files(tmp_path: Path) -> None:
    manifest = _manifest(dataset={"secretRef": {"name": "minio"}})
    with pytest.raises(CannotRunHere, match="Secret minio: absent, must be among the files"):
        _run(tmp_path, manifest)
    assert _run(tmp_path, manifest, minio={"accessKey": "a", "secretKey": "b"}).code == 0


def test_a_file_in_the_place_of_the_output_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidManifest, match=r"--output: got '.*', must be a folder, but .*/file is a file"):
        _run(tmp_path / "file", _manifest())


def test_claims_are_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidManifest, match=r"spec.dataset.storageUri: .* use a path such as ./data, or s3://"
    ):
        _run(tmp_path, _manifest(dataset={"storageUri": "pvc://claim/coco"}))
    proposals = {"proposals": {"storageUri": "pvc://claim/rpn"}}
    manifest = _manifest(dataset=proposals, weightsMirror="pvc://claim/zoo")
    with pytest.raises(InvalidManifest) as caught:
        _run(tmp_path, manifest)
    refused = {violation.path for violation in caught.value.violations}
    assert refused == {"spec.weightsMirror", "spec.dataset.proposals.storageUri"}


@pytest.mark.parametrize("spec", [{"suspend": True}, {"managedBy": "example.com/other"}])
def test_a_job_that_would_not_start_is_refused(tmp_path: Path, spec: dict[str, Any]) -> None:
    with pytest.raises(InvalidManifest, match="must not be set on this machine; remove it"):
        _run(tmp_path, _manifest(**spec))


def _wait_for(path: Path) -> None:
    for _ in range(600):
        if path.exists() and path.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} was never written")
