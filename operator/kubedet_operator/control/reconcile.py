"""Observe, decide, write the status, act: one job at a time, from whatever state it is in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kubedet_operator import recipes
from kubedet_operator.api import names, types
from kubedet_operator.api.conditions import Reason
from kubedet_operator.children.environment import has_peers
from kubedet_operator.children.service import build_service
from kubedet_operator.cluster import errors
from kubedet_operator.cluster.cache import Cache, Key, read_shape
from kubedet_operator.cluster.client import Cluster
from kubedet_operator.cluster.events import Events
from kubedet_operator.control.attempts import Attempts
from kubedet_operator.control.report import Reporter
from kubedet_operator.control.rounds import ParsedSpecs, carry_out_all, find_rejection
from kubedet_operator.control.workqueue import WorkQueue
from kubedet_operator.decision import facts
from kubedet_operator.decision.decide import confess, decide
from kubedet_operator.decision.plan import Action, ApplyChild, DeletePod, Plan
from kubedet_operator.settings import OperatorSettings
from kubedet_operator.telemetry.health import RECONCILIATION, Health
from kubedet_operator.telemetry.metrics import Metrics

GATHER_SECONDS = 0.5
"""What happens to the pods of a job within this time is looked at together: one decision, one status."""

MINOR_SECONDS = 10.0
"""How long a change of a status waits for the next write that turns nothing and moves the progress by less
than 1 %."""

COMPANY_SECONDS = 3.0
"""How long such a change waits in any case, for others that come with it: workers get ready one by one."""

REMEMBERED_SPECS = 100
"""Jobs whose spec is kept as it was read; an idle one can be read again."""

_ON_THE_WAY = (Reason.WAITING_FOR_PODS, Reason.PODS_CREATED)
"""Of a start that goes well only the end is urgent: most workers run soon after they are placed."""

_MINOR_FIELDS = ("workers", "display", "time")
_MINOR_PROGRESS = ("iteration", "estimatedRemainingSeconds", "lastProgressTime", "goodputPercent", "time")


def utc_now() -> datetime:
    """The time that decisions are made by."""
    return datetime.now(UTC)


@dataclass
class _Memory:
    """What one reconciliation of a job leaves for the next."""

    rejection: str | None = None
    """What the API server said when it last refused a child."""
    confessed: str | None = None
    """The bug that the job's status tells of."""
    written_at: float = float("-inf")
    """When the status was last written."""
    changed_at: float | None = None
    """When a change of the status was first seen that is not written yet."""
    uncertain: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
    """The job before and the status of a write that may have succeeded although no answer came."""


