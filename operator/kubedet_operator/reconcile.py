"""Observe, decide, write the status, act: one job at a time, from whatever state it is in."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from kubedet_operator import errors, facts
from kubedet_operator.api.conditions import ConditionType
from kubedet_operator.cache import Cache, Key
from kubedet_operator.cluster import Cluster
from kubedet_operator.decide import REPAIR_SECONDS, decide
from kubedet_operator.metrics import Metrics
from kubedet_operator.plan import Action, ApplyChild, DeletePod
from kubedet_operator.settings import OperatorSettings
from kubedet_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)


def utc_now() -> datetime:
    """The time that decisions are made by."""
    return datetime.now(UTC)


class Reconciler:
    """Brings jobs to what `decide` says, and tries again with growing delays what fails."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        queue: WorkQueue[Key],
        *,
        metrics: Metrics,
        settings: OperatorSettings,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._queue = queue
        self._metrics = metrics
        self._settings = settings
        self._clock = clock
        self._rejections: dict[Key, str] = {}
        self._repaired_at: dict[Key, float] = {}
        self._complaints: dict[Key, str] = {}

    async def work(self) -> None:
        """Reconcile one job after the other, for ever; run several of these at once."""
        while True:
            key = await self._queue.get()
            try:
                await self._attempt(key)
            finally:
                self._queue.done(key)

    async def resync(self) -> None:
        """Read the whole world: before the watches begin, and after that for what they do not tell.

        Raises:
            errors.OperatorError: the API server does not let us.
        """
        known_before = self._cache.uids()
        jobs: set[str] = set()
        pods: set[str] = set()
        # Pods first: a job must not be decided on before its pods are known.
        async for pod in self._cluster.list_pods(self._settings.namespaces):
            pods.add(pod["metadata"]["uid"])
            self._cache.store_pod(pod)
        async for job in self._cluster.list_jobs(self._settings.namespaces):
            jobs.add(job["metadata"]["uid"])
            self._cache.store_job(job)
        self._cache.sweep(jobs=jobs, pods=pods, known_before=known_before)

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
        seen = facts.observe(
            manifest,
            pods=self._cache.pods(key),
            progress=self._cache.progress.get(key),
            rejection=self._rejections.get(key),
            repair=self._is_repair_due(key),
            now=self._clock(),
        )
        plan = decide(seen, self._settings)
        if plan.status != manifest["status"] and not await self._write_status(key, manifest, plan.status):
            return
        if plan.next_check_seconds is not None:
            self._queue.add_after(key, plan.next_check_seconds)
        await self._act(key, plan.actions)

    async def _attempt(self, key: Key) -> None:
        try:
            with self._metrics["reconcile_duration"].time():
                await self.reconcile(key)
        except errors.OperatorError as error:
            at_least = error.retry_after_seconds if isinstance(error, errors.ApiBusy) else 0.0
            delay = self._queue.retry(key, at_least_seconds=at_least)
            self._metrics["reconcile_errors"].labels(error.reason).inc()
            self._complain(key, str(error), delay)
        except Exception:
            delay = self._queue.retry(key)
            self._metrics["reconcile_errors"].labels("Unexpected").inc()
            logger.exception("%s/%s: this is a bug of the operator; tried again in %.1f s", *key, delay)
        else:
            self._complaints.pop(key, None)
            self._queue.succeed(key)
        self._metrics["queue_depth"].set(len(self._queue))

    async def _write_status(self, key: Key, manifest: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
        """Write the status; False if the job has changed or gone meanwhile, so that the plan is void."""
        try:
            written = await self._cluster.apply_status(manifest, status)
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
        self._cache.store_job(written)
        self._report(key, manifest, status)
        return True

    async def _act(self, key: Key, actions: tuple[Action, ...]) -> None:
        """Carry the actions out at once; of several errors the first that is no rejection is raised."""
        outcomes = await asyncio.gather(
            *(self._carry_out(key, action) for action in actions), return_exceptions=True
        )
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        rejections = [str(failure) for failure in failures if isinstance(failure, errors.Rejected)]
        had_rejection = self._rejections.pop(key, None)
        if rejections:
            self._rejections[key] = rejections[0]
        elif had_rejection and not failures:
            self._queue.add(key)  # the condition that told of it is to be turned
        for failure in sorted(failures, key=lambda failure: isinstance(failure, errors.Rejected)):
            raise failure

    async def _carry_out(self, key: Key, action: Action) -> None:
        if isinstance(action, ApplyChild):
            applied = await self._cluster.apply(action.manifest)
            if action.manifest["kind"] == "Pod":
                self._cache.store_pod(applied)
        elif isinstance(action, DeletePod):
            await self._cluster.delete_pod(key[0], action.name, uid=action.uid)

    def _is_repair_due(self, key: Key) -> bool:
        """Once in a while; a job that is new to this process has just been looked at in full."""
        now = time.monotonic()
        last = self._repaired_at.setdefault(key, now)
        if now - last < REPAIR_SECONDS:
            return False
        self._repaired_at[key] = now
        return True

    def _forget(self, key: Key) -> None:
        self._queue.forget(key)
        for memory in (self._rejections, self._repaired_at, self._complaints):
            memory.pop(key, None)

    def _complain(self, key: Key, message: str, delay: float) -> None:
        """One line for a new problem; the same one again is only counted."""
        if self._complaints.get(key) != message:
            self._complaints[key] = message
            logger.warning(
                "%s/%s: %s; tried again in %.1f s and then with growing delays", *key, message, delay
            )

    def _report(self, key: Key, manifest: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Log and count what the new status says for the first time."""
        before, after = _conditions(manifest["status"]), _conditions(status)
        for kind, condition in after.items():
            turned = before.get(kind, {}).get("status") != condition["status"]
            if turned and (condition["status"] == "True" or kind in before):
                line = f"{condition['reason']}: {condition['message']}"
                logger.info("%s/%s: %s=%s %s", *key, kind, condition["status"], line)
        self._count(manifest, status, before, after)

    def _count(
        self,
        manifest: Mapping[str, Any],
        status: Mapping[str, Any],
        before: Mapping[str, Mapping[str, Any]],
        after: Mapping[str, Mapping[str, Any]],
    ) -> None:
        def became(kind: ConditionType, value: str) -> bool:
            return bool(
                before.get(kind, {}).get("status") != value and after.get(kind, {}).get("status") == value
            )

        for kind in (ConditionType.COMPLETE, ConditionType.FAILED):
            if became(kind, "True"):
                self._metrics["finished"].labels(kind.value).inc()
        old, new = manifest["status"].get("restarts") or {}, status["restarts"]
        for field in ("application", "infrastructure"):
            self._metrics["restarts"].labels(field.title()).inc(max(new[field] - old.get(field, 0), 0))
        now = self._clock()
        if became(ConditionType.RUNNING, "True") and not (new["application"] or new["infrastructure"]):
            created = facts.parse_time(manifest["metadata"]["creationTimestamp"])
            self._metrics["time_to_running"].observe((now - created).total_seconds())
        was_restarting = before.get(ConditionType.RESTARTING, {}).get("status") == "True"
        if was_restarting and became(ConditionType.RESTARTING, "False") and "completionTime" not in status:
            failure = status["lastFailure"]
            seconds = (now - facts.parse_time(failure["time"])).total_seconds()
            self._metrics["recovery"].labels(failure["class"]).observe(max(seconds, 0.0))


def _conditions(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {condition["type"]: condition for condition in status.get("conditions") or ()}
