"""Observe, decide, write the status, act: the same for ModelZoos, whose children are jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from kubedet_operator.api import names
from kubedet_operator.api.zoo_status import RunPhase
from kubedet_operator.children.rows import list_trainings
from kubedet_operator.cluster import errors
from kubedet_operator.cluster.cache import Cache, Key
from kubedet_operator.cluster.client import Cluster
from kubedet_operator.cluster.events import Events, Occurrence, compare_statuses
from kubedet_operator.control.attempts import Attempts
from kubedet_operator.control.reconcile import utc_now
from kubedet_operator.control.rounds import ParsedSpecs, carry_out_all, find_rejection
from kubedet_operator.control.workqueue import WorkQueue
from kubedet_operator.decision.zoo.decide import decide_zoo
from kubedet_operator.decision.zoo.facts import ParsedZoo, observe_zoo, owner_of, parse_zoo
from kubedet_operator.decision.zoo.plan import (
    CreateJob,
    CreatePage,
    DeletePage,
    DeleteRowJob,
    SuspendJob,
    ZooAction,
)
from kubedet_operator.settings import OperatorSettings
from kubedet_operator.telemetry.health import ZOOS, Health
from kubedet_operator.telemetry.metrics import Metrics

REMEMBERED_SPECS = 20
"""Zoos whose rows are kept as they were read."""


class ZooReconciler:
    """Brings zoos to what `decide_zoo` says."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        queue: WorkQueue[Key],
        *,
        metrics: Metrics,
        health: Health,
        events: Events,
        settings: OperatorSettings,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._queue = queue
        self._events = events
        self._settings = settings
        self._clock = clock
        self._attempts = Attempts(self.reconcile, queue, metrics, health=health, task=ZOOS)
        self._rejections: dict[Key, str] = {}
        self._page_rejections: dict[Key, str] = {}
        self._specs = ParsedSpecs(parse_zoo, size=REMEMBERED_SPECS)

    async def work(self, leading: asyncio.Event) -> None:
        """Reconcile one zoo after the other while `leading` is set, for ever."""
        await self._attempts.work(leading)

    async def reconcile(self, key: Key) -> None:
        """One round for one zoo.

        Raises:
            errors.OperatorError: something could not be done; nothing is lost by trying again.
        """
        manifest = self._cache.zoos.zoo(key)
        if manifest is None:
            self._forget(key)
            return
        if "deletionTimestamp" in manifest["metadata"]:
            return  # its jobs go with it
        parsed = self._specs.read(key, manifest)
        seen = observe_zoo(
            manifest,
            jobs=self._find_jobs(manifest, parsed),
            parsed=parsed,
            rejection=self._rejections.get(key),
            page=self._cache.pages.pod(key, uid=manifest["metadata"]["uid"]),
            page_rejection=self._page_rejections.get(key),
            settings=self._settings,
            now=self._clock(),
        )
        plan = decide_zoo(seen)
        if plan.status != manifest["status"] and not await self._write_status(key, manifest, plan.status):
            return
        if plan.next_check_seconds is not None:
            self._queue.add_after(key, plan.next_check_seconds)
        await self._act(key, plan.actions)

    def _find_jobs(self, manifest: Mapping[str, Any], parsed: ParsedZoo) -> Iterator[Mapping[str, Any]]:
        """The zoo's own jobs, and those of others that have the name of a row's job."""
        metadata = manifest["metadata"]
        keys = set(self._cache.relations.owned(metadata["uid"]))
        keys |= {
            (metadata["namespace"], names.row_job_name(metadata["name"], row.recipe, seed))
            for row, seed in list_trainings(parsed.rows)
        }
        return (job for key in keys if (job := self._cache.job(key)) is not None)

    async def _write_status(self, key: Key, manifest: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
        """Write the status; False if the zoo has changed or gone meanwhile, so that the plan is void."""
        zoos = self._cache.zoos
        try:
            zoos.store(names.ZOO_PLURAL, await self._cluster.write_status(manifest, status))
        except errors.NotFound:
            zoos.forget(key, uid=manifest["metadata"]["uid"])
            return False
        except errors.Conflict:
            try:
                zoos.store(names.ZOO_PLURAL, await self._cluster.read_zoo(*key))
            except errors.NotFound:
                zoos.forget(key, uid=manifest["metadata"]["uid"])
            self._queue.add(key)
            return False
        for occurrence in (
            *compare_rows(manifest["status"], status),
            *compare_statuses(manifest["status"], status),
        ):
            self._events.record(manifest, occurrence)
        return True

    async def _act(self, key: Key, actions: tuple[ZooAction, ...]) -> None:
        """Carry out all actions at once; of several errors a rejection is the last."""
        failures = await carry_out_all(self._carry_out(key, action) for action in actions)
        was_rejected = self._rejections.pop(key, None)
        if (rejection := find_rejection(failures)) is not None:
            self._rejections[key] = rejection
        if was_rejected and not failures:
            self._queue.add(key)  # the condition that told of it is to be turned
        for failure in failures:
            raise failure

    async def _carry_out(self, key: Key, action: ZooAction) -> None:
        if isinstance(action, CreateJob):
            await self._create(key, action.manifest)
        elif isinstance(action, SuspendJob):
            await self._suspend(key, action)
        elif isinstance(action, DeleteRowJob):
            await self._cluster.delete(names.PLURAL, key[0], action.name, uid=action.uid)
        elif isinstance(action, CreatePage):
            await self._create_page(key, action.manifest)
        elif isinstance(action, DeletePage):
            await self._cluster.delete("pods", key[0], action.name, uid=action.uid, force=action.force)
        else:
            await self._cluster.delete(names.ZOO_PLURAL, *key, uid=action.uid)

    async def _create(self, key: Key, manifest: Mapping[str, Any]) -> None:
        metadata = manifest["metadata"]
        try:
            job = await self._cluster.create(manifest)
        except errors.Conflict:  # our watch is behind, or it is somebody else's: the next decision knows
            job = await self._cluster.read_job(metadata["namespace"], metadata["name"])
            self._queue.add(key)
        self._cache.store_job(job)

    async def _create_page(self, key: Key, manifest: Mapping[str, Any]) -> None:
        """Create the pod that writes the page. What keeps it from that troubles no row."""
        name = manifest["metadata"]["name"]
        try:
            pod = await self._cluster.create(manifest)
        except errors.Conflict:  # our watch is behind, or it is somebody else's
            pod = await self._cluster.read_pod(key[0], name)
            if owner_of(pod) != owner_of(manifest):
                self._note_page_rejection(key, f"there is another pod of the name {name}; delete it")
                return
        except errors.Rejected as rejection:
            self._note_page_rejection(key, str(rejection))
            return
        self._page_rejections.pop(key, None)
        self._cache.store("pods", pod)

    def _note_page_rejection(self, key: Key, message: str) -> None:
        if self._page_rejections.get(key) != message:
            self._page_rejections[key] = message
            self._queue.add(key)

    async def _suspend(self, key: Key, action: SuspendJob) -> None:
        try:
            job = await self._cluster.suspend_job(key[0], action.name, uid=action.uid, suspend=action.suspend)
        except errors.NotFound:
            return  # the watch tells of it
        self._cache.store_job(job)

    def _forget(self, key: Key) -> None:
        self._attempts.forget(key)
        self._rejections.pop(key, None)
        self._page_rejections.pop(key, None)
        self._specs.forget(key)


_TOLD = {RunPhase.SUCCEEDED: ("RowSucceeded", False), RunPhase.FAILED: ("RowFailed", True)}


def compare_rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Occurrence]:
    """The rows that have ended between two statuses."""
    known = {row["recipe"]: row.get("phase") for row in before.get("rows") or ()}
    for row in after.get("rows") or ():
        if row["phase"] in _TOLD and known.get(row["recipe"]) != row["phase"]:
            reason, warning = _TOLD[RunPhase(row["phase"])]
            figures = ", ".join(f"{figure} {value:g}" for figure, value in row["means"].items())
            said = (
                next((run["message"] for run in row["runs"] if "message" in run), "") if warning else figures
            )
            yield Occurrence(warning=warning, reason=reason, message=f"{row['recipe']}: {said}")
