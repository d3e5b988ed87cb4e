"""A world for scenarios on a real API server, with the operator's own watches, cache, queue and reconciler.

The tests are scheduler and kubelet of the workers. Time stands still but for `wait`: what the cluster stamps
with its own clock is read as of the moment, in the world's time, at which it was first seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import builders
from clockwork import ROUNDS
from frozen_time import Clock, TimelessCache, WatchfulQueue
from kube import Refused
from kubedet_operator.api import names
from kubedet_operator.cluster.cache import Cache
from kubedet_operator.cluster.client import CORE, JOBS, Cluster
from kubedet_operator.cluster.events import Events
from kubedet_operator.control.reconcile import Reconciler
from kubedet_operator.decision.policies.lost import EVICTED_FROM_LOST_NODE
from kubedet_operator.settings import OperatorSettings
from kubedet_operator.telemetry.health import Health
from kubedet_operator.telemetry.metrics import Metrics
from kubedet_trainer.contract.times import format_now, format_time
from shared_cluster import SECONDS, SharedCluster
from simulation import make_progress

NAME = "demo"
NODES = ("node-0", "node-1", "node-2", "node-3", "gpu-3", "gpu-7", "lost")
"""The nodes of all worlds."""

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


class RealWorld:
    """One job in a namespace of its own, with an operator of its own."""

    def __init__(self, shared: SharedCluster, namespace: str, spec: Mapping[str, Any]) -> None:
        self.name = NAME
        self.job: dict[str, Any] | None = None
        self.pods: dict[str, dict[str, Any]] = {}
        self.told: dict[str, str] = {}
        self.news: list[tuple[bool, Callable[[Cache], object]]] = []
        self._shared = shared
        self._kube = shared.kube
        self._key = (namespace, NAME)
        self._core = f"/{CORE}/namespaces/{namespace}"
        self._jobs = f"/{JOBS}/namespaces/{namespace}/{names.PLURAL}"
        self._clock = Clock()
        self._metrics = Metrics()
        self._held: set[str] = set()
        self._expected_errors: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._spec = builders.merge({"worker": {"template": _template(spec)}}, dict(spec))
        shared.call(self._begin())

    @property
    def others(self) -> Mapping[str, Mapping[str, Any]]:
        """The PodGroup, which nobody watches."""
        group = GANGS[self._spec["schedulingPolicy"]["gang"]]
        return {"PodGroup": self._ask("GET", f"/apis/{group}/namespaces/{self._key[0]}/podgroups/{NAME}")}

    def has_service(self) -> bool:
        listed: list[dict[str, Any]] = self._shared.call(self._list(f"{self._core}/services"))
        return names.service_name(NAME) in {service["metadata"]["name"] for service in listed}

    @property
    def writes(self) -> int:
        return self._count(verb="update", resource=names.PLURAL, code="200")

    async def _begin(self) -> None:
        namespace = self._key[0]
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        await self._kube.ask(
            "POST", f"/{CORE}/namespaces", {"metadata": {"name": namespace, "labels": labels}}
        )
        # Pods are refused until the controller manager has made it.
        await self._kube.wait_for(lambda: self._kube.ask("GET", f"{self._core}/serviceaccounts/default"))
        self._shared.distributor.worlds[namespace] = self
        self._queue = WatchfulQueue(self._clock)
        self._cache = TimelessCache(self._queue, self._clock)
        self._cluster = Cluster(self._metrics)
        health = Health()
        events = Events(self._cluster, metrics=self._metrics, health=health)
        reconciler = Reconciler(
            self._cluster,
            self._cache,
            self._queue,
            metrics=self._metrics,
            health=health,
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
        self._shared.call(self._end())

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        del self._shared.distributor.worlds[self._key[0]]
        await self._cluster.close()

    # What the operator does

    def settle(self) -> None:
        self._shared.call(self._settle())

    def wait(self, seconds: float) -> None:
        self._shared.call(self._wait(seconds), seconds=10 * SECONDS)

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
        """Nothing fails but what the API server was told to refuse, no Event either."""
        errors = (
            sample for metric in self._metrics["reconcile_errors"].collect() for sample in metric.samples
        )
        found = {sample.labels["reason"] for sample in errors} - self._expected_errors
        assert not found, "\n".join([f"reconciliations failed: {found}", *self._shared.errors.lines])
        assert not self._metrics.registry.get_sample_value("kubedet_operator_events_dropped_total")

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
        if held:
            self.hold(index)
        if disruption == EVICTED_FROM_LOST_NODE:
            self._lose_node(pod)
            return
        if disruption:
            said = {"type": "DisruptionTarget", "status": "True", "reason": disruption}
            self._patch_status(pod, {"conditions": [{**said, "lastTransitionTime": _stamp()}]})
        self._ask("DELETE", f"{self._core}/pods/{pod['metadata']['name']}")

    def hold(self, index: int) -> None:
        self._held.add(builders.find_pod(self.pods, NAME, index) or names.worker_name(NAME, index))

    def release(self, index: int) -> None:
        self._held -= {names.worker_name(NAME, index), names.spare_worker_name(NAME, index)}

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
        self._expected_errors.add("Rejected")
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

        self._shared.call(self._kube.wait_for(refused))

    def _lose_node(self, pod: Mapping[str, Any]) -> None:
        """Have the cluster give up a node, which no other scenario may use, so that it evicts the pod."""
        node = f"/{CORE}/nodes/{pod['spec']['nodeName']}"
        taint = {"key": "kubedet.dev/lost", "effect": "NoExecute"}
        self._ask("PATCH", node, {"spec": {"taints": [taint]}}, strategic=True)

        async def told() -> bool:
            found = await self._kube.ask("GET", f"{self._core}/pods/{pod['metadata']['name']}")
            return "deletionTimestamp" in found["metadata"]

        self._shared.call(self._kube.wait_for(told))

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
        return {"type": "Ready", "status": str(ready), "lastTransitionTime": _stamp()}

    def _patch_status(self, pod: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        path = f"{self._core}/pods/{pod['metadata']['name']}/status"
        self._ask("PATCH", path, {"status": status}, strategic=True)

    def _living(self, index: int | None) -> dict[str, Any]:
        name = builders.find_pod(self.pods, NAME, index)
        assert name is not None, f"there is no worker {index}, only {sorted(self.pods)}"
        return self.pods[name]

    async def _list(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._kube.ask("GET", path))["items"]
        return found

    def _ask(self, *arguments: Any, **options: Any) -> Any:
        return self._shared.call(self._kube.ask(*arguments, **options))

    def _time(self) -> str:
        return format_time(self._clock.now())


def _stamp() -> str:
    """The cluster's time, by which its controllers tell fresh conditions from stale ones."""
    return format_now()


def _template(spec: Mapping[str, Any]) -> dict[str, Any]:
    """No scheduler but the test places the workers, unless the scenario is about schedulers."""
    gang = (spec.get("schedulingPolicy") or {}).get("gang")
    return {**_TEMPLATE, "spec": {}} if gang in GANGS else _TEMPLATE
