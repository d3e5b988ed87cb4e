"""Three hours of a small fleet, told by the code's own collectors and metrics, as OpenMetrics for promtool.

Only the values are made up: names, labels and kinds come out of the classes that expose them in a cluster.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily

import dcgm_exporter
import fleet_zoos
from dcgm_exporter import Gpu
from kubedet_operator.api import names
from kubedet_operator.telemetry.job_metrics import JOB_TABLE
from kubedet_operator.telemetry.metrics import Metrics as OperatorMetrics
from kubedet_trainer import contract
from kubedet_trainer.contract.times import format_unix_time
from kubedet_trainer.telemetry.metrics import LAUNCHER_TABLE
from kubedet_trainer.telemetry.metrics import Metrics as TrainerMetrics

SECONDS = 3 * 3600
STEP = 60
JOB = "mask-r50"
NAMESPACE = "vision"
GPUS = 8
_ITERATION = 0.4
_OPERATOR = {
    "job": "kubedet-operator",
    "instance": "10.0.0.2:8080",
    "namespace": "kubedet",
    "pod": "operator-a",
}
_FAILED_AT = 5400
_HUNG_AT = SECONDS - 600
ENDED = "mask-done"
"""A job that has ended."""
RESULTS = {
    "boxAP": 37.4,
    "maskAP": 34.0,
    "memoryGB": 3.4,
    "secondsPerIteration": 0.41,
    "reference": {"boxAP": 37.3, "maskAP": 34.2, "memoryGB": 3.8, "secondsPerIteration": 0.43},
}
_TIME_PHASES = ("pending", "starting", "restoring", "training", "data_wait", "checkpoint_stall", "evaluating")


@dataclass
class Fleet:
    """What the operator and the workers of its jobs tell as time passes."""

    start: float
    operator: OperatorMetrics = field(default_factory=OperatorMetrics)
    workers: list[CollectorRegistry] = field(
        default_factory=lambda: [CollectorRegistry(), CollectorRegistry()]
    )
    gpus: list[list[Gpu]] = field(default_factory=lambda: [_machine(number) for number in range(3)])
    """Of each machine."""
    elapsed: float = 0

    def __post_init__(self) -> None:
        self.operator.expose(jobs=self.jobs, zoos=self.zoos, clock=lambda: datetime.now(UTC))
        self._trainers = [TrainerMetrics(registry) for registry in self.workers]
        for trainer in self._trainers[:1]:
            trainer.set_all("reference", {"boxAP": 37.3, "imagesPerSecond": 40.0, "secondsPerIteration": 0.4})
        for registry in self.workers:
            registry.register(_Launcher())

    def jobs(self) -> list[dict[str, Any]]:
        """The manifests of now: one trains, one waits in a queue, one came late, some are of a zoo."""
        late: dict[str, Any] = {
            "phase": "Running" if self.elapsed > 6000 else "Initializing",
            "workers": {"active": 1},
        }
        if self.elapsed >= _HUNG_AT:
            hang = {"time": self._time(_HUNG_AT), "class": "Application", "reason": "Hang", "exitCode": 152}
            late["failureHistory"] = [{**hang, "node": "gpu-node-1"}]
        of_zoo: dict[str, Any] = {
            "phase": "Running",
            "workers": {"active": 1},
            "gpuSeconds": GPUS * self.elapsed,
            "reason": "WorkerMissing",
            "progress": {"stage": "Training", "percentage": 12, "estimatedRemainingSeconds": 9000},
        }
        return [
            self._manifest(NAMESPACE, JOB, self._training()),
            self._manifest(NAMESPACE, "retina-r101", {"phase": "Queued", "reason": "Unschedulable"}),
            self._manifest("robots", "ssd300", late),
            self._manifest("robots", ENDED, {"phase": "Succeeded", "results": RESULTS}),
            self._manifest(NAMESPACE, "nightly-retinanet-r50", of_zoo, zoo=fleet_zoos.NAME),
        ]

    def zoos(self) -> list[dict[str, Any]]:
        """The manifests of now: one zoo, of which all rows but the last have ended in the end."""
        return [fleet_zoos.build_zoo(NAMESPACE, share=self.elapsed / SECONDS)]

    def advance(self) -> None:
        """Let a minute pass."""
        self.elapsed += STEP
        metrics = self.operator
        metrics["queue_depth"].set(self.elapsed % 240 / 60)
        metrics["event_loop_lag"].set(0.002)
        metrics["leader"].set(1)
        metrics["watch_age"].labels("pods").set(self.elapsed % 50)
        metrics["api_requests"].labels("PUT", "detectionjobs", "200").inc(6)
        metrics["reconcile_errors"].labels("Unexpected").inc(0)
        for number in range(20):
            metrics["reconcile_duration"].observe(0.004 + 0.002 * number)
        if self.elapsed % 1800 == 0:
            metrics["time_to_running"].observe(42)
            metrics["finished"].labels("Complete").inc()
        if self.elapsed == _FAILED_AT:
            metrics["restarts"].labels("Infrastructure").inc()
            metrics["recovery"].labels("Infrastructure").observe(75)
        for index, trainer in enumerate(self._trainers):
            self._train(trainer, index)

    def samples(self) -> Iterator[str]:
        """A line of OpenMetrics for every sample of now."""
        yield from _lines(self.operator.registry, _OPERATOR, self.start + self.elapsed)
        for index, registry in enumerate(self.workers):
            target = {
                "job": "kubedet-workers",
                "instance": f"10.0.1.{index}:9091",
                "namespace": NAMESPACE,
                "pod": f"{JOB}-worker-{index}",
                "name": JOB,
            }
            yield from _lines(registry, target, self.start + self.elapsed)
        for number, machine in enumerate(self.gpus):
            for line in dcgm_exporter.expose(machine):
                if not line.startswith("#"):
                    labels, value = line.rsplit(" ", 1)
                    address = f'job="dcgm",instance="10.0.2.{number}:9400"'
                    yield f"{labels.replace('{', '{' + address + ',')} {value} {self.start + self.elapsed}"
        # Fed by hand: the operator accounts for time over a job's real life.
        shares = dict(zip(_TIME_PHASES, (0, 0.02, 0.01, 0.8, 0.07, 0.03, 0.07), strict=True))
        for phase, share in shares.items():
            labels = f'namespace="{NAMESPACE}",name="{JOB}",phase="{phase}"'
            name, moment = JOB_TABLE["time"].name, self.start + self.elapsed
            yield f"{name}{{{labels}}} {share * self.elapsed} {moment}"

    def _training(self) -> dict[str, Any]:
        share = self.elapsed / SECONDS
        status: dict[str, Any] = {
            "phase": "Restarting" if 0 <= self.elapsed - _FAILED_AT < 120 else "Running",
            "workers": {"active": 2},
            "restarts": {"infrastructure": int(self.elapsed >= _FAILED_AT)},
            "gpuSeconds": 2 * GPUS * self.elapsed,
            "progress": {
                "stage": "Evaluating" if self.elapsed % 3600 > 3300 else "Training",
                "epoch": int(12 * share),
                "percentage": int(100 * share),
                "estimatedRemainingSeconds": SECONDS - self.elapsed,
            },
            "checkpoint": {"time": self._time(self.elapsed - self.elapsed % 600)},
            "straggler": {
                "rank": 2 * GPUS - 1,
                "pod": f"{JOB}-worker-1",
                "node": "gpu-node-1",
                "ratio": 1.67,
                "since": self._time(STEP),
            },
        }
        if self.elapsed >= _FAILED_AT:
            failed = self._time(_FAILED_AT)
            until = self._time(2 * SECONDS)
            node = {"name": "gpu-node-1", "mode": "Required", "reason": "NodeLost", "until": until}
            status["excludedNodes"] = [node]
            status["lastFailure"] = {"class": "Infrastructure", "reason": "NodeLost", "time": failed}
        return status

    def _train(self, trainer: TrainerMetrics, index: int) -> None:
        for _ in range(int(STEP / _ITERATION)):
            trainer.record_iteration(
                images=8,
                seconds=_ITERATION,
                data_wait_seconds=0.02 * (index + 1),
                end=self.start + self.elapsed,
                is_first_rank=index == 0,
            )
        gigabyte = 2**30
        kinds = {
            "allocated": 4.0,
            "reserved": 6.5,
            "peak_allocated": 5.8,
            "peak_reserved": 6.6,
            "capacity": 80.0,
        }
        trainer.set_all("gpu_memory_bytes", {kind: value * gigabyte for kind, value in kinds.items()})
        slow = {"7": 0.16 + 0.09 * (index == 1)}
        trainer.set_all("forward_seconds", {str(rank): 0.15 for rank in range(GPUS)} | slow)
        if index:
            return
        share = self.elapsed / SECONDS
        trainer.set_all(
            "loss", {term: math.exp(-2 * share) / n for n, term in enumerate(("loss_cls", "loss_mask"), 1)}
        )
        trainer.set("learning_rate", 0.02 if share < 0.7 else 0.002)
        boxes = {"": 37.0, "50": 59.0, "75": 40.0, "s": 21.0, "m": 41.0, "l": 49.0}
        figures = {f"boxAP{part}": value * share for part, value in boxes.items()}
        masks = {f"maskAP{part}": 0.92 * value * share for part, value in boxes.items()}
        trainer.set_all("evaluation", {**figures, **masks, "validationLoss": 1.4 - share / 2})
        for name, value in (("save", 9.0), ("stall", 1.5), ("restore", 12.0)):
            trainer.set(f"checkpoint_{name}_seconds", value)
        trainer.set("checkpoint_bytes", 355e6)
        trainer.set_all("recovery_seconds", {phase.value: 0.4 for phase in contract.RecoveryPhase})

    def _manifest(
        self, namespace: str, name: str, status: dict[str, Any], *, zoo: str = ""
    ) -> dict[str, Any]:
        owner = {"kind": names.ZOO_KIND, "name": zoo, "uid": f"uid-{zoo}", "controller": True}
        return {
            "metadata": {
                "namespace": namespace,
                "name": name,
                "creationTimestamp": self._time(0),
                "ownerReferences": [owner] if zoo else [],
            },
            "spec": {
                "recipe": "mask_rcnn_r50_fpn_1x",
                "worker": {"gpus": GPUS},
                "checkpoint": {"intervalSeconds": 600},
                "schedulingPolicy": {"queue": f"{namespace}-queue"},
            },
            "status": status,
        }

    def _time(self, elapsed: float) -> str:
        return format_unix_time(self.start + elapsed)


class _Launcher:
    """What the launcher of a worker tells beside its ranks."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        values: dict[str, list[tuple[str, ...]]] = {
            "build_info": [("0.1.0", "2.9.0", "3.11.2")],
            "worker_memory_bytes": [("working_set",), ("limit",)],
        }
        for name, definition in LAUNCHER_TABLE.items():
            family = GaugeMetricFamily(definition.name, definition.help, labels=definition.labels)
            for number, labels in enumerate(values[name], 1):
                family.add_metric(labels, number if name == "build_info" else number * 20 * 2**30)
            yield family


