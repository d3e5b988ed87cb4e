"""Jobs that an operator of another version has looked after: nothing restarts, is lost or harmed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import builders
import first_release
from kubedet_operator.api import decoding, names
from kubedet_operator.api.conditions import ConditionType
from kubedet_operator.api.status import DetectionJobStatus
from kubedet_operator.decision import facts, reports
from kubedet_operator.decision.decide import decide
from kubedet_operator.decision.plan import ApplyChild, Plan
from kubedet_operator.decision.pods import PodFacts, parse_pod
from kubedet_operator.settings import OperatorSettings
from kubedet_trainer import contract
from kubedet_trainer.contract import Stage
from kubedet_trainer.settings import read_settings
from world import RESULTS, SETTINGS, condition, created, decide_on, deleted, pod
from zoo_simulation import settled

CLUSTER = first_release.read_cluster()
JOBS = {job["metadata"]["name"]: job for job in CLUSTER["DetectionJob"]}
RUNNING = ("single", "pair", "elastic", "restarted")
LENIENT = "lenient"
"""Runs, although this version refuses an address with a password."""
RETINA = "retinanet_r50_fpn_1x"
UNKNOWN = {
    "type": "Entangled",
    "status": "True",
    "reason": "Spooky",
    "message": "",
    "lastTransitionTime": "2026-11-29T00:00:00Z",
}
COSMIC = {"restarts": {"cosmic": 7}, "surprise": {"depth": {"of": "unknown"}}}
"""What a status of a newer version may have in addition."""


def _pods(job: Mapping[str, Any]) -> list[PodFacts]:
    parsed = (parse_pod(item) for item in CLUSTER["Pod"])
    return [found for found in parsed if found and found.job_uid == job["metadata"]["uid"]]


def _decide(
    job: Mapping[str, Any],
    pods: list[PodFacts] | None = None,
    *,
    settings: OperatorSettings = SETTINGS,
    **what: Any,
) -> Plan:
    newest = max(datetime.fromisoformat(item["lastTransitionTime"]) for item in job["status"]["conditions"])
    seen = facts.observe(
        job,
        pods=_pods(job) if pods is None else pods,
        progress=None,
        now=newest + timedelta(seconds=60),
        **what,
    )
    return decide(seen, settings)


def _turned(status: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [(item["type"], item["status"], item["reason"]) for item in status["conditions"]]


def _merge(job: Mapping[str, Any], **status: Any) -> dict[str, Any]:
    return {**job, "status": builders.merge(json.loads(json.dumps(job["status"])), status)}


@pytest.mark.parametrize("name", [*RUNNING, LENIENT])
def test_a_running_job_of_the_first_release_is_taken_over_without_any_action(name: str) -> None:
    job = JOBS[name]
    plan = _decide(job)
    assert (plan.preparations, plan.actions) == ((), ())
    before, after = job["status"], plan.status
    assert _turned(after) == _turned(before)
    assert (after["attempt"], after["restarts"], after["phase"]) == (
        before["attempt"],
        before["restarts"],
        before["phase"],
    )
    assert after.get("failureHistory") == before.get("failureHistory")
    again = _decide({**job, "status": after})
    assert (again.status, again.actions) == (after, ())


@pytest.mark.parametrize("name", RUNNING)
def test_a_lost_worker_of_the_first_release_is_replaced_alone_or_with_its_attempt(name: str) -> None:
    job = JOBS[name]
    pods = _pods(job)
    lost = next(item for item in pods if item.name.endswith("worker-0"))
    plan = _decide(job, [item for item in pods if item is not lost])
    assert {name for name in created(plan) if not name.endswith("-workers")} == {lost.name}
    assert deleted(plan) == set()


@pytest.mark.parametrize("name", RUNNING)
def test_fields_of_a_newer_version_survive_a_decision_and_change_none(name: str) -> None:
    job = _merge(JOBS[name], **COSMIC)
    job["status"]["conditions"].append({**UNKNOWN})
    plan = _decide(job)
    assert plan.actions == ()
    assert plan.status["restarts"]["cosmic"] == 7
    assert plan.status["surprise"] == COSMIC["surprise"]
    assert UNKNOWN in plan.status["conditions"]
    assert _turned(plan.status) == _turned(job["status"])


def test_fields_of_a_newer_version_survive_in_the_status_of_a_zoo() -> None:
    zoo = settled()
    assert zoo.zoo is not None
    zoo.zoo["status"] |= {"surprise": 7}
    zoo.zoo["status"]["conditions"].append({**UNKNOWN})
    plan = zoo.plan()
    assert plan.status == zoo.status
    assert plan.actions == ()


def test_rows_are_not_trained_again_because_versions_hash_them_differently() -> None:
    zoo = settled()
    assert zoo.zoo is not None
    for row in zoo.zoo["status"]["rows"]:
        row["hash"] = "0" * 16
    for job in zoo.jobs.values():
        job["metadata"]["annotations"][names.ZOO_HASH] = "0" * 16
    assert zoo.plan().actions == ()
    zoo.change(template={"spec": {"overrides": {"optimizer.lr": "0.01"}}})
    zoo.settle()
    assert zoo.row(RETINA)["hash"] != "0" * 16


@pytest.mark.parametrize("name", RUNNING)
def test_another_digest_of_the_same_training_restarts_nothing(name: str) -> None:
    plan = _decide(_merge(JOBS[name], training="0" * 16))
    assert plan.actions == ()
    assert plan.status["attempt"] == JOBS[name]["status"]["attempt"]
    changed = builders.merge(json.loads(json.dumps(JOBS[name])), {"spec": {"recipe": "smoke_rpn"}})
    changed["metadata"]["generation"] += 1
    changed["status"]["training"] = "0" * 16
    changed["status"]["progress"] = None
    assert _decide(changed).status["attempt"] == JOBS[name]["status"]["attempt"] + 1


def test_a_failed_job_is_not_revived_because_versions_differ() -> None:
    failed = decide_on(recipe="Mask RCNN")
    assert condition(failed, "Failed")[:2] == ("True", "InvalidSpec")
    ended = {**failed.status, "training": "0" * 16}
    ended["conditions"] = [
        {**item, "reason": "BackoffLimitExceeded"} if item["type"] == "Failed" else item
        for item in ended["conditions"]
    ]
    assert condition(decide_on(status=ended), "Failed")[0] == "True"


def test_an_elastic_job_whose_size_another_version_writes_otherwise_keeps_its_workers() -> None:
    job = json.loads(json.dumps(JOBS["elastic"]))
    del job["status"]["elastic"]["batch"]
    plan = _decide(job)
    assert plan.actions == ()
    assert plan.status["elastic"]["batch"] == JOBS["elastic"]["status"]["elastic"]["batch"]
    del job["status"]["elastic"]
    assert _decide(job).status["attempt"] == job["status"]["attempt"]


REFUSED = [
    pytest.param({"surprise": 1}, "spec.surprise: got 1, there is no such field", id="a field"),
    pytest.param(
        {"weightsMirror": "https://ann:pw@host"}, "must be https://host/path without a user", id="a rule"
    ),
]


@pytest.mark.parametrize(("spec", "said"), REFUSED)
def test_a_running_job_that_this_version_would_refuse_continues_until_it_needs_a_new_pod(
    spec: dict[str, Any], said: str
) -> None:
    job = builders.merge(json.loads(json.dumps(JOBS["pair"])), {"spec": spec})
    plan = _decide(job)
    assert (plan.actions, condition(plan, "Failed")[0]) == ((), "False")
    again = _decide({**job, "status": plan.status})
    assert (again.status, again.actions) == (plan.status, ())

    lost = _decide({**job, "status": plan.status}, [item for item in _pods(job) if item.index != 1])
    status, reason, message = condition(lost, "Failed")
    assert (status, reason) == ("True", "InvalidSpec")
    assert said in message
    # The newer operator is back: it reads the spec, and withdraws the verdict.
    restored = _decide({**JOBS["pair"], "status": lost.status})
    assert condition(restored, "Failed")[0] == "False"


def test_a_spec_that_cannot_be_read_is_told_while_the_workers_continue() -> None:
    job = builders.merge(json.loads(json.dumps(JOBS["pair"])), {"spec": {"surprise": 1}})
    status, reason, message = condition(_decide(job), "Degraded")
    assert (status, reason) == ("True", "InvalidSpec")
    assert "spec.surprise: got 1" in message
    assert "upgrade the operator" in message
    back = _decide({**JOBS["pair"], "status": _decide(job).status})
    assert condition(back, "Degraded")[:2] == ("False", "AsExpected")
    assert back.actions == ()


def test_a_running_job_of_a_recipe_that_this_version_does_not_know_continues() -> None:
    job = JOBS["pair"]
    read = facts.parse_spec(job)
    parsed = facts.Parsed(read.job, (), read.training, "spec.recipe: got 'x', there is no such recipe")
    plan = _decide(job, parsed=parsed)
    assert (plan.actions, condition(plan, "Failed")[0]) == ((), "False")


def test_a_new_job_with_a_field_of_a_newer_version_is_refused_with_the_field() -> None:
    new = {**builders.merge(json.loads(json.dumps(JOBS["pair"])), {"spec": {"surprise": 1}})}
    new["status"] = {}
    plan = decide(facts.observe(new, pods=[], progress=None, now=datetime.now(UTC)), SETTINGS)
    assert condition(plan, "Failed")[:2] == ("True", "InvalidSpec")


def test_a_stage_of_a_newer_trainer_hides_no_progress() -> None:
    progress = contract.Progress(stage=Stage.TRAINING, iteration=7, totalIterations=9, percentage=77)
    answer = json.loads(json.dumps(asdict(contract.ProgressRecord(progress=progress))))
    answer["progress"] |= {"stage": "Calibrating", "flops": 1e12}
    answer["mood"] = "good"
    record = reports.read_progress(json.dumps(answer).encode())
    assert record is not None
    assert (record.progress.stage, record.progress.iteration) == (Stage.TRAINING, 7)
    stored = _merge(JOBS["single"], progress={**answer["progress"], "lastProgressTime": None})
    assert _decide(stored).status["progress"]["iteration"] == 7


def test_a_report_of_the_first_release_lacks_what_came_later_and_is_read() -> None:
    answer = {
        "progress": {"stage": "Training", "iteration": 40, "totalIterations": 100, "percentage": 40},
        "worldSize": 2,
        "processRestarts": 1,
    }
    record = reports.read_progress(json.dumps(answer).encode())
    assert record is not None
    assert (record.progress.iteration, record.worldSize, record.straggler) == (40, 2, None)
    ended = reports.read_termination('{"results": {"boxAP": 37.4, "surprise": {"x": 1}}, "mood": 1}')
    assert ended.results is not None
    assert ended.results.boxAP == 37.4


def test_time_that_a_newer_version_has_booked_stays_booked() -> None:
    job = _merge(JOBS["single"], time={"phase": "hibernating", "seconds": {"hibernating": 30.5}})
    seconds = _decide(job).status["time"]["seconds"]
    assert seconds["hibernating"] >= 30.5


def test_an_image_that_knows_no_measurement_does_not_pass_for_one() -> None:
    told = {"task": "Measure", "pretrained": {"storageUri": "s3://weights/x.pth"}}
    plan = decide_on(pod(exit_code=0, message=RESULTS), **told)
    status, reason, message = condition(plan, "Failed")
    assert (status, reason) == ("True", "ResultsMissing")
    assert "the trainer image is older than this operator" in message


def test_what_every_status_keeps_is_a_field_of_the_api() -> None:
    known = decoding.field_types(DetectionJobStatus)
    for job in CLUSTER["DetectionJob"]:
        assert set(job["status"]) <= set(known), "the first release wrote a field that this version has lost"
        for item in job["status"]["conditions"]:
            assert item["type"] in [kind.value for kind in ConditionType]


@pytest.mark.parametrize("worker", [item for item in CLUSTER["Pod"] if "worker" in item["metadata"]["name"]])
def test_this_trainer_understands_what_the_first_release_asks_for(worker: dict[str, Any]) -> None:
    (container,) = worker["spec"]["containers"]
    asked = {item["name"]: item.get("value", "7") for item in container["env"]}
    read = read_settings({**asked, "KUBEDET_OF_A_NEWER_VERSION": "yes"})
    assert read.recipe == "smoke_faster_rcnn"
    assert read.job_name == worker["metadata"]["labels"][names.JOB_NAME]
    assert read.checkpoint.uri == asked["KUBEDET_CHECKPOINT_URI"]


NEWER = replace(SETTINGS, trainer_image="kubedet-trainer:0.2.0")


@pytest.mark.parametrize("lost", ["pair-worker-1", "pair-rendezvous"])
def test_pods_of_two_images_never_work_together(lost: str) -> None:
    """Nothing restarts because the image of new pods is another one, until one of them is needed."""
    job = JOBS["pair"]
    pods = _pods(job)
    settled = _decide(job, settings=NEWER)
    assert (settled.actions, settled.status["attempt"]) == ((), job["status"]["attempt"])

    rest = [item for item in pods if item.name != lost]
    plan = _decide(job, rest, settings=NEWER)
    assert plan.status["attempt"] == job["status"]["attempt"] + 1
    assert deleted(plan) == {item.uid for item in rest}
    assert created(plan) == set()
    assert condition(plan, "Restarting")[:2] == ("True", "Resized")
    gone = _decide({**job, "status": plan.status}, [], settings=NEWER)
    assert created(gone) >= {"pair-rendezvous", "pair-worker-0", "pair-worker-1"}
    assert gone.status["restarts"] == job["status"]["restarts"]
    assert gone.status["attempt"] == plan.status["attempt"]


def test_a_webhook_that_rewrites_images_starts_no_new_attempt() -> None:
    started = decide_on(worker={"replicas": 2, "gpus": 0})
    manifests = [action.manifest for action in started.actions if isinstance(action, ApplyChild)]
    seen = []
    for built in manifests:
        if built["kind"] != "Pod":
            continue
        made = json.loads(json.dumps(built))
        made["metadata"] |= {"uid": built["metadata"]["name"], "creationTimestamp": "2026-01-01T00:00:00Z"}
        made["spec"]["containers"][0]["image"] = "mirror.example/kubedet-trainer@sha256:0123"
        found = parse_pod(made)
        assert found is not None
        seen.append(found)
    assert len(seen) == 3
    rest = [item for item in seen if item.index != 1]
    plan = decide_on(*rest, status=started.status, worker={"replicas": 2, "gpus": 0})
    assert (created(plan), deleted(plan)) == ({"demo-workers", "demo-worker-1"}, set())


def test_an_image_that_lacks_a_module_is_named_as_one_of_another_version() -> None:
    log = (
        "/usr/bin/python3: Error while finding module specification for 'kubedet_trainer.worker.launch' "
        "(ModuleNotFoundError: No module named 'kubedet_trainer.worker')"
    )
    status, _, message = condition(decide_on(pod(exit_code=1, message=log)), "Failed")
    assert status == "True"
    assert "it is of another version than this operator; set spec.worker.image" in message
