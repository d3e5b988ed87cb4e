"""A real Prometheus that holds three hours of a fleet, and promtool."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import fleet_history
from monitoring import build
from monitoring.prometheus import Prometheus, View

Promtool = Callable[..., str]


@pytest.fixture(scope="session")
def promtool(shared: Path) -> Promtool:
    """Runs promtool in a folder; a failure carries all that it said."""

    def run(*arguments: object, folder: Path = build.ROOT) -> str:
        command = [shared / "cluster" / "prometheus", "promtool", *arguments]
        done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def view() -> View:
    """The whole of the history."""
    now = time.time()
    return View(end=now, seconds=fleet_history.SECONDS, rate_seconds=4 * fleet_history.STEP)


@pytest.fixture(scope="session")
def prometheus(
    promtool: Promtool, view: View, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes nothing and knows the history of `fleet_history`."""
    folder = tmp_path_factory.mktemp("prometheus")
    fleet = fleet_history.Fleet(start=view.end - view.seconds)
    (folder / "history").write_text("\n".join([*fleet_history.write_history(fleet), ""]))
    promtool("tsdb", "create-blocks-from", "openmetrics", "history", "data", folder=folder)
    (folder / "prometheus.yml").write_text("{}")
    # Without scrapes nothing marks a series as ended; it would last for the usual five minutes.
    with _run(folder, f"--query.lookback-delta={fleet_history.STEP + 30}s") as started:
        yield started


@pytest.fixture(scope="session")
def start_prometheus(promtool: Promtool) -> Callable[[Path], AbstractContextManager[Prometheus]]:
    """Starts a Prometheus with the ``prometheus.yml`` of a folder."""
    del promtool  # it has unpacked the program
    return _run


@contextmanager
def _run(folder: Path, *options: str) -> Iterator[Prometheus]:
    home = os.environ.get("KUBEDET_CLUSTER_HOME") or Path.home() / ".cache" / "kubedet-cluster"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [Path(home, "prometheus/usr/bin/prometheus"), "--config.file=prometheus.yml"]
    command += ["--storage.tsdb.path=data", f"--web.listen-address={address}", *options]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(word) for word in command], cwd=folder, stdout=log, stderr=log)
    try:
        _await(f"http://{address}/-/ready", folder / "log")
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(timeout=20)


def _await(address: str, log: Path) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.1)
