"""A ModelZoo with its jobs in memory: decisions are carried out, jobs end as tests say, rules always hold.

What the operator knows of the jobs may lag behind, it may die after any action, and every round may be
repeated.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import jsonschema

import builders
from clockwork import Clockwork
from kubedet_operator.api import names, schema, types, validation
from kubedet_operator.decision.pods import PodFacts
from kubedet_operator.decision.zoo.decide import decide_zoo
from kubedet_operator.decision.zoo.facts import observe_zoo
from kubedet_operator.decision.zoo.plan import (
    CreateJob,
    CreatePage,
    DeletePage,
    DeleteRowJob,
    SuspendJob,
    ZooAction,
    ZooPlan,
)
from kubedet_trainer import contract
from kubedet_trainer.contract.times import format_time

_ZOO = jsonschema.Draft202012Validator(schema.build_schema(schema.ZOO))
_JOB = jsonschema.Draft202012Validator(schema.build_schema())
SPEC: dict[str, Any] = {
    "rows": {"recipes": ["retinanet_r50_fpn_1x"]},
    "template": {"spec": {"dataset": {"storageUri": "s3://coco"}, "checkpoint": {"storageUri": "s3://zoo"}}},
}


def make_zoo(*, name: str = "zoo", namespace: str = "default", **spec: Any) -> dict[str, Any]:
    """A ModelZoo as a user writes it, `spec` laid over one row of COCO."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.ZOO_KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": builders.merge(SPEC, spec),
    }


