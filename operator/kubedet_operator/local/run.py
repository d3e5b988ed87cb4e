"""Runs a DetectionJob on this machine: the operator's own decisions, with processes for pods.

The loop is the operator's: observe, decide, act. Only the world differs, so that what restarts, what fails
for good and what completes is the same here as in a cluster.
"""

from __future__ import annotations

import signal
import urllib.request
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

from rich.console import Console

from kubedet_operator import recipes
from kubedet_operator.api import conditions, names, validation
from kubedet_operator.api.conditions import ConditionType
from kubedet_operator.api.decoding import InvalidManifest, Violation
from kubedet_operator.api.status import DetectionJobStatus
from kubedet_operator.decision import decide, facts, reports
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.plan import ApplyChild, DeletePod
from kubedet_operator.local import outcome, places
from kubedet_operator.local.container import LOOPBACK, Machine, free_port
from kubedet_operator.local.documents import Documents
from kubedet_operator.local.follow import Follower, follow
from kubedet_operator.local.pods import LocalPods, now
from kubedet_operator.settings import OperatorSettings
from kubedet_trainer import contract
from kubedet_trainer.contract import ExitCode
from kubedet_trainer.contract.times import format_time

POLL_SECONDS = 0.3
"""Between two looks at the processes."""


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Where a run shows itself: its progress, and in the end its row."""

    progress: Console
    result: Console


def run_job(documents: Documents, *, output: Path, environment: Mapping[str, str], screen: Screen) -> int:
    """Run the job to its end, or until SIGINT or SIGTERM suspends it.

    Args:
        documents: the job and the Secrets that it refers to.
        output: folder for logs, work directories and, unless the job names a place, checkpoints.
        environment: what the processes inherit.
        screen: where to show what happens.

    Returns:
        0, 143 (suspended, state saved), 144 (suspended, not saved) or the exit code of the failure.

    Raises:
        InvalidManifest: the job breaks a rule of the API, or needs a cluster.
        WrongRecipe: the recipe or an override breaks a rule.
        CannotRunHere: a Secret is missing.
    """
    output = output.resolve()
    places.require_folder(output)
    manifest = localise(documents.job, output)
    job = validation.load_job(manifest)
    if fault := recipes.find_fault(job.spec):
        raise recipes.WrongRecipe(fault)
    machine = Machine(
        output=output, secrets=documents.secrets, inherited=environment, rendezvous_port=free_port()
    )
    with stop_requests() as stop, LocalPods(machine) as pods, follow(screen.progress) as follower:
        follower.say(f"{job.metadata.name}: {job.spec.recipe}, output in {output}")
        run = LocalJob(manifest, pods=pods, follower=follower)
        seen = run.until_ended(stop)
        code = _exit_code(seen.status) if has_ended(seen.status) else run.suspend(stop)
        run.wind_down(stop)
    if seen.status.results is not None:
        outcome.show_row(screen.result, recipe=job.spec.recipe, results=seen.status.results)
    elif has_ended(seen.status):
        outcome.show_failure(screen.progress, seen)
    uri = job.spec.checkpoint.storageUri if job.spec.checkpoint else ""
    outcome.show_places(screen.result, checkpoint_uri=uri, status=seen.status, output=output)
    return code


def localise(manifest: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """`manifest` as this machine's own API server would hold it: with a uid, and a URI for every place.

    Raises:
        InvalidManifest: it names a claim or another controller, which only a cluster has, or is suspended.
    """
    given = manifest.get("spec") or {}
    if not isinstance(given, Mapping):
        raise InvalidManifest([Violation(path="spec", got=given, rule="must be an object")])
    spec = places.resolve_paths(given)
    spec["checkpoint"] = spec.get("checkpoint") or {"storageUri": (output / "checkpoints").as_uri()}
    claims = list(places.find_claims(spec))
    elsewhere = [
        Violation(path=f"spec.{name}", got=spec[name], rule="must not be set on this machine; remove it")
        for name, usual in (("suspend", False), ("managedBy", names.MANAGED_BY))
        if spec.get(name, usual) != usual
    ]
    if source := facts.source_of(manifest):
        rule = "must not be set on this machine, where one job runs; use storageUri"
        elsewhere.append(Violation(path="spec.dataset.proposals.fromJob", got=source, rule=rule))
    if claims or elsewhere:
        raise InvalidManifest([*claims, *elsewhere])
    created = format_time(now())
    metadata = {"namespace": "default", **(manifest.get("metadata") or {}), "creationTimestamp": created}
    return {**manifest, "spec": spec, "metadata": {**metadata, "uid": str(uuid.uuid4())}, "status": {}}


class LocalJob:
    """One job between its start and its end."""

    def __init__(self, manifest: Mapping[str, Any], *, pods: LocalPods, follower: Follower) -> None:
        self.manifest = manifest
        """With the newest status."""
        self._pods = pods
        self._follower = follower
        self._settings = OperatorSettings()

    def until_ended(self, stop: StopRequests) -> Facts:
        """Observe, decide and act until the job has ended or shall stop; returns what was seen last."""
        while True:
            seen = self.step(acts=not stop.count)
            if has_ended(seen.status) or stop.count:
                return seen
            stop.wait(POLL_SECONDS)

    def step(self, *, acts: bool = True) -> Facts:
        """Observe, and unless the job has ended decide and act once; returns what was seen."""
        seen = self._observe()
        self._follower.update(seen.status)
        if has_ended(seen.status) or not acts:
            return seen
        plan = decide.decide(seen, self._settings)
        self.manifest = {**self.manifest, "status": plan.status}
        for action in (*plan.preparations, *plan.actions):
            if isinstance(action, ApplyChild):
                self._pods.apply(action.manifest)
            elif isinstance(action, DeletePod):
                self._pods.delete(action.name, action.uid)
        return seen

    def suspend(self, stop: StopRequests) -> int:
        """Let the workers save their state and end; the exit code says whether they have."""
        self._follower.say("suspending: the workers save their state (press again to end without saving)")
        self.stop()
        requests = stop.count
        while self.is_active() and stop.count == requests:
            stop.wait(POLL_SECONDS)
        saved = self.has_saved()
        self._follower.say(
            "saved; the same command resumes"
            if saved
            else "not saved; the same command resumes from the newest checkpoint"
        )
        return ExitCode.TERMINATED_SAVED if saved else ExitCode.TERMINATED_UNSAVED

    def stop(self) -> None:
        """Ask the workers to save their state and end."""
        self._pods.stop()

    def has_saved(self) -> bool:
        """Whether every worker has saved its state before its end."""
        codes = {pod.ending.exit_code if pod.ending else None for pod in self._observe().workers}
        return codes <= {ExitCode.DONE, ExitCode.TERMINATED_SAVED}

    def is_active(self) -> bool:
        """Whether a worker runs."""
        return any(pod.active for pod in self._observe().workers)

    def wind_down(self, stop: StopRequests) -> None:
        """End all workers as a deletion of the job does: with time to save, unless asked not to."""
        for pod in self._observe().pods:
            self._pods.delete(pod.name, pod.uid)
        requests = stop.count
        while self._pods.observe() and stop.count == requests:
            stop.wait(POLL_SECONDS)

    def _observe(self) -> Facts:
        return facts.observe(
            self.manifest,
            pods=self._pods.observe(),
            progress=_ask(self._pods.metrics_ports().values()),
            now=now(),
        )


def _ask(ports: Iterable[int]) -> contract.ProgressRecord | None:
    """The progress record of the one worker that has rank 0, or None while nobody answers."""
    for port in ports:
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/progress", timeout=1) as answer:
                record = reports.read_progress(answer.read(reports.MAX_BYTES + 1))
        except (OSError, HTTPException):
            continue
        if record is not None:
            return record
    return None


def has_ended(status: DetectionJobStatus) -> bool:
    """Whether a job is complete or has failed."""
    return any(
        conditions.is_true(status.conditions, end) for end in (ConditionType.COMPLETE, ConditionType.FAILED)
    )


def _exit_code(status: DetectionJobStatus) -> int:
    if conditions.is_true(status.conditions, ConditionType.COMPLETE):
        return ExitCode.DONE
    if status.lastFailure is not None and status.lastFailure.exitCode:
        return status.lastFailure.exitCode
    return ExitCode.UNEXPECTED


class StopRequests:
    """Counts SIGINT and SIGTERM. The second one ends without saving."""

    def __init__(self) -> None:
        self.count = 0
        self._event = Event()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self.count += 1
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond the next request."""
        self._event.wait(seconds)
        self._event.clear()


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """What counts both signals while the block runs."""
    requests = StopRequests()
    before = {number: signal.signal(number, requests) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
