"""Lives of runs whose store, disk and process fail: no bad resume, no loss of what was committed.

``KUBEDET_SAVE_FAULTS`` says how many faults; ``KUBEDET_SAVE_SEED`` where the lives begin.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import s3

TESTS = Path(__file__).resolve().parents[2]
FAULTS = int(os.environ.get("KUBEDET_SAVE_FAULTS", "50"))
SEED = int(os.environ.get("KUBEDET_SAVE_SEED", "0"))

pytestmark = pytest.mark.timeout(300 + 2 * FAULTS)


def _live(uri: str, *arguments: str) -> dict[str, Any]:
    program = [sys.executable, str(TESTS / "save_lives.py")]
    done = subprocess.run(
        [*program, f"--faults={FAULTS}", f"--seed={SEED}", f"--uri={uri}", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.stdout, done.stderr[-3000:]
    print(done.stdout)
    verdict: dict[str, Any] = json.loads(done.stdout)
    return verdict


def _assert_sound(verdict: dict[str, Any]) -> None:
    assert (verdict["badResumes"], verdict["losses"], verdict["prunedLast"]) == ([], [], [])
    assert sum(verdict["faults"].values()) >= FAULTS
    assert verdict["saves"] > verdict["lives"] > 1


def test_nothing_is_lost_in_a_folder(tmp_path: Path) -> None:
    _assert_sound(_live(f"file://{tmp_path}/store"))


@pytest.mark.parametrize("fixture", ["s3_server", "minio_server"])
def test_nothing_is_lost_on_an_s3_server(
    fixture: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server: s3.S3Server = request.getfixturevalue(fixture)
    bucket = server.make_bucket("lives")
    with _unreliable(server, journal=tmp_path / "journal") as endpoint:
        verdict = _live(
            f"s3://{bucket}/below",
            f"--endpoint={server.endpoint}",
            f"--through={endpoint}",
            f"--journal={tmp_path / 'journal'}",
            f"--access-key={s3.ACCESS_KEY}",
            f"--secret-key={s3.SECRET_KEY}",
        )
    _assert_sound(verdict)
    assert (tmp_path / "journal").read_text()


@contextmanager
def _unreliable(server: s3.S3Server, *, journal: Path) -> Iterator[str]:
    """An endpoint behind which the server fails at times."""
    journal.touch()
    target = server.endpoint.removeprefix("http://")
    program = [sys.executable, str(TESTS / "s3_proxy.py")]
    proxy = subprocess.Popen(
        [*program, f"--journal={journal}", f"--seed={SEED}", "--chance=0.1", f"--server={target}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert proxy.stdout is not None
    with proxy:
        try:
            yield f"http://127.0.0.1:{int(proxy.stdout.readline())}"
        finally:
            proxy.kill()
