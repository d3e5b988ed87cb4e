"""A world for scenarios on a real API server, with the operator's own parts: watches, cache, queue, reconciler.

The tests are scheduler and kubelet of the workers. Time stands still but for `wait`: what the cluster stamps
with its own clock is read as of the moment, in the world's time, at which it was first seen.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from typing import Any

import builders
from kube import Kube, Refused
from kubedet_operator import facts, handlers
from kubedet_operator.api import names
from kubedet_operator.cache import Cache, Key
from kubedet_operator.cluster import CORE, JOBS, Cluster
from kubedet_operator.events import Events
from kubedet_operator.metrics import Health, Metrics
from kubedet_operator.reconcile import Reconciler
from kubedet_operator.settings import OperatorSettings
from kubedet_operator.workqueue import Timer, WorkQueue
from simulation import BEGINNING, ROUNDS, make_progress

NAME = "demo"
NODES = ("node-0", "node-1", "node-2", "node-3", "gpu-3", "gpu-7")
"""The nodes of all worlds."""

SECONDS = 60
"""No single step takes longer, however slow the machine is."""

GANGS = {"Volcano": "scheduling.volcano.sh/v1beta1", "Coscheduling": "scheduling.x-k8s.io/v1alpha1"}
"""Versions of the PodGroups that gang schedulers bring."""

_TEMPLATE = {
    # kwok keeps the nodes alive, and leaves the pods to the tests.
    "metadata": {"annotations": {"fake.kubedet/start-after": "9000h", "fake.kubedet/stop-after": "9000h"}},
    "spec": {"schedulerName": "test"},
}
_CONTAINER = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_SMALL_POD = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [{"name": "probe", "image": "probe", "securityContext": _CONTAINER}],
}


class Clock:
    """Time that goes by only where it is told to, for decisions and for the delays of the queue."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._timer: _Timer | None = None

    def now(self) -> datetime:
        return BEGINNING + timedelta(seconds=self._seconds)

    def time(self) -> float:
        return self._seconds

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """The queue has one timer at a time."""
        self._timer = _Timer(when, callback)
        return self._timer

    def due(self) -> float | None:
        """When something is to happen next."""
        return self._timer.when if self._timer is not None and not self._timer.cancelled else None

    def turn(self, seconds: float) -> None:
        """Make it `seconds`, and call whom that wakes."""
        self._seconds = max(self._seconds, seconds)
        due = self.due()
        if due is not None and due <= self._seconds:
            timer, self._timer = self._timer, None
            assert timer is not None
            timer.callback()


