"""Every Prometheus metric of a worker in one table, and cheap access to those of a rank.

All ranks of a worker share one server (`worker/exposition.py`). ``PROMETHEUS_MULTIPROC_DIR`` keeps their
values in memory-mapped files that only a scrape reads. Counters and histograms are summed over ranks and
restarts. The mode of a gauge says which rank's value counts: the most recent one, or the largest of the
running ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from kubedet_trainer.contract.metrics import Definition

_DURATION_BUCKETS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


TABLE: dict[str, Definition] = {
    "iterations": Definition(
        name="kubedet_trainer_iterations_total",
        kind="counter",
        help="Optimiser steps of the run. Only rank 0 records them, so sum over workers.",
    ),
    "images": Definition(
        name="kubedet_trainer_images_total",
        kind="counter",
        help="Training images that passed through the model. Sum over workers for the whole run.",
    ),
    "iteration_duration_seconds": Definition(
        name="kubedet_trainer_iteration_duration_seconds",
        kind="histogram",
        help="Seconds from the end of one iteration to the end of the next, including the wait for data.",
        buckets=_DURATION_BUCKETS,
    ),
    "data_wait_seconds": Definition(
        name="kubedet_trainer_data_wait_seconds_total",
        kind="counter",
        help="Seconds that iterations waited for a batch. Near zero unless decoding is too slow.",
    ),
    "loss": Definition(
        name="kubedet_trainer_loss",
        kind="gauge",
        help="Mean of a term of the loss over rank 0's last log interval.",
        labels=("term",),
    ),
    "learning_rate": Definition(
        name="kubedet_trainer_learning_rate", kind="gauge", help="Learning rate of the last optimiser step."
    ),
    "gpu_memory_bytes": Definition(
        name="kubedet_trainer_gpu_memory_bytes",
        kind="gauge",
        help="Memory of the caching allocator (allocated, reserved, peaks of both) and the capacity of the "
        "GPU, of the rank that uses most.",
        labels=("kind",),
        mode="livemax",
    ),
    "checkpoint_save_seconds": Definition(
        name="kubedet_trainer_checkpoint_save_seconds",
        kind="gauge",
        help="Seconds from the last copy to durable storage, next to the training.",
    ),
    "checkpoint_stall_seconds": Definition(
        name="kubedet_trainer_checkpoint_stall_seconds",
        kind="gauge",
        help="Seconds for which the training paused for the last checkpoint.",
    ),
    "checkpoint_restore_seconds": Definition(
        name="kubedet_trainer_checkpoint_restore_seconds",
        kind="gauge",
        help="Seconds to find, verify and load the checkpoint that this run resumed from.",
    ),
    "recovery_seconds": Definition(
        name="kubedet_trainer_recovery_seconds",
        kind="gauge",
        help="Seconds of each phase of the newest recovery within the worker of rank 0.",
        labels=("phase",),
    ),
    "checkpoint_bytes": Definition(
        name="kubedet_trainer_checkpoint_bytes", kind="gauge", help="Size of the last checkpoint in bytes."
    ),
    "checkpoint_failures": Definition(
        name="kubedet_trainer_checkpoint_failures_total",
        kind="counter",
        help="Attempts to save a checkpoint that failed. Each save is tried again while the training "
        "continues.",
    ),
    "forward_seconds": Definition(
        name="kubedet_trainer_forward_seconds",
        kind="gauge",
        help="Mean seconds of a forward pass over the last log interval, by rank within the worker. It waits "
        "for no other rank, so a rank far above the others is slow.",
        labels=("local_rank",),
    ),
    "last_step_timestamp_seconds": Definition(
        name="kubedet_trainer_last_step_timestamp_seconds",
        kind="gauge",
        help="UNIX time of the end of the last optimiser step. If it stops, so has the run.",
    ),
    "evaluation": Definition(
        name="kubedet_trainer_evaluation",
        kind="gauge",
        help="Figures of the last evaluation, in percent, and validationLoss, a mean loss.",
        labels=("metric",),
    ),
    "reference": Definition(
        name="kubedet_trainer_reference",
        kind="gauge",
        help="Published figures of the recipe, and the images per second that follow from them.",
        labels=("metric",),
    ),
}
"""What ranks record."""

LAUNCHER_TABLE: dict[str, Definition] = {
    "build_info": Definition(
        name="kubedet_trainer_build_info",
        kind="gauge",
        help="Always 1. The labels have the versions.",
        labels=("version", "torch", "python"),
    ),
    "worker_memory_bytes": Definition(
        name="kubedet_trainer_worker_memory_bytes",
        kind="gauge",
        help="Memory of the worker's container, including /dev/shm and loader processes: its working_set and "
        "its limit.",
        labels=("kind",),
    ),
}
"""What the launcher adds at each scrape."""


class Metrics:
    """The metrics of this process, registered once."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        made = {name: _create(definition, registry) for name, definition in TABLE.items()}
        self._gauges: dict[str, Gauge] = made
        self._counters: dict[str, Counter] = made
        self._iterations: Counter = made["iterations"]
        self._images: Counter = made["images"]
        self._duration: Histogram = made["iteration_duration_seconds"]
        self._data_wait: Counter = made["data_wait_seconds"]
        self._last_step: Gauge = made["last_step_timestamp_seconds"]

    def record_iteration(
        self, *, images: int, seconds: float, data_wait_seconds: float, end: float, is_first_rank: bool
    ) -> None:
        """Record one optimiser step of this rank. It is the only method that every iteration calls."""
        self._images.inc(images)
        self._duration.observe(seconds)
        self._data_wait.inc(data_wait_seconds)
        if is_first_rank:
            self._iterations.inc()
            self._last_step.set(end)

    def count(self, name: str) -> None:
        """Add 1 to a counter without labels."""
        self._counters[name].inc()

    def set(self, name: str, value: float) -> None:
        """Set a gauge without labels."""
        self._gauges[name].set(value)

    def set_all(self, name: str, values: Mapping[str, float]) -> None:
        """Set a gauge with one label for each of its values."""
        for label, value in values.items():
            self._gauges[name].labels(label).set(value)


def _create(definition: Definition, registry: CollectorRegistry) -> Any:
    name, text, labels = definition.name, definition.help, definition.labels
    if definition.kind == "counter":
        return Counter(name, text, labels, registry=registry)
    if definition.kind == "histogram":
        return Histogram(name, text, labels, registry=registry, buckets=definition.buckets)
    return Gauge(name, text, labels, registry=registry, multiprocess_mode=definition.mode)
