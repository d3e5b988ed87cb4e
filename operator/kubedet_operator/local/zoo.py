"""Runs a ModelZoo on this machine: the operator's own decisions, with one local run for each job.

The zoo's status is kept in a file, so that the same command continues: what has its results is not trained
again, and what was interrupted continues from its newest checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kubedet_operator.api import conditions, names
from kubedet_operator.api.conditions import ConditionType
from kubedet_operator.api.decoding import InvalidManifest, Violation
from kubedet_operator.api.zoo import decode_zoo_status
from kubedet_operator.children.page import TABLE_FILE, TABLE_FOLDER
from kubedet_operator.children.rows import RowPlan
from kubedet_operator.decision.zoo.decide import decide_zoo
from kubedet_operator.decision.zoo.facts import ParsedZoo, observe_zoo, parse_zoo
from kubedet_operator.decision.zoo.plan import CreateJob, CreatePage, DeletePage, DeleteRowJob, ZooAction
from kubedet_operator.local.container import Machine, free_port
from kubedet_operator.local.documents import Documents
from kubedet_operator.local.follow import Quiet
from kubedet_operator.local.places import require_folder, resolve_paths
from kubedet_operator.local.pods import LocalPods, now
from kubedet_operator.local.run import (
    POLL_SECONDS,
    LocalJob,
    Screen,
    StopRequests,
    has_ended,
    localise,
    stop_requests,
)
from kubedet_operator.local.table import follow_table, show_table
from kubedet_trainer import contract
from kubedet_trainer.contract import ExitCode

STATUS_FILE = "zoo.json"
"""In the output folder: the status of the zoo."""

_PORTS = 100
"""Ports between those of two jobs that run at once: two that look for a free one would find the same."""
_ONLY_IN_A_CLUSTER = ("suspend", "managedBy", "ttlSecondsAfterFinished")


@dataclass(kw_only=True)
class _Started:
    """A job and its processes."""

    job: LocalJob
    stack: ExitStack
    """Closed, it has no process any more."""
    slot: int
    has_ended: bool = False


def run_zoo(documents: Documents, *, output: Path, environment: Mapping[str, str], screen: Screen) -> int:
    """Run the zoo to its end, or until SIGINT or SIGTERM suspends it.

    Args:
        documents: the zoo and the Secrets that its jobs refer to.
        output: folder for the status, and a folder for each job.
        environment: what the processes inherit.
        screen: where to show what happens, and in the end the table.

    Returns:
        0, 143 (suspended, all states saved), 144 (suspended, not all saved) or 1 if a row failed.

    Raises:
        InvalidManifest: the zoo breaks a rule of the API, or needs a cluster.
        CannotRunHere: a Secret is missing.
    """
    output = output.resolve()
    require_folder(output)
    parsed, manifest = _read(documents.job, output)
    with stop_requests() as stop, follow_table(screen.progress) as show:
        run = _ZooRun(manifest, parsed, documents=documents, output=output, environment=environment)
        with run:
            while run.step() and not stop.count:
                show(run.status, run.progress())
                stop.wait(POLL_SECONDS)
            show(run.status, run.progress())
            code = run.suspend(stop) if run.is_unfinished else None
    status = decode_zoo_status({"status": run.status})
    show_table(screen.result, status)
    if code is not None:
        return code
    failed = conditions.is_true(status.conditions, ConditionType.FAILED)
    return ExitCode.UNEXPECTED if failed else ExitCode.DONE


def _read(given: Mapping[str, Any], output: Path) -> tuple[ParsedZoo, dict[str, Any]]:
    """The zoo as this machine's own API server would hold it: with a place for checkpoints, and its status.

    Raises:
        InvalidManifest: it breaks a rule, or asks for what only a cluster has.
    """
    spec = dict(given.get("spec") or {})
    unknown_here = [
        Violation(path=f"spec.{name}", got=spec[name], rule="must not be set on this machine; remove it")
        for name in _ONLY_IN_A_CLUSTER
        if spec.get(name) not in (None, False, names.MANAGED_BY)
    ]
    if unknown_here:
        raise InvalidManifest(unknown_here)
    template = spec.get("template")
    job = template.get("spec") if isinstance(template, Mapping) else None
    if isinstance(job, Mapping):
        place = {"storageUri": (output / "checkpoints").as_uri()}
        local = {**resolve_paths(job), **({} if job.get("checkpoint") else {"checkpoint": place})}
        spec["template"] = {**(template or {}), "spec": local}
    status = _read_status(output / STATUS_FILE)
    # The file may have changed since the last run.
    generation = (decode_zoo_status({"status": status}).observedGeneration or 0) + 1
    metadata = {"namespace": "default", **(given.get("metadata") or {})}
    metadata |= {"uid": "local", "generation": generation}
    manifest = {**given, "metadata": metadata, "spec": spec, "status": status}
    parsed = parse_zoo(manifest)
    if parsed.document is None or parsed.violations:
        raise InvalidManifest(parsed.violations)
    for row in parsed.rows:
        _refuse_what_needs_a_cluster(row, output)
    return parsed, manifest


def _read_status(file: Path) -> dict[str, Any]:
    """The status that the last run left; none without one.

    Raises:
        InvalidManifest: the file holds something else.
    """
    try:
        status = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        status = str(error)
    if not isinstance(status, dict):
        rule = "must be the status that an earlier run left; delete the file to train every row again"
        raise InvalidManifest([Violation(path=str(file), got=status, rule=rule)])
    return status


def _refuse_what_needs_a_cluster(row: RowPlan, output: Path) -> None:
    """Raise for a row whose job could not run here, before any other has begun."""
    try:
        localise({"spec": row.spec}, output)
    except InvalidManifest as error:
        wrong = (replace(item, path=f"{row.recipe}: {item.path}") for item in error.violations)
        raise InvalidManifest(tuple(wrong)) from None


class _ZooRun:
    """A zoo between its start and its end. As a context manager it leaves no process behind."""

    def __init__(
        self,
        manifest: Mapping[str, Any],
        parsed: ParsedZoo,
        *,
        documents: Documents,
        output: Path,
        environment: Mapping[str, str],
    ) -> None:
        self._manifest = manifest
        self._parsed = parsed
        self._documents = documents
        self._output = output
        self._environment = environment
        self._jobs: dict[str, _Started] = {}
        self._page_machine = Machine(
            output=output / names.page_name(manifest["metadata"]["name"]),
            secrets=documents.secrets,
            inherited=environment,
            rendezvous_port=0,
        )
        self._page_pods = LocalPods(self._page_machine)

    def __enter__(self) -> _ZooRun:
        return self

    def __exit__(self, *reason: object) -> None:
        self._page_pods.__exit__(*reason)
        for started in self._jobs.values():
            started.stack.close()

    @property
    def status(self) -> Mapping[str, Any]:
        """The newest status of the zoo."""
        status: Mapping[str, Any] = self._manifest["status"]
        return status

    @property
    def is_unfinished(self) -> bool:
        """Whether jobs run or rows are still to be trained."""
        return "completionTime" not in self.status

    def progress(self) -> dict[str, int]:
        """Percentage of the iterations by job, of those that run."""
        manifests = [started.job.manifest for started in self._running()]
        return {
            manifest["metadata"]["name"]: manifest["status"]["progress"]["percentage"]
            for manifest in manifests
            if "progress" in manifest["status"]
        }

    def step(self) -> bool:
        """Observe, decide and act once, for the zoo and for every job; whether there is more to do.

        The page belongs to it.
        """
        for started in self._running():
            if has_ended(started.job.step().status):
                started.has_ended = True
                started.stack.close()
        plan = decide_zoo(
            observe_zoo(
                self._manifest,
                jobs=[started.job.manifest for started in self._jobs.values()],
                parsed=self._parsed,
                page=next(iter(self._page_pods.observe()), None),
                now=now(),
            )
        )
        if plan.status != self.status:
            self._manifest = {**self._manifest, "status": plan.status}
            self._save()
        for action in plan.actions:
            self._act(action)
        # Nobody waits at a terminal for a page to be tried again; the same command tries it.
        has_failed = bool((self.status.get("page") or {}).get("failures"))
        return self.is_unfinished or (plan.awaits_page and not has_failed)

    def suspend(self, stop: StopRequests) -> int:
        """Let all jobs save their state and end; the exit code says whether all have."""
        unfinished = [started.job for started in self._running()]
        for job in unfinished:
            job.stop()
        requests = stop.count
        while any(job.is_active() for job in unfinished) and stop.count == requests:
            stop.wait(POLL_SECONDS)
        saved = all(job.has_saved() for job in unfinished)
        return ExitCode.TERMINATED_SAVED if saved else ExitCode.TERMINATED_UNSAVED

    def _running(self) -> list[_Started]:
        return [started for started in self._jobs.values() if not started.has_ended]

    def _act(self, action: ZooAction) -> None:
        if isinstance(action, CreateJob):
            self._start(action.manifest)
        elif isinstance(action, DeleteRowJob):
            self._jobs.pop(action.name).stack.close()
        elif isinstance(action, CreatePage):
            self._write_page(action.manifest)
        elif isinstance(action, DeletePage):
            self._page_pods.delete(action.name, action.uid)

    def _start(self, manifest: Mapping[str, Any]) -> None:
        name = manifest["metadata"]["name"]
        output = self._output / name
        taken = {started.slot for started in self._running()}
        slot = next(slot for slot in range(len(taken) + 1) if slot not in taken)
        spec = dict(manifest["spec"])
        port = (spec.get("metrics") or {}).get("port", contract.METRICS_PORT) + slot * _PORTS
        job = localise({**manifest, "spec": {**spec, "metrics": {"port": port}}}, output)
        machine = Machine(
            output=output,
            secrets=self._documents.secrets,
            inherited=self._environment,
            rendezvous_port=free_port(),
        )
        stack = ExitStack()
        pods = stack.enter_context(LocalPods(machine))
        self._jobs[name] = _Started(job=LocalJob(job, pods=pods, follower=Quiet()), stack=stack, slot=slot)

    def _write_page(self, manifest: Mapping[str, Any]) -> None:
        metadata = manifest["metadata"]
        file = self._page_machine.work_directory(metadata["name"]) / TABLE_FOLDER / TABLE_FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(metadata["annotations"][names.ZOO_TABLE])
        self._page_pods.apply(manifest)

    def _save(self) -> None:
        self._output.mkdir(parents=True, exist_ok=True)
        new = self._output / f"{STATUS_FILE}.new"
        new.write_text(json.dumps(self.status, indent=1))
        new.replace(self._output / STATUS_FILE)