def write_history(fleet: Fleet) -> Iterator[str]:
    """The lines of the whole history."""
    while fleet.elapsed < SECONDS:
        fleet.advance()
        yield from fleet.samples()
    yield "# EOF"


def _machine(number: int) -> list[Gpu]:
    """Two machines with a worker of the job each, and one with a notebook and free GPUs."""
    if number < 2:
        pod = f"{JOB}-worker-{number}"
        gpus = [
            Gpu(host=f"gpu-node-{number}", index=i, utilisation=90 + i, namespace=NAMESPACE, pod=pod)
            for i in range(GPUS)
        ]
        if number:
            gpus[3].utilisation = 2
            gpus[5].xid, gpus[5].remapped = 63, 1
        return gpus
    notebook = Gpu(host="gpu-node-2", index=0, namespace="people", pod="notebook-0", utilisation=7)
    return [notebook, *(Gpu(host="gpu-node-2", index=i) for i in range(1, GPUS))]


def _lines(registry: CollectorRegistry, target: dict[str, str], moment: float) -> Iterable[str]:
    for family in registry.collect():
        if family.name == JOB_TABLE["time"].name.removesuffix("_total"):
            continue
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in {**target, **sample.labels}.items())
            yield f"{sample.name}{{{labels}}} {sample.value} {moment}"
