"""The port of a worker: metrics of all processes, progress, health."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubedet_trainer.errors import UsageError
from kubedet_trainer.worker import exposition

RANK = """
from prometheus_client import Counter, Gauge
Counter("kubedet_trainer_images_total", "Images.").inc({images})
Gauge("kubedet_trainer_learning_rate", "Rate.", multiprocess_mode="livemax").set(0.5)
"""


@pytest.fixture
def work_directory(tmp_path: Path) -> Path:
    (tmp_path / "metrics").mkdir()
    return tmp_path


@pytest.fixture
def address(work_directory: Path) -> Iterator[str]:
    with exposition.serve(work_directory, port=0) as port:
        yield f"http://127.0.0.1:{port}"


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def status_of(url: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(url)
    caught.value.close()
    return int(caught.value.code)


def test_one_page_has_the_metrics_of_all_ranks_and_the_build(address: str, work_directory: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(work_directory / "metrics")}
    for images in (3, 4):
        subprocess.run([sys.executable, "-c", RANK.format(images=images)], env=environment, check=True)
    page = get(f"{address}/metrics")
    assert "kubedet_trainer_images_total 7.0" in page
    assert "kubedet_trainer_build_info{" in page
    assert "# TYPE kubedet_trainer_images_total counter" in page


def test_gauges_of_ended_processes_disappear(address: str, work_directory: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(work_directory / "metrics")}
    subprocess.run([sys.executable, "-c", RANK.format(images=1)], env=environment, check=True)
    assert list((work_directory / "metrics").glob("gauge_livemax_*.db"))
    page = get(f"{address}/metrics")
    assert "kubedet_trainer_learning_rate" not in page
    assert "kubedet_trainer_images_total 1.0" in page


def test_progress_is_the_file_of_rank_0_or_404_without_one(address: str, work_directory: Path) -> None:
    assert status_of(f"{address}/progress") == 404
    (work_directory / "progress.json").write_text('{"progress":{"stage":"Training"}}')
    assert get(f"{address}/progress") == '{"progress":{"stage":"Training"}}'


def test_health_answers_and_unknown_paths_do_not(address: str) -> None:
    assert get(f"{address}/healthz") == "ok\n"
    assert status_of(f"{address}/") == 404


def test_taken_port_is_named(work_directory: Path) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        expected = rf"KUBEDET_METRICS_PORT: got {port}, must be a free port"
        with pytest.raises(UsageError, match=expected), exposition.serve(work_directory, port=port):
            pytest.fail("the port was taken")


def test_port_is_free_again_afterwards(work_directory: Path) -> None:
    with exposition.serve(work_directory, port=0) as port:
        pass
    with exposition.serve(work_directory, port=port) as again:
        assert again == port
