"""Whatever is hit, however and whenever: the job ends as if nothing had been, and is charged as it must be.

Each run plays a tenth of the matrix in `chaos_cells`, drawn by a seed that it prints. `KUBEDET_CHAOS_SEED`
sets it, and `KUBEDET_CHAOS_CELLS` the cells: ``all``, or a list such as ``rank/KILL/save, S3/cut``.
`KUBEDET_CHAOS_LANES` worlds play them side by side, mostly waiting.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from chaos_cells import (
    FAULTS,
    KNOWN_FAULTS,
    MEANS,
    PHASES,
    TARGETS,
    WITHOUT_SENSE,
    Cell,
    Life,
    all_cells,
    draw_cells,
    plan,
)
from pod_network import ISOLATE
from throwaway import run

TESTS = Path(__file__).resolve().parents[2]
SEED = int(os.environ.get("KUBEDET_CHAOS_SEED") or random.randrange(2**32))
CHOICE = os.environ.get("KUBEDET_CHAOS_CELLS", "")
LANES = int(os.environ.get("KUBEDET_CHAOS_LANES", "2"))


def test_the_table_says_something_about_every_cell() -> None:
    assert FAULTS.keys() | WITHOUT_SENSE.keys() == set(product(TARGETS, MEANS))
    assert not FAULTS.keys() & WITHOUT_SENSE.keys()
    assert set(KNOWN_FAULTS) <= set(all_cells())
    assert Counter(cell for life in plan(all_cells()) for cell in life.cells) == Counter(all_cells())


def test_a_draw_has_a_tenth_of_the_cells_and_another_seed_has_others() -> None:
    drawn = [draw_cells(seed) for seed in range(40)]
    assert all(
        len(all_cells()) // 10 <= len(cells) <= len(all_cells()) // 10 + len(PHASES) for cells in drawn
    )
    assert {cell for cells in drawn for cell in cells} == set(all_cells())


@pytest.mark.cluster
@pytest.mark.torchrun
@pytest.mark.timeout(7200)
def test_a_job_that_is_hit_ends_like_one_that_is_not(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _require_namespaces()
    cells = _chosen()
    with capsys.disabled():
        print(f"\nKUBEDET_CHAOS_SEED={SEED}: {len(cells)} of {len(all_cells())} cells", flush=True)
        longest_first = sorted(plan(cells), key=lambda life: not life.fault.stands_still)
        verdicts = _play(longest_first, kit=shared / "cluster", folder=tmp_path)
        for (target, means), reason in WITHOUT_SENSE.items():
            print(f"not played: {target} / {means}: {reason}")
        print(_row("cell", "seconds", "attempts", "process", "budget", "verdict"))
        for verdict in verdicts:
            print(_line(verdict))
    assert {Cell(*verdict["cell"]) for verdict in verdicts} == set(cells)
    failed = {Cell(*verdict["cell"]) for verdict in verdicts if verdict["faults"]}
    assert failed == KNOWN_FAULTS.keys() & set(cells)


def _chosen() -> list[Cell]:
    if CHOICE == "all":
        return all_cells()
    if CHOICE:
        wanted = [tuple(part.strip() for part in text.split("/")) for text in CHOICE.split(",")]
        found = [cell for cell in all_cells() if any(cell[: len(start)] == start for start in wanted)]
        assert found, f"KUBEDET_CHAOS_CELLS: got {CHOICE}, must begin like {all_cells()[0]}"
        return found
    return draw_cells(SEED)


def _play(lives: Sequence[Life], *, kit: Path, folder: Path) -> list[dict[str, Any]]:
    """The verdicts of lives, which worlds side by side play."""
    lanes, clusters = [], [f"kubedet-chaos-{os.getpid()}-{number}" for number in range(LANES)]
    for number, cluster in enumerate(clusters):
        place = folder / f"lane-{number}"
        place.mkdir()
        cells = [cell for life in lives[number::LANES] for cell in life.cells]
        (place / "cells.json").write_text(json.dumps(cells))
        words = [sys.executable, str(TESTS / "chaos_matrix.py"), f"--kit={kit}", f"--folder={place}"]
        words += [f"--name={cluster}", f"--cells={place / 'cells.json'}"]
        with (place / "verdicts").open("wb") as verdicts, (place / "log").open("wb") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            lanes.append(subprocess.Popen([*ISOLATE, *words], stdout=verdicts, stderr=log, env=environment))
    try:
        codes = [lane.wait() for lane in lanes]
    finally:
        for lane, cluster in zip(lanes, clusters, strict=True):
            lane.kill()
            lane.wait()
            run(kit / "down", "--name", cluster)  # of a lane that was killed
    logs = [(folder / f"lane-{number}" / "log").read_text()[-3000:] for number in range(LANES)]
    assert not any(codes), "\n".join(logs)
    written = [(folder / f"lane-{number}" / "verdicts").read_text() for number in range(LANES)]
    return [json.loads(line) for text in written for line in text.splitlines()]


def _line(verdict: dict[str, Any]) -> str:
    cell = Cell(*verdict["cell"])
    known = KNOWN_FAULTS.get(cell)
    says = "; ".join(verdict["faults"]) or "well"
    return _row(
        str(cell),
        verdict["seconds"],
        verdict["attempts"],
        verdict["process_restarts"],
        f"{verdict['budget'][0]} application, {verdict['budget'][1]} infrastructure",
        f"{says} (known: {known})" if known else says,
    )


def _row(cell: object, *columns: object) -> str:
    return "  ".join([f"{cell!s:36}", *(f"{column!s:>8}" for column in columns)])


def _require_namespaces() -> None:
    """Skip where this user may not make a network of its own."""
    missing = [program for program in ("unshare", "ip") if shutil.which(program) is None]
    done = None if missing else subprocess.run([*ISOLATE, "true"], capture_output=True, text=True)
    if done is not None and done.returncode == 0:
        return
    why = f"{' and '.join(missing)} absent" if done is None else done.stderr.strip()
    reason = f"no network namespaces: {why}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
