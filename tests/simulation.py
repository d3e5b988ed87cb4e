"""A small cluster in memory for whole lives of a job: its decisions are carried out, and rules always hold.

Time stands still but for `wait`. Pods are the JSON of the API, read as from a watch. A kubelet ends deleted
pods as they leave, unless a test holds one back.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import jsonschema

import builders
from clockwork import BEGINNING, Clockwork
from kubedet_operator import recipes
from kubedet_operator.api import names, schema
from kubedet_operator.children.placement import POD_GROUP
from kubedet_operator.decision import facts
from kubedet_operator.decision.decide import decide
from kubedet_operator.decision.plan import Action, ApplyChild, DeletePod, Plan
from kubedet_operator.decision.pods import parse_pod
from kubedet_operator.decision.policies import accounting
from kubedet_operator.settings import OperatorSettings
from kubedet_trainer import contract
from kubedet_trainer.contract import ExitCode
from kubedet_trainer.contract.times import format_time, parse_time

"""More rounds than that without anything new means that decisions go in circles."""

_STATUS = jsonschema.Draft202012Validator(schema.build_schema()["properties"]["status"])


class Simulation(Clockwork):
    """One job in a cluster of its own."""

    def __init__(self, spec: Mapping[str, Any], *, name: str = "demo") -> None:
        super().__init__()
        self.name = name
        self.job: dict[str, Any] | None = builders.make_manifest(name=name, **spec)
        self.job["metadata"] |= {"uid": builders.UID, "generation": 1, "creationTimestamp": self._time()}
        self.pods: dict[str, dict[str, Any]] = {}
        self.others: dict[str, dict[str, Any]] = {}
        """Children that are no pods, by kind."""
        self.progress: contract.ProgressRecord | None = None
        self.rejection: str | None = None
        """What the API server says to whoever creates a pod; None: it creates them."""
        self.refusal: str | None = None
        """What the operator has been told so."""
        self.failures = 0
        """What happened to pods that the operator had not told to end."""
        self.writes = 0
        self._held: set[str] = set()
        self._created: Counter[str] = Counter()
        self._ran_at = self.now
        self._seconds: dict[str, float] = {}

    @property
    def status(self) -> dict[str, Any]:
        """The status of the job; empty once it is deleted."""
        return dict((self.job or {}).get("status") or {})

    def uids(self) -> dict[int, str]:
        """Worker index -> uid."""
        return {index: self._living(index)["metadata"]["uid"] for index in map(_index, self._workers())}

    def find(self, index: int | None) -> str | None:
        """The name of a worker, or with None of the rendezvous; None where there is none."""
        return builders.find_pod(self.pods, self.name, index)

    def has_service(self) -> bool:
        """Whether there is a Service by which the job's pods find each other."""
        return "Service" in self.others

    # What decisions do

    def play_round(self, survives: int | None) -> None:
        """The operator and then the kubelets act."""
        self.reconcile(survives)
        self._kubelet()

    def snapshot(self) -> str:
        """The job, its children, and what the operator has been told."""
        return json.dumps([self.job, self.pods, self.others, self.refusal], sort_keys=True)

    def reconcile(self, survives: int | None = None) -> None:
        """One round, of which at most `survives` actions happen."""
        if self.job is None:
            return
        self._check_time()
        plan = self._decide()
        self.set_timer(plan.next_check_seconds)
        if plan.status != self.status:
            self.job["status"] = json.loads(json.dumps(plan.status))
            self.writes += 1
            _STATUS.validate(self.job["status"])
            self._check_time()
        for action in (*plan.preparations, *plan.actions)[:survives]:
            self._carry_out(action)
        if self.rejection is None:
            self.refusal = None
        self._check_charges()

    def _decide(self) -> Plan:
        assert self.job is not None
        parsed = [parse_pod(pod) for pod in self.pods.values()]
        seen = facts.observe(
            self.job,
            parsed=recipes.parse_spec(self.job, OperatorSettings()),
            pods=[pod for pod in parsed if pod],
            progress=self.progress,
            rejection=self.refusal,
            now=self.now,
        )
        return decide(seen, OperatorSettings())

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, ApplyChild):
            self._apply(json.loads(json.dumps(action.manifest)))
        elif isinstance(action, DeletePod):
            pod = self.pods.get(action.name)
            if pod is not None and pod["metadata"]["uid"] == action.uid:
                self._delete(action.name, force=action.force)
        else:
            assert self.job is not None
            assert action.uid == self.job["metadata"]["uid"]
            self.job = None
            self.pods.clear()
            self.others.clear()

    def _apply(self, manifest: dict[str, Any]) -> None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if kind != "Pod":
            self.others[kind] = manifest
            return
        if self.rejection is not None:
            self.refusal = self.rejection
            return
        assert name not in self.pods, f"{name} exists"
        self._check_attempts(manifest)
        self._check_twins(manifest)
        if manifest["spec"].get("schedulerName") and name != names.rendezvous_name(self.name):
            assert POD_GROUP in self.others, "a gang needs its PodGroup first"
        # By name: an operator that is killed in between may create different pods in another order.
        self._created[name] += 1
        manifest["metadata"] |= {"uid": f"{name}-{self._created[name]}", "creationTimestamp": self._time()}
        manifest["status"] = {"phase": "Pending"}
        self.pods[name] = manifest

    def _delete(self, name: str, *, force: bool = False) -> None:
        if force:
            self._held.discard(name)
            del self.pods[name]
            return
        pod = self.pods[name]
        if "deletionTimestamp" not in pod["metadata"]:
            grace = timedelta(seconds=pod["spec"]["terminationGracePeriodSeconds"])
            pod["metadata"]["deletionTimestamp"] = format_time(self.now + grace)
            pod["metadata"]["deletionGracePeriodSeconds"] = pod["spec"]["terminationGracePeriodSeconds"]

    def _kubelet(self) -> None:
        for name, pod in list(self.pods.items()):
            if "deletionTimestamp" in pod["metadata"] and name not in self._held:
                del self.pods[name]

    # What happens in the world

    def run(self, indices: Iterable[int]) -> None:
        """Workers are placed and their containers become ready."""
        self._ran_at = self.now
        for index in indices:
            pod = self._living(index)
            pod["spec"].setdefault("nodeName", f"node-{index}")
            self._set(pod, "Running", {"running": {"startedAt": self._time()}}, ready=True)

    def place(self, index: int, node: str) -> None:
        pod = self._living(index)
        pod["spec"]["nodeName"] = node
        pod["status"].pop("conditions", None)

    def end(self, index: int | None, code: int, message: str = "", reason: str = "") -> None:
        """A worker, or with None the rendezvous, ends."""
        pod = self._living(index)
        self._blame(pod, code)
        ended = {"exitCode": code, "reason": reason or ("Error" if code else "Completed"), "message": message}
        state = {"terminated": {**ended, "finishedAt": self._time()}}
        self._set(pod, "Failed" if code else "Succeeded", state)

    def block(self, index: int, reason: str, message: str) -> None:
        """The kubelet cannot start the container."""
        pod = self._living(index)
        pod["spec"].setdefault("nodeName", f"node-{index}")
        self._set(pod, "Pending", {"waiting": {"reason": reason, "message": message}})

    def unschedule(self, index: int, message: str, reason: str = "Unschedulable") -> None:
        """The scheduler finds no node; or, with SchedulingGated, a queue holds the pod."""
        said = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
        self._living(index)["status"] = {"phase": "Pending", "conditions": [said]}

    def evict(self, index: int, reason: str, message: str = "") -> None:
        """The node refuses or ends a whole pod."""
        pod = self._living(index)
        self._blame(pod, 1)
        turned = {"type": "Ready", "status": "False", "lastTransitionTime": self._time()}
        pod["status"] = {"phase": "Failed", "reason": reason, "message": message, "conditions": [turned]}

    def delete(self, index: int, *, disruption: str = "", held: bool = False) -> None:
        """Somebody deletes a worker; with a disruption it is told why, and held it does not go."""
        pod = self._living(index)
        self._blame(pod, 1)
        if disruption:
            said = {"type": "DisruptionTarget", "status": "True", "reason": disruption}
            said["lastTransitionTime"] = self._time()
            pod["status"].setdefault("conditions", []).append(said)
        if held:
            self.hold(index)
        self._delete(pod["metadata"]["name"])

    def hold(self, index: int) -> None:
        """The worker does not go though it is told to: it saves for long, or its node is lost."""
        self._held.add(self.find(index) or names.worker_name(self.name, index))

    def release(self, index: int) -> None:
        self._held -= {names.worker_name(self.name, index), names.spare_worker_name(self.name, index)}

    def report(self, iteration: int, checkpoint: int | None = None, world_size: int = 1) -> None:
        """Rank 0 has done a step, and maybe saved."""
        record = make_progress(iteration, checkpoint, world_size=world_size, time=self._time())
        lived = (self.now - self._ran_at).total_seconds()
        spent = contract.TimeSpent(
            since=format_time(self._ran_at), iterations=int(lived), seconds={"training": lived}
        )
        self.progress = replace(record, progress=replace(record.progress, time=spent))

    def reject(self, message: str | None) -> None:
        """The API server refuses pods from now on; None: no more."""
        self.rejection = message

    def change(self, **spec: Any) -> None:
        """A person changes the spec."""
        assert self.job is not None
        self.job["spec"] = builders.merge(self.job["spec"], spec)
        self.job["metadata"]["generation"] += 1

    # Rules that always hold

    def _check_twins(self, manifest: dict[str, Any]) -> None:
        labels = manifest["metadata"]["labels"]
        if names.ATTEMPT in labels and (other := self.find(_index(manifest))) is not None:
            assert "deletionTimestamp" in self.pods[other]["metadata"], f"{other} works"
            assert names.rendezvous_name(self.name) in self.pods, f"nothing keeps {other} apart from it"

    def _check_attempts(self, manifest: dict[str, Any]) -> None:
        attempt = manifest["metadata"]["labels"].get(names.ATTEMPT)
        if attempt is None:
            return
        others = {
            pod["metadata"]["labels"][names.ATTEMPT]
            for pod in self._workers()
            if pod["status"]["phase"] in ("Pending", "Running")
        }
        assert others <= {attempt}, f"attempt {attempt} begins beside {others}"

    def _check_charges(self) -> None:
        restarts = self.status.get("restarts") or {}
        charged = restarts.get("application", 0) + restarts.get("infrastructure", 0)
        assert charged <= self.failures, f"{charged} failures charged, {self.failures} happened"

    def _check_time(self) -> None:
        """The account of time never takes anything back, and is that of the job's life."""
        assert self.job is not None
        exposed = accounting.seconds_by_phase(self.job, now=self.now)
        fallen = {
            phase for phase, seconds in self._seconds.items() if exposed.get(phase, 0) < seconds - 0.002
        }
        assert not fallen, f"{fallen} of {self._seconds} fell: {exposed}"
        self._seconds = exposed
        ended = self.status.get("completionTime")
        end = parse_time(ended) if ended else self.now
        life = (end - BEGINNING).total_seconds()
        assert sum(exposed.values()) <= life + 0.01, f"{exposed} of a life of {life} s"
        assert not ended or sum(exposed.values()) >= life - 0.01, f"{exposed} of a life of {life} s"

    def _blame(self, pod: dict[str, Any], code: int) -> None:
        told = "deletionTimestamp" in pod["metadata"]
        self.failures += not told and code != ExitCode.DONE

    def _workers(self) -> list[dict[str, Any]]:
        return [pod for pod in self.pods.values() if names.ATTEMPT in pod["metadata"]["labels"]]

    def _living(self, index: int | None) -> dict[str, Any]:
        name = self.find(index)
        assert name is not None, f"there is no worker {index}, only {sorted(self.pods)}"
        return self.pods[name]

    def _set(self, pod: dict[str, Any], phase: str, state: dict[str, Any], *, ready: bool = False) -> None:
        container = {"name": names.CONTAINER, "ready": ready, "state": state}
        kept = pod["status"].get("conditions", []) if phase != "Running" else []
        pod["status"] = {"phase": phase, "containerStatuses": [container], "conditions": kept}

    def _time(self) -> str:
        return format_time(self.now)


def _index(pod: Mapping[str, Any]) -> int:
    return int(pod["metadata"]["labels"][names.REPLICA_INDEX])


def make_progress(
    iteration: int, checkpoint: int | None, *, world_size: int, time: str
) -> contract.ProgressRecord:
    """What rank 0 answers after a step."""
    saved = None
    if checkpoint is not None:
        saved = contract.CheckpointStatus(
            latest=f"s3://c/step-{checkpoint}",
            iteration=checkpoint,
            time=time,
            sizeBytes=1,
            saveSeconds=1.0,
            stallSeconds=0.1,
        )
    progress = contract.Progress(
        stage=contract.Stage.TRAINING,
        iteration=iteration,
        totalIterations=1000,
        percentage=iteration // 10,
        lastProgressTime=time,
    )
    return contract.ProgressRecord(progress=progress, checkpoint=saved, worldSize=world_size)
