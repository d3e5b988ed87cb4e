"""What kubedet does on this machine's GPU, in under four minutes and without network: figures, then a table.

Speed: the loop's own step (copies, forward, backward, clipping, fused update, DDP of one rank) of six recipes
on generated images in each precision: seconds, images a second, peak memory, and how often the host waits,
beside the zoo's page, whose figures are of eight V100. Checks: small detectors of all architectures stay
finite in every precision; losses and gradient norm are those of the CPU; a deterministic run that resumes is
the run that did not stop, twice; detections are those of the CPU; an evaluation ends with figures. Last
come the same steps with `compile: true`, as many as there is time for: graphs take some.

    python benchmarks/gpu.py [--steps 20] [--seconds 225] [--output gpu.json] [RECIPE ...]

Other processes (`gpu_tasks.py`, in the same folder) do the work. One that fails, crashes or hangs costs its
own figure, and all are killed when the time is over. With ``--device cpu`` the script rehearses the same on
small detectors, with graphs but without inductor; CI does so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubedet_trainer.contract.catalogue import SMOKE_NAMES

RECIPES = (
    "faster_rcnn_r50_fpn_1x",
    "mask_rcnn_r50_fpn_1x",
    "cascade_rcnn_r50_fpn_1x",
    "retinanet_r50_fpn_1x",
    "faster_rcnn_mdpool_r50_fpn_1x",
    "ssd300_coco",
)
SMALL = tuple(name for name in SMOKE_NAMES if "fast_" not in name)
"""Small detectors that need no proposals of another one."""

_TASK_SECONDS = 90.0
"""How long one figure may take; the graphs of a detector take most of it."""
_POLL_SECONDS = 0.1
_PARTS = ("speed", "compiled", "checks")
"""Of the figures, each a list of rows."""


def list_tasks(names: Sequence[str], *, on_gpu: bool) -> list[str]:
    """Kind, recipe and precision of all that is measured and checked, the most important ones first."""
    measured = ("tf32", "bf16", "fp32") if on_gpu else ("fp32",)
    precisions = ("fp32", "tf32", "bf16", "fp16") if on_gpu else ("fp16",)
    small = SMALL if on_gpu else SMALL[:2]
    return [
        *(f"speed {name} {precision}" for name in names for precision in measured),
        *(f"finite {name} {precision}" for name in small for precision in precisions),
        *(f"cpu {name} fp32" for name in small),
        *["resume smoke_mask_rcnn tf32"] * (2 if on_gpu else 1),
        "use smoke_faster_rcnn fp32",
        *(f"compiled {name} {precision}" for precision in measured for name in names),
    ]


# --------------------------------------------------------------------------- processes


@dataclass(frozen=True, kw_only=True)
class Supervisor:
    """Has tasks done by processes that are killed where they take too long."""

    command: Sequence[str]
    """Starts one; the tasks follow. It appends a line of JSON to `notes` at its start and after each."""
    notes: Path
    end: float
    """Steady time at which all must be over."""
    task_seconds: float = _TASK_SECONDS

    def run(self, tasks: Sequence[str]) -> list[dict[str, Any]]:
        """What the processes noted; without the tasks that there was no time for."""
        while (left := tasks[self._count() :]) and time.monotonic() < self.end:
            failure = self._start(left)
            if failure is None:
                continue
            if not self.notes.exists():
                raise SystemExit(f"a process of {self.command[1]} {failure} before its first task")
            lost = tasks[self._count()]
            note = {"task": lost, "checks": [{"check": lost, "passed": False, "error": failure}]}
            with self.notes.open("a") as notes:
                print(json.dumps(note), file=notes)
        return self._read()

    def _start(self, tasks: Sequence[str]) -> str | None:
        """Run a process; returns what became of it if it ended in the middle of a task."""
        process = subprocess.Popen([*self.command, *tasks], start_new_session=True)
        try:
            return self._watch(process)
        finally:
            with suppress(ProcessLookupError):  # with all that it has started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _watch(self, process: subprocess.Popen[bytes]) -> str | None:
        first = done = self._count()
        begun = time.monotonic()
        while (now := time.monotonic()) < self.end:
            code = process.poll()
            if (count := self._count()) > done:
                done, begun = count, now
            if code is not None:
                has_noted = code in (0, 1) and done > first
                return None if has_noted else f"ended with code {code}"
            if now - begun > self.task_seconds:
                return f"took longer than {self.task_seconds:g} s"
            time.sleep(_POLL_SECONDS)
        return None

    def _read(self) -> list[dict[str, Any]]:
        lines = self.notes.read_text().splitlines(keepends=True) if self.notes.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _count(self) -> int:
        """How many tasks are done."""
        return sum("task" in note for note in self._read())


def collect(notes: Sequence[dict[str, Any]], *, tasks: Sequence[str]) -> dict[str, Any]:
    """All figures, and which tasks there was no time for."""
    machine: dict[str, str] = next((note["machine"] for note in notes if "machine" in note), {})
    parts = {part: [row for note in notes for row in note.get(part, [])] for part in _PARTS}
    done = sum("task" in note for note in notes)
    return {"benchmark": "gpu", **machine, **parts, "missing": list(tasks[done:])}


# --------------------------------------------------------------------------- the table


def print_table(figures: dict[str, Any]) -> None:
    """The figures for a person, and what failed."""
    print(f"\n{figures.get('device')}, driver {figures.get('driver')}, torch {figures.get('torch')}")
    columns = f"{'recipe':34} {'':5} {'s/iter':>8} {'img/s':>8} {'alloc':>6} {'reserv':>6} {'waits':>6}"
    print(f"{columns} {'2019 s':>7} {'2019 GB':>8} {'compiled':>8} {'alloc':>6} {'graphs s':>8}")
    compiled = {(row["recipe"], row["precision"]): row for row in figures["compiled"]}
    for row in figures["speed"]:
        page = row["page"]
        theirs = f"{page.get('secondsPerIteration', '-'):>7} {page.get('memoryGB', '-'):>8}"
        waits = "-" if row["synchronisations"] is None else row["synchronisations"]
        print(
            f"{row['recipe']:34} {row['precision']:5} {row['seconds_per_iteration']:8.4f} "
            f"{row['images_per_second']:8.2f} {row['peak_allocated_gib']:6.2f} "
            f"{row['peak_reserved_gib']:6.2f} {waits:>6} {theirs} "
            f"{_describe_compiled(compiled.get((row['recipe'], row['precision'])))}"
        )
    failed = [check for check in figures["checks"] if not check["passed"]]
    print(f"checks: {len(figures['checks']) - len(failed)} passed, {len(failed)} failed")
    for check in failed:
        print(f"  {check}")
    if figures["missing"]:
        print(f"no time for {len(figures['missing'])}: {'; '.join(figures['missing'])}")


def _describe_compiled(row: dict[str, Any] | None) -> str:
    """The columns of a row with compilation, empty where there was no time for it."""
    if row is None:
        return f"{'-':>8} {'-':>6} {'-':>8}"
    if row["obstacle"] is not None:
        return f"failed: {row['obstacle']}"
    seconds, peak = row["seconds_per_iteration"], row["peak_allocated_gib"]
    return f"{seconds:8.4f} {peak:6.2f} {row['compile_seconds']:8.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and check everything. Returns 1 if a check failed, or was not reached."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="whose speed is measured")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses")
    parser.add_argument("--steps", type=int, default=20, help="training steps that are timed")
    parser.add_argument("--seconds", type=float, default=225, help="after which nothing runs any longer")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="file for the figures")
    given = parser.parse_args(arguments)
    on_gpu = given.device == "cuda"
    tasks = list_tasks(given.recipes or (RECIPES if on_gpu else SMALL[:1]), on_gpu=on_gpu)
    with tempfile.TemporaryDirectory(prefix="kubedet-gpu-", ignore_cleanup_errors=True) as folder:
        notes = Path(folder, "notes.jsonl")
        command = [sys.executable, str(Path(__file__).with_name("gpu_tasks.py"))]
        command += ["--device", given.device, "--steps", str(given.steps)]
        command += ["--folder", folder, "--notes", str(notes)]
        supervisor = Supervisor(command=command, notes=notes, end=started + given.seconds)
        figures = collect(supervisor.run(tasks), tasks=tasks)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(figures, indent=2))
    print_table(figures)
    needed = [task for task in figures["missing"] if not task.startswith("compiled ")]
    return int(bool(needed) or not all(check["passed"] for check in figures["checks"]))


if __name__ == "__main__":
    raise SystemExit(main())