class Reconciler:
    """Brings jobs to what `decide` says, and tries again with growing delays what fails."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        queue: WorkQueue[Key],
        *,
        metrics: Metrics,
        health: Health,
        settings: OperatorSettings,
        events: Events,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._queue = queue
        self._attempts = Attempts(self.reconcile, queue, metrics, health=health, task=RECONCILIATION)
        self._settings = settings
        self._reporter = Reporter(metrics, events, clock)
        self._clock = clock
        self._memories: dict[Key, _Memory] = {}
        self._specs = ParsedSpecs(
            lambda manifest: recipes.parse_spec(manifest, settings), size=REMEMBERED_SPECS
        )

    async def work(self, leading: asyncio.Event) -> None:
        """Reconcile one job after the other while `leading` is set, for ever; run several of these."""
        await self._attempts.work(leading)

    async def reconcile(self, key: Key) -> None:
        """One round for one job.

        Raises:
            errors.OperatorError: something could not be done; nothing is lost by trying again.
        """
        manifest = self._cache.job(key)
        if manifest is None:
            self._forget(key)
            return
        if "deletionTimestamp" in manifest["metadata"]:
            return  # its children go with it
        memory = self._remember(key)
        if memory.uncertain is not None and manifest["status"] == memory.uncertain[1]:
            self._reporter.report(key, *memory.uncertain)
            memory.uncertain = None
        try:
            plan = self._decide(key, manifest)
        except Exception as error:
            await self._confess(key, manifest, error)
            raise
        memory.confessed = None
        if self._is_due(key, manifest["status"], plan.status) and not await self._write_status(
            key, manifest, plan.status
        ):
            return
        if plan.next_check_seconds is not None:
            self._queue.add_after(key, plan.next_check_seconds)
        await self._act(key, plan)

    def _decide(self, key: Key, manifest: Mapping[str, Any]) -> Plan:
        parsed, now = self._specs.read(key, manifest), self._clock()
        seen = facts.observe(
            manifest,
            parsed=parsed,
            pods=self._cache.pods(key),
            progress=self._cache.progress.get(key),
            suspects=self._cache.evidence.suspects(now),
            source=self._find_source(key, manifest),
            rejection=self._remember(key).rejection,
            repair=self._is_broken(key, parsed.job),
            now=now,
        )
        return decide(seen, self._settings)

    async def _confess(self, key: Key, manifest: Mapping[str, Any], error: Exception) -> None:
        """Let the job's own status tell of a bug that concerns it, once."""
        memory, problem = self._remember(key), f"{type(error).__name__}: {error}"[:1000]
        if memory.confessed != problem:
            memory.confessed = problem
            await self._write_status(key, manifest, confess(manifest, problem=problem, now=self._clock()))

    def _find_source(self, key: Key, manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The job whose proposals a job takes."""
        name = facts.source_of(manifest)
        return self._cache.job((key[0], name)) if name else None

    def _is_broken(self, key: Key, job: types.DetectionJob | None) -> bool:
        """Whether the Service is missing, or somebody has made something else of it."""
        if job is None or not has_peers(job.spec):
            return False
        found = self._cache.service(key)
        return found is None or not found.serves(read_shape(build_service(job)))

    def _is_due(self, key: Key, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
        """Whether a status is to be written now; one that can wait for others is seen to later."""
        memory = self._remember(key)
        if before == after:
            memory.changed_at = None
            return False
        now = self._queue.time()
        if memory.changed_at is None:
            memory.changed_at = now
        due = max(memory.written_at + MINOR_SECONDS, memory.changed_at + COMPANY_SECONDS)
        if now >= due or _without_minor(before) != _without_minor(after):
            return True
        self._queue.add_after(key, due - now)
        return False

    async def _write_status(self, key: Key, manifest: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
        """Write the status; False if the job has changed or gone meanwhile, so that the plan is void."""
        memory = self._remember(key)
        try:
            with self._cache.writing(key, status):
                written = await self._cluster.write_status(manifest, status)
                self._cache.store_job(written)
        except errors.NotFound:
            self._cache.drop_job(key, uid=manifest["metadata"]["uid"])
            return False
        except errors.Conflict:
            try:
                self._cache.store_job(await self._cluster.read_job(*key))
            except errors.NotFound:
                self._cache.drop_job(key, uid=manifest["metadata"]["uid"])
            self._queue.add(key)
            return False
        except errors.ApiUnreachable:
            memory.uncertain = manifest, status
            raise
        memory.uncertain = memory.changed_at = None
        memory.written_at = self._queue.time()
        self._reporter.report(key, manifest, status)
        return True

    async def _act(self, key: Key, plan: Plan) -> None:
        """Carry out what comes first, then the rest at once; of several errors a rejection is the last."""
        failures = await carry_out_all(self._carry_out(key, action) for action in plan.preparations)
        if not failures:
            failures = await carry_out_all(self._carry_out(key, action) for action in plan.actions)
        memory = self._remember(key)
        was_rejected, memory.rejection = memory.rejection, find_rejection(failures)
        if was_rejected and not failures:
            self._queue.add(key)  # the condition that told of it is to be turned
        for failure in failures:
            raise failure

    async def _carry_out(self, key: Key, action: Action) -> None:
        if isinstance(action, DeletePod):
            await self._cluster.delete("pods", key[0], action.name, uid=action.uid, force=action.force)
        elif isinstance(action, ApplyChild):
            applied = await self._cluster.ensure(action.manifest)
            if action.manifest["kind"] == "Pod":
                self._cache.store_pod(applied)
            elif action.manifest["kind"] == "Service":
                self._cache.store_service(applied)
        else:
            await self._cluster.delete(names.PLURAL, *key, uid=action.uid)

    def _remember(self, key: Key) -> _Memory:
        return self._memories.setdefault(key, _Memory())

    def _forget(self, key: Key) -> None:
        self._attempts.forget(key)
        self._memories.pop(key, None)
        self._specs.forget(key)


def _without_minor(status: Mapping[str, Any]) -> dict[str, Any]:
    """What of a status is worth a write at once."""
    kept = {field: value for field, value in status.items() if field not in _MINOR_FIELDS}
    kept["desired"] = (status.get("workers") or {}).get("desired")  # decisions are made by it
    if progress := kept.get("progress"):
        kept["progress"] = {field: progress[field] for field in progress if field not in _MINOR_PROGRESS}
    if straggler := kept.get("straggler"):
        kept["straggler"] = straggler["pod"]
    kept["conditions"] = [
        (condition["type"], condition["status"], condition["reason"])
        for condition in status.get("conditions") or ()
        if condition["reason"] not in _ON_THE_WAY
    ]
    return kept
