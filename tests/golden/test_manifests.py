"""What the operator creates, byte for byte: each job in manifests/ beside what it becomes.

After a wanted change: ``kubedet render --uid UID --namespace detectors NAME.job.yaml > NAME.yaml``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from builders import UID
from kubedet_operator.commands.jobs import render

FOLDER = Path(__file__).resolve().parent / "manifests"
JOBS = sorted(path.name.removesuffix(".job.yaml") for path in FOLDER.glob("*.job.yaml"))


def test_there_are_goldens() -> None:
    assert {"gpu-s3", "cpu-claims"} <= set(JOBS)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_becomes_its_golden_pods(name: str) -> None:
    arguments = ["--uid", UID, "--namespace", "detectors", str(FOLDER / f"{name}.job.yaml")]
    result = CliRunner().invoke(render, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout == (FOLDER / f"{name}.yaml").read_text()