class _Timer:
    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class _WatchfulQueue(WorkQueue[Key]):
    """Tells when its one worker has nothing left to do."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.idle = asyncio.Event()

    def add(self, key: Key) -> None:
        self.idle.clear()
        super().add(key)

    async def get(self) -> Key:
        if not len(self):
            self.idle.set()
        return await super().get()


class _TimelessCache(Cache):
    """Reads the stamps of the cluster's clock in the world's time."""

    def __init__(self, queue: WorkQueue[Key], clock: Clock) -> None:
        super().__init__(queue.add, queue.add)
        self._clock = clock
        self._first_seen: dict[tuple[str, ...], datetime] = {}

    def store_job(self, manifest: Mapping[str, Any]) -> None:
        super().store_job({**manifest, "metadata": self._read_metadata(manifest["metadata"])})

    def store_pod(self, manifest: Mapping[str, Any]) -> None:
        metadata, status = self._read_metadata(manifest["metadata"]), manifest["status"]
        conditions = [
            {
                **item,
                "lastTransitionTime": facts.format_time(
                    self._see(
                        metadata["uid"], item["type"], item["status"], item.get("lastTransitionTime") or ""
                    )
                ),
            }
            for item in status.get("conditions") or ()
        ]
        super().store_pod({**manifest, "metadata": metadata, "status": {**status, "conditions": conditions}})

    def _read_metadata(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        uid = metadata["uid"]
        read = {**metadata, "creationTimestamp": facts.format_time(self._see(uid, "creation"))}
        if "deletionTimestamp" in metadata:
            grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)
            read["deletionTimestamp"] = facts.format_time(self._see(uid, "deletion") + grace)
        return read

    def _see(self, *what: str) -> datetime:
        return self._first_seen.setdefault(what, self._clock.now())


class _Post(Cache):
    """Hands what the watches tell of all namespaces over to the world of each."""

    def __init__(self) -> None:
        super().__init__(lambda key: None, lambda key: None)
        self.worlds: dict[str, RealWorld] = {}

    def store_job(self, manifest: Mapping[str, Any]) -> None:
        super().store_job(manifest)
        self._hand_over(manifest, lambda cache: cache.store_job(manifest))

    def store_pod(self, manifest: Mapping[str, Any]) -> None:
        super().store_pod(manifest)
        self._hand_over(manifest, lambda cache: cache.store_pod(manifest))

    def store_service(self, manifest: Mapping[str, Any]) -> None:
        super().store_service(manifest)
        self._hand_over(manifest, lambda cache: cache.store_service(manifest))

    def drop_job(self, key: Key, *, uid: str) -> None:
        super().drop_job(key, uid=uid)
        self._tell_end(key, uid, lambda cache: cache.drop_job(key, uid=uid))

    def drop_pod(self, key: Key, name: str, *, uid: str) -> None:
        super().drop_pod(key, name, uid=uid)
        self._tell_end(key, uid, lambda cache: cache.drop_pod(key, name, uid=uid))

    def drop_service(self, key: Key, *, uid: str) -> None:
        super().drop_service(key, uid=uid)
        self._tell_end(key, uid, lambda cache: cache.drop_service(key, uid=uid))

    def _hand_over(self, manifest: Mapping[str, Any], news: Callable[[Cache], None]) -> None:
        metadata = manifest["metadata"]
        if world := self.worlds.get(metadata["namespace"]):
            if manifest["kind"] != "Service":
                world.told[metadata["uid"]] = metadata["resourceVersion"]
            world.news.append((manifest["kind"] == names.KIND, news))

    def _tell_end(self, key: Key, uid: str, news: Callable[[Cache], None]) -> None:
        if world := self.worlds.get(key[0]):
            world.told.pop(uid, None)
            world.news.append((False, news))


class Ground:
    """What all worlds share: an event loop in a thread, with the watches and an administrator's client."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        self.post = _Post()
        self._listed = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="ground")

    def __enter__(self) -> Ground:
        self._thread.start()
        assert self._listed.wait(SECONDS), "the cluster cannot be watched"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def call(self, work: Coroutine[Any, Any, Any], *, seconds: float = SECONDS) -> Any:
        """The result of `work`, which is done in the loop; to be called from other threads."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        cluster = Cluster(Metrics())
        watches = handlers.Watches(self.post, health=Health(), namespaces=(), listed=self._listed.set)
        watching = asyncio.create_task(handlers.watch(watches, cluster=cluster, namespaces=()))
        await self._stop.wait()
        watching.cancel()
        await asyncio.wait((watching,))
        await cluster.close()
        await self.kube.close()


class RealWorld:
    """One job in a namespace of its own, with an operator of its own."""

    def __init__(self, ground: Ground, namespace: str, spec: Mapping[str, Any]) -> None:
        self.name = NAME
        self.job: dict[str, Any] | None = None
        self.pods: dict[str, dict[str, Any]] = {}
        self.told: dict[str, str] = {}
        """Uid -> resource version, as the watches have told."""
        self.news: list[tuple[bool, Callable[[Cache], None]]] = []
        """What they have told since the last look; and whether it is of the job itself."""
        self._ground = ground
        self._kube = ground.kube
        self._key = (namespace, NAME)
        self._core = f"/{CORE}/namespaces/{namespace}"
        self._jobs = f"/{JOBS}/namespaces/{namespace}/{names.PLURAL}"
        self._clock = Clock()
        self._metrics = Metrics()
        self._held: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._spec = builders.merge({"worker": {"template": _template(spec)}}, dict(spec))
        ground.call(self._begin())

    @property
    def others(self) -> Mapping[str, Mapping[str, Any]]:
        """The PodGroup, which nobody watches."""
        group = GANGS[self._spec["schedulingPolicy"]["gang"]]
        return {"PodGroup": self._ask("GET", f"/apis/{group}/namespaces/{self._key[0]}/podgroups/{NAME}")}

    @property
    def writes(self) -> int:
        return self._count(verb="update", resource=names.PLURAL, code="200")

    async def _begin(self) -> None:
        namespace = self._key[0]
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        await self._kube.ask("POST", f"/{CORE}/namespaces", {"metadata": {"name": namespace, "labels": labels}})
        # Pods are refused until the controller manager has made it.
        await self._kube.wait_for(lambda: self._kube.ask("GET", f"{self._core}/serviceaccounts/default"))
        self._ground.post.worlds[namespace] = self
        self._queue = _WatchfulQueue(self._clock)
        self._cache = _TimelessCache(self._queue, self._clock)
        self._cluster = Cluster(self._metrics)
        events = Events(self._cluster, metrics=self._metrics)
        reconciler = Reconciler(
            self._cluster,
            self._cache,
            self._queue,
            metrics=self._metrics,
            settings=OperatorSettings(),
            events=events,
            clock=self._clock.now,
        )
        leading = asyncio.Event()
        leading.set()
        self._tasks = [asyncio.create_task(reconciler.work(leading)), asyncio.create_task(events.run())]
        await self._kube.ask(
            "POST", self._jobs, builders.make_manifest(name=NAME, namespace=namespace, **self._spec)
        )

    def close(self) -> None:
        """End the operator; what there is in the cluster stays."""
        self._ground.call(self._end())

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        del self._ground.post.worlds[self._key[0]]
        await self._cluster.close()

    # What the operator does

    def settle(self) -> None:
        self._ground.call(self._settle())

    def wait(self, seconds: float) -> None:
        self._ground.call(self._wait(seconds), seconds=10 * SECONDS)

    async def _settle(self) -> None:
        for _ in range(ROUNDS):
            before = self._count()
            await self._look()
            await self._deliver()
            ended = await self._end_pods()
            if not ended and self._count() == before:
                self._check_errors()
                return
        raise AssertionError(f"does not settle: {self.job}")

    async def _wait(self, seconds: float) -> None:
        end = self._clock.time() + seconds
        while (due := self._clock.due()) is not None and due <= end:
            before = self._count()
            self._clock.turn(due)
            await self._queue.idle.wait()
            if self.news or self._count() != before:
                await self._settle()
        self._clock.turn(end)

    async def _look(self) -> None:
        """See what there is, once the watches have told all of it."""
        end = asyncio.get_running_loop().time() + SECONDS
        while True:
            jobs, pods = await asyncio.gather(self._list(self._jobs), self._list(f"{self._core}/pods"))
            found = {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in (*jobs, *pods)}
            if found == self.told:
                break
            assert asyncio.get_running_loop().time() < end, f"the watches tell {self.told} of {found}"
            await asyncio.sleep(0.02)
        self.job = jobs[0] if jobs else None
        self.pods = {pod["metadata"]["name"]: pod for pod in pods}

    async def _deliver(self) -> None:
        """Let the operator learn the news and act: of the pods first, so that it meets conflicts."""
        news, self.news = self.news, []
        for of_job in (False, True):
            for is_of_job, tell in news:
                if is_of_job == of_job:
                    tell(self._cache)
            await self._queue.idle.wait()

    async def _end_pods(self) -> bool:
        """What a kubelet does with pods that are told to end, unless they are held; whether there was one."""
        leaving = [
            pod["metadata"]
            for pod in self.pods.values()
            if "deletionTimestamp" in pod["metadata"] and pod["metadata"]["name"] not in self._held
        ]
        for metadata in leaving:
            options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
            await self._kube.ask("DELETE", f"{self._core}/pods/{metadata['name']}", options, missing_ok=True)
        return bool(leaving)

    def _count(self, **labels: str) -> int:
        """The requests of the operator for jobs, pods and other children."""
        samples = (sample for metric in self._metrics["api_requests"].collect() for sample in metric.samples)
        return sum(
            int(sample.value)
            for sample in samples
            if labels.items() <= sample.labels.items() and sample.labels["resource"] != "events"
        )

    def _check_errors(self) -> None:
        samples = [
            sample for metric in self._metrics["reconcile_errors"].collect() for sample in metric.samples
        ]
        found = {sample.labels["reason"] for sample in samples} - {"Rejected"}
        assert not found, f"reconciliations failed: {found}"

    # What happens in the world

    def run(self, indices: list[int]) -> None:
        for index in indices:
            self._set_state(index, "Running", {"running": {"startedAt": self._time()}}, ready=True)

    def place(self, index: int, node: str) -> None:
        self._bind(self._living(index), node)

    def end(self, index: int | None, code: int, message: str = "", reason: str = "") -> None:
        reason = reason or ("Error" if code else "Completed")
        ended = {"exitCode": code, "reason": reason, "message": message, "finishedAt": self._time()}
        self._set_state(index, "Failed" if code else "Succeeded", {"terminated": ended})

    def block(self, index: int, reason: str, message: str) -> None:
        self._set_state(index, "Pending", {"waiting": {"reason": reason, "message": message}})

    def unschedule(self, index: int, message: str, reason: str = "Unschedulable") -> None:
        said = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
        self._patch_status(self._living(index), {"phase": "Pending", "conditions": [said]})

    def evict(self, index: int, reason: str, message: str = "") -> None:
        pod = self._placed(index)
        status = {"phase": "Failed", "reason": reason, "message": message, "conditions": [self._ready(False)]}
        self._patch_status(pod, {**status, "containerStatuses": None})

    def delete(self, index: int, *, disruption: str = "", held: bool = False) -> None:
        pod = self._living(index)
        if disruption:
            said = {"type": "DisruptionTarget", "status": "True", "reason": disruption}
            self._patch_status(pod, {"conditions": [{**said, "lastTransitionTime": self._time()}]})
        if held:
            self.hold(index)
        self._ask("DELETE", f"{self._core}/pods/{pod['metadata']['name']}")

    def hold(self, index: int) -> None:
        self._held.add(names.worker_name(NAME, index))

    def release(self, index: int) -> None:
        self._held.discard(names.worker_name(NAME, index))

    def report(self, iteration: int, checkpoint: int | None = None, world_size: int = 1) -> None:
        """What the poller does with an answer of rank 0."""
        record = make_progress(iteration, checkpoint, world_size=world_size, time=self._time())

        def tell(cache: Cache) -> None:
            cache.progress[self._key] = record
            self._queue.add(self._key)

        self.news.append((False, tell))

    def change(self, **spec: Any) -> None:
        target = f"{self._jobs}/{NAME}"
        if spec.keys() == {"worker"} and spec["worker"].keys() == {"replicas"}:
            self._ask("PATCH", f"{target}/scale", {"spec": spec["worker"]})
        else:
            self._ask("PATCH", target, {"spec": spec})

    def reject(self, message: str | None) -> None:
        """A quota without room for any pod; None: it goes."""
        quotas = f"{self._core}/resourcequotas"
        if message is None:
            self._ask("DELETE", f"{quotas}/none")
        else:
            self._ask("POST", quotas, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
        probe = {"metadata": {"name": "probe"}, "spec": _SMALL_POD}

        async def refused() -> bool:
            try:
                await self._kube.ask("POST", f"{self._core}/pods?dryRun=All", probe)
            except Refused as refusal:
                return message is not None and message in str(refusal)
            return message is None

        self._ground.call(self._kube.wait_for(refused))

    def _placed(self, index: int | None) -> dict[str, Any]:
        pod = self._living(index)
        if "nodeName" not in pod["spec"]:
            self._bind(pod, f"node-{index or 0}")
        return pod

    def _bind(self, pod: dict[str, Any], node: str) -> None:
        name = pod["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        self._ask("POST", f"{self._core}/pods/{name}/binding", {"metadata": {"name": name}, "target": target})
        pod["spec"]["nodeName"] = node

    def _set_state(
        self, index: int | None, phase: str, state: Mapping[str, Any], *, ready: bool = False
    ) -> None:
        pod = self._placed(index)
        container = {"name": names.CONTAINER, "ready": ready, "state": state, "restartCount": 0}
        container |= {"image": "", "imageID": ""}
        status = {"phase": phase, "containerStatuses": [container], "conditions": [self._ready(ready)]}
        self._patch_status(pod, status)

    def _ready(self, ready: bool) -> dict[str, Any]:
        return {"type": "Ready", "status": str(ready), "lastTransitionTime": self._time()}

    def _patch_status(self, pod: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        path = f"{self._core}/pods/{pod['metadata']['name']}/status"
        self._ask("PATCH", path, {"status": status}, strategic=True)

    def _living(self, index: int | None) -> dict[str, Any]:
        name = names.rendezvous_name(NAME) if index is None else names.worker_name(NAME, index)
        assert name in self.pods, f"there is no {name}, only {sorted(self.pods)}"
        return self.pods[name]

    async def _list(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._kube.ask("GET", path))["items"]
        return found

    def _ask(self, *arguments: Any, **options: Any) -> Any:
        return self._ground.call(self._kube.ask(*arguments, **options))

    def _time(self) -> str:
        return facts.format_time(self._clock.now())


def _template(spec: Mapping[str, Any]) -> dict[str, Any]:
    """No scheduler but the test places the workers, unless the scenario is about schedulers."""
    gang = (spec.get("schedulingPolicy") or {}).get("gang")
    return {**_TEMPLATE, "spec": {}} if gang in GANGS else json.loads(json.dumps(_TEMPLATE))