class ZooSimulation(Clockwork):
    """One zoo in a cluster of its own."""

    rounds = 60

    def __init__(self, **spec: Any) -> None:
        super().__init__()
        self.zoo: dict[str, Any] | None = make_zoo(**spec)
        self.zoo["metadata"] |= {"uid": "zoo-1", "generation": 1, "creationTimestamp": self._time()}
        _ZOO.validate(self.zoo)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.rejection: str | None = None
        """What the API server says to whoever creates a job; None: it creates them."""
        self.refusal: str | None = None
        """What the operator has been told so."""
        self.page: PodFacts | None = None
        """The pod that writes the page."""
        self.page_ends: Callable[[PodFacts], PodFacts] = end_well
        """What becomes of every such pod at once."""
        self.pages: list[dict[str, Any]] = []
        """The manifests of all such pods."""
        self.trained: Counter[str] = Counter()
        """Job name to the number of trainings of it that came to their end."""
        self.writes = 0
        self._created = 0
        self._results: dict[tuple[str, int, str], dict[str, Any]] = {}

    # What decisions do

    @property
    def status(self) -> dict[str, Any]:
        """The status of the zoo; empty once it is deleted."""
        return dict((self.zoo or {}).get("status") or {})

    def plan(self, jobs: Mapping[str, dict[str, Any]] | None = None) -> ZooPlan:
        """What the operator decides that knows `jobs`, by default all there are."""
        assert self.zoo is not None
        known = self.jobs if jobs is None else jobs
        return decide_zoo(
            observe_zoo(self.zoo, jobs=known.values(), rejection=self.refusal, page=self.page, now=self.now)
        )

    def reconcile(self, survives: int | None = None) -> None:
        """One round, of which at most `survives` actions happen."""
        if self.zoo is None:
            return
        plan = self.plan()
        self.set_timer(plan.next_check_seconds)
        if plan.status != self.status:
            self.zoo["status"] = json.loads(json.dumps(plan.status))
            self.writes += 1
            _ZOO.validate(self.zoo)
        for action in plan.actions[:survives]:
            self.carry_out(action)
        if self.rejection is None:
            self.refusal = None
        self.check_rules()

    def condition(self, kind: str) -> tuple[str, str]:
        """Status and reason of the condition of this type."""
        found = next(item for item in self.status["conditions"] if item["type"] == kind)
        return found["status"], found["reason"]

    def phases(self) -> dict[str, str]:
        """The phase of each row by its recipe."""
        return {row["recipe"]: row["phase"] for row in self.status["rows"]}

    def carry_out(self, action: ZooAction) -> None:
        """What the API server does about one action; one that comes too late does nothing."""
        if isinstance(action, CreateJob):
            self._create(json.loads(json.dumps(action.manifest)))
        elif isinstance(action, CreatePage):
            self._create_page(json.loads(json.dumps(action.manifest)))
        elif isinstance(action, DeletePage):
            if self.page is not None and self.page.uid == action.uid:
                self.page = None
        elif self.zoo is not None and not isinstance(action, SuspendJob | DeleteRowJob):
            assert action.uid == self.zoo["metadata"]["uid"]
            self.zoo = None
            self.jobs.clear()
        elif isinstance(action, SuspendJob | DeleteRowJob):
            job = self.jobs.get(action.name)
            if job is None or job["metadata"]["uid"] != action.uid:
                return
            if isinstance(action, DeleteRowJob):
                del self.jobs[action.name]
                return
            job["spec"]["suspend"] = action.suspend
            given = job["metadata"]["annotations"]
            given.pop(names.ZOO_SUSPENDED, None)
            if action.suspend:
                given[names.ZOO_SUSPENDED] = "true"
                turn(job, "Suspended", "True")
            else:
                turn(job, "Suspended", "False")

    def _create(self, manifest: dict[str, Any]) -> None:
        name = manifest["metadata"]["name"]
        if self.rejection is not None:
            self.refusal = self.rejection
            return
        if name in self.jobs:
            return
        _JOB.validate(manifest)
        assert not validation.validate(types.parse_job(manifest))
        given = manifest["metadata"]["annotations"]
        key = (given[names.ZOO_RECIPE], int(given[names.ZOO_SEED]), given[names.ZOO_HASH])
        assert key not in self._results or manifest["spec"].get("writeProposals"), f"{key} has its results"
        assert self.zoo is not None
        unfinished = [job for job, known in self.jobs.items() if not has_ended(known)]
        assert len(unfinished) < self.zoo["spec"].get("parallelism", 1), f"{name} beside {unfinished}"
        self._created += 1
        manifest["metadata"]["uid"] = f"{name}-{self._created}"
        manifest["status"] = {}
        self.jobs[name] = manifest

    def _create_page(self, manifest: dict[str, Any]) -> None:
        assert self.zoo is not None
        assert self.page is None, "two pods write one page"
        assert sum(len(text) for text in manifest["metadata"]["annotations"].values()) < 262144
        self.pages.append(manifest)
        name = manifest["metadata"]["name"]
        pod = PodFacts(
            name=name,
            uid=f"{name}-{len(self.pages)}",
            job="zoo",
            job_uid=self.zoo["metadata"]["uid"],
            component=names.PAGE,
            created=self.now,
        )
        self.page = self.page_ends(pod)

    # What happens in the world

    def job(self, recipe: str, seed: int = 0) -> dict[str, Any]:
        """The job that trains a row."""
        return self.jobs[names.row_job_name("zoo", recipe, seed)]

    def succeed(self, recipe: str, seed: int = 0, **figures: Any) -> None:
        """A row's job completes."""
        job = self.job(recipe, seed)
        results = contract.Results(
            recipe=recipe, **{"hardware": {"precision": "fp32", "worldSize": 8}, **figures}
        )
        document = {name: value for name, value in asdict(results).items() if value is not None}
        if job["spec"].get("writeProposals"):
            document["proposalsUri"] = f"{job['spec']['checkpoint']['storageUri']}/proposals"
        self._end(job, "Complete", {"results": document})
        self.trained[job["metadata"]["name"]] += 1

    def fail(self, recipe: str, seed: int = 0, message: str = "out of memory") -> None:
        """A row's job fails."""
        self._end(self.job(recipe, seed), "Failed", {}, message)

    def delete(self, recipe: str, seed: int = 0) -> None:
        """A person deletes a row's job."""
        del self.jobs[names.row_job_name("zoo", recipe, seed)]

    def change(self, **spec: Any) -> None:
        """A person changes the spec."""
        assert self.zoo is not None
        self.zoo["spec"] = builders.merge(self.zoo["spec"], spec)
        self.zoo["metadata"]["generation"] += 1

    def row(self, recipe: str) -> dict[str, Any]:
        """A row of the status."""
        return next(row for row in self.status["rows"] if row["recipe"] == recipe)

    def active(self) -> set[str]:
        """Recipes whose jobs have not ended."""
        return {
            job["metadata"]["annotations"][names.ZOO_RECIPE]
            for job in self.jobs.values()
            if not has_ended(job)
        }

    # Rules that always hold

    def check_rules(self) -> None:
        """No finished row is lost."""
        if self.zoo is None:
            return
        runs = {
            (row["recipe"], run["seed"], row["hash"]): run.get("results")
            for row in self.status.get("rows", ())
            for run in row["runs"]
        }
        lost = {key for key in self._results if key in runs and runs[key] is None}
        assert not lost, f"results of {lost} are lost"
        # What the table has forgotten, because it was asked for something else, may be trained again.
        self._results = {key: results for key, results in runs.items() if results is not None}

    def _end(self, job: dict[str, Any], kind: str, fields: dict[str, Any], message: str = "") -> None:
        job["status"] |= {**fields, "completionTime": self._time()}
        turn(job, "Suspended", "False")
        turn(job, kind, "True", message)

    def play_round(self, survives: int | None) -> None:
        """The operator acts."""
        self.reconcile(survives)

    def snapshot(self) -> str:
        """The zoo, its jobs, and what the operator has been told."""
        return json.dumps([self.zoo, self.jobs, self.refusal, str(self.page)], sort_keys=True)

    def _time(self) -> str:
        return format_time(self.now)


def end_well(pod: PodFacts) -> PodFacts:
    """The pod has written the page."""
    return replace(pod, phase="Succeeded")


def turn(job: dict[str, Any], kind: str, status: str, message: str = "") -> None:
    """Turn a condition of a job."""
    known = [item for item in job["status"].get("conditions", []) if item["type"] != kind]
    job["status"]["conditions"] = [*known, {"type": kind, "status": status, "message": message}]


def has_ended(job: Mapping[str, Any]) -> bool:
    """Whether a job is Complete or Failed."""
    return any(
        item["type"] in ("Complete", "Failed") and item["status"] == "True"
        for item in job["status"].get("conditions", [])
    )


def settled(**spec: Any) -> ZooSimulation:
    """A zoo of which everything that can be done at once is done."""
    zoo = ZooSimulation(**spec)
    zoo.settle()
    return zoo
