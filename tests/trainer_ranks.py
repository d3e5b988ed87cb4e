"""Starts real ranks of a tiny detector on generated shapes, with or without a launcher and an agent."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ITERATIONS = 40
TINY = {
    "data.scale": "96,64",
    "data.images_per_process": "2",
    "data.num_workers": "1",
    "global_batch": "4",
    "schedule.epochs": "4",
    "schedule.decay_epochs": "3",
    "schedule.warmup_iterations": "5",
    "model.backbone.stem_channels": "8",
    "model.neck.channels": "16",
    "model.rpn_head.num_samples": "16",
    "model.rpn_head.nms_pre": "16",
    "model.rpn_head.nms_post": "16",
    "model.rpn_head.num_proposals": "16",
    "model.box_head.fc_channels": "16",
    "model.box_head.num_samples": "8",
}
"""40 training images in batches of 4 over 4 epochs make `ITERATIONS` iterations."""


DATASET = "synthetic://shapes?images=40&val_images=6&size=96x64"


@dataclass(kw_only=True)
class Job:
    """One run in a folder of its own."""

    folder: Path
    overrides: Mapping[str, str | None] = field(default_factory=dict)
    """None leaves one of the usual overrides out."""
    environment: Mapping[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def all_overrides(self) -> dict[str, str]:
        """What makes the detector tiny, and the job's own."""
        given = {**TINY, **self.overrides}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def start(self, *, world_size: int = 1) -> list[subprocess.Popen[bytes]]:
        """Start all ranks without an agent, so that nothing but the rank itself decides how it ends."""
        self.work.mkdir(parents=True, exist_ok=True)
        ranks = []
        port = _free_port()
        for rank in range(world_size):
            group = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            with (self.folder / f"rank-{rank}.log").open("ab") as log:
                ranks.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "kubedet_trainer"],
                        env={**os.environ, **self._variables(), **(group if world_size > 1 else {})},
                        stdout=log,
                        stderr=log,
                    )
                )
        self.started += ranks
        return ranks

    def launch(self) -> subprocess.Popen[bytes]:
        """Start a whole worker: PID 1, its agent and its ranks."""
        self.folder.mkdir(parents=True, exist_ok=True)
        message = {"KUBEDET_TERMINATION_MESSAGE_PATH": str(self.folder / "termination")}
        with (self.folder / "rank-0.log").open("ab") as log:
            launcher = subprocess.Popen(
                [sys.executable, "-m", "kubedet_trainer.worker.launch"],
                env={**os.environ, **self._variables(), **message},
                stdout=log,
                stderr=log,
            )
        self.started.append(launcher)
        return launcher

    def find_rank(self, rank: int, *, launcher: subprocess.Popen[bytes]) -> int:
        """The process id of a rank that `launcher` has started."""
        running = set(_descendants(launcher.pid))
        for beats in (self.work / "heartbeats" / "touched").glob(f"{rank}.*"):
            if (pid := int(beats.suffix[1:])) in running:
                return pid
        raise AssertionError(f"rank {rank} does not run")

    def run(self, *, world_size: int = 1) -> list[int]:
        """Start all ranks and wait for their exit codes."""
        return [rank.wait(timeout=240) for rank in self.start(world_size=world_size)]

    def log(self, rank: int = 0) -> str:
        return (self.folder / f"rank-{rank}.log").read_text(errors="replace")

    def failure(self, rank: int = 0) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.work / f"failures/rank-{rank}.json").read_text())
        return document

    def state(self, iteration: int) -> dict[str, Any]:
        file = self.checkpoints / f"step-{iteration:08d}" / "state.pt"
        document: dict[str, Any] = torch.load(file, weights_only=True)
        return document

    def steps(self) -> list[int]:
        """The iterations of all committed checkpoints."""
        found = self.checkpoints.glob("step-*/manifest.json")
        return sorted(int(path.parent.name.removeprefix("step-")) for path in found)

    def wait_for(
        self, condition: Callable[[], bool], *, rank: subprocess.Popen[bytes], seconds: float = 120
    ) -> None:
        """Wait until `condition` holds, while `rank` lives."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert rank.poll() is None, self.log()[-3000:]
            assert time.monotonic() < deadline, self.log()[-3000:]
            time.sleep(0.01)

    def iteration(self) -> int:
        """The iteration in the progress record; 0 before there is one."""
        try:
            iteration: int = json.loads((self.work / "progress.json").read_text())["progress"]["iteration"]
        except FileNotFoundError:
            return 0
        return iteration

    def stop_all(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()

    def _variables(self) -> dict[str, str]:
        return {
            "KUBEDET_RECIPE": "smoke_faster_rcnn",
            "KUBEDET_OVERRIDES": json.dumps(self.all_overrides),
            "KUBEDET_DATASET_URI": DATASET,
            "KUBEDET_CHECKPOINT_URI": self.checkpoints.as_uri(),
            "KUBEDET_CHECKPOINT_INTERVAL_ITERATIONS": "20",
            "KUBEDET_CHECKPOINT_KEEP_LAST": "10",
            "KUBEDET_EVALUATE_EVERY_EPOCHS": "2",
            "KUBEDET_WORK_DIRECTORY": str(self.work),
            "OMP_NUM_THREADS": "1",
            **self.environment,
        }


def _descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            yield child
            yield from _descendants(child)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
