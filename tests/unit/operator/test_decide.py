"""Whole decisions, from a job and its pods to a status and actions, as a table of steps would tell them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import builders
from kubedet_operator import facts
from kubedet_operator.api import names
from kubedet_operator.decide import decide
from kubedet_operator.facts import Facts, PodFacts
from kubedet_operator.plan import ApplyChild, DeletePod, Plan
from kubedet_operator.settings import OperatorSettings
from kubedet_trainer import contract
from kubedet_trainer.contract import ExitCode

NOW = datetime(2026, 1, 1, 1, 0, 0, tzinfo=UTC)
SETTINGS = OperatorSettings()
RESULTS = contract.dump_termination_message(results=contract.Results(boxAP=37.4, secondsPerIteration=0.4))


def look(
    *pods: PodFacts,
    status: Mapping[str, Any] | None = None,
    now: datetime = NOW,
    progress: contract.ProgressRecord | None = None,
    rejection: str | None = None,
    **spec: Any,
) -> Facts:
    manifest = builders.make_manifest(**spec)
    manifest["metadata"] |= {"uid": builders.UID, "generation": 3}
    manifest["status"] = dict(status or {})
    return facts.observe(manifest, pods=pods, progress=progress, rejection=rejection, now=now)


def pod(index: int = 0, *, ended: datetime | None = None, **fields: Any) -> PodFacts:
    """A worker; with an exit code it ended long ago, or at `ended`."""
    fields.setdefault("uid", f"uid-{index}")
    if "exit_code" in fields:
        fields.setdefault("phase", "Succeeded" if fields["exit_code"] == 0 else "Failed")
    found = facts.parse_pod(builders.make_pod(index=index, **fields))
    assert found is not None
    if ended is not None and found.ending is not None:
        found = replace(found, ending=replace(found.ending, time=ended))
    return found


def rendezvous(**fields: Any) -> PodFacts:
    return pod(component=names.RENDEZVOUS, uid=fields.pop("uid", "uid-rendezvous"), **fields)


def failure(reason: str, message: str, code: int = 65) -> str:
    return contract.dump_termination_message(
        failure=contract.Failure(exitCode=code, reason=reason, message=message, rank=3)
    )


def condition(plan: Plan, kind: str) -> tuple[str, str, str]:
    found = next(item for item in plan.status["conditions"] if item["type"] == kind)
    return found["status"], found["reason"], found["message"]


def created(plan: Plan) -> set[str]:
    return {action.manifest["metadata"]["name"] for action in plan.actions if isinstance(action, ApplyChild)}


def deleted(plan: Plan) -> set[str]:
    return {action.uid for action in plan.actions if isinstance(action, DeletePod)}


def test_a_new_job_gets_all_of_its_children_at_once() -> None:
    plan = decide(look(worker={"replicas": 2, "gpus": 0}), SETTINGS)
    assert created(plan) == {"demo-workers", "demo-rendezvous", "demo-worker-0", "demo-worker-1"}
    assert plan.status["startTime"] == "2026-01-01T01:00:00Z"
    assert plan.status["observedGeneration"] == 3
    assert plan.status["phase"] == "Initializing"
    assert plan.status["workers"]["desired"] == 2


def test_one_worker_needs_no_rendezvous_pod() -> None:
    assert created(decide(look(), SETTINGS)) == {"demo-workers", "demo-worker-0"}


def test_nothing_is_done_while_all_is_well() -> None:
    plan = decide(look(pod()), SETTINGS)
    assert plan.actions == ()
    assert plan.status["phase"] == "Running"
    assert decide(look(pod(), status=plan.status), SETTINGS).status == plan.status


def test_a_missing_pod_is_made_again_though_nothing_was_charged() -> None:
    plan = decide(look(pod(0), rendezvous(), worker={"replicas": 2, "gpus": 0}), SETTINGS)
    assert created(plan) == {"demo-workers", "demo-worker-1"}
    assert plan.status["restarts"]["total"] == 0


def test_a_name_that_an_older_job_still_holds_is_waited_for() -> None:
    other = replace(pod(), job_uid="another-job")
    assert decide(look(other), SETTINGS).actions == ()


def test_an_invalid_spec_fails_without_any_pod_and_names_every_rule() -> None:
    plan = decide(look(worker={"gpus": -1, "replicas": 0}), SETTINGS)
    status, reason, message = condition(plan, "Failed")
    assert (status, reason) == ("True", "InvalidSpec")
    assert "spec.worker.gpus" in message
    assert "spec.worker.replicas" in message
    assert plan.actions == ()


def test_an_unreadable_spec_fails_likewise() -> None:
    plan = decide(look(recipee="smoke_rpn"), SETTINGS)
    assert condition(plan, "Failed")[:2] == ("True", "InvalidSpec")
    assert "recipe" in condition(plan, "Failed")[2]


def test_a_mended_spec_is_judged_anew() -> None:
    broken = decide(look(worker={"gpus": -1}), SETTINGS)
    plan = decide(look(status=broken.status), SETTINGS)
    assert condition(plan, "Failed")[0] == "False"
    assert "completionTime" not in plan.status
    assert "demo-worker-0" in created(plan)


def test_results_complete_the_job_and_are_kept() -> None:
    record = contract.ProgressRecord(
        progress=contract.Progress(
            stage=contract.Stage.EVALUATING,
            iteration=90,
            totalIterations=100,
            percentage=90,
            lastProgressTime="2026-01-01T00:00:00Z",
        )
    )
    plan = decide(look(pod(exit_code=0, message=RESULTS), progress=record), SETTINGS)
    assert condition(plan, "Complete")[:2] == ("True", "Trained")
    assert plan.status["results"]["boxAP"] == 37.4
    assert plan.status["progress"]["percentage"] == 100
    assert plan.status["phase"] == "Succeeded"
    assert plan.status["completionTime"]
    assert plan.next_check_seconds is None
    assert plan.actions == ()


def test_a_complete_job_stops_what_still_runs_and_keeps_what_has_ended() -> None:
    pods = (pod(0, exit_code=0, message=RESULTS), pod(1, exit_code=0), rendezvous())
    plan = decide(look(*pods, worker={"replicas": 2, "gpus": 0}), SETTINGS)
    assert condition(plan, "Complete")[0] == "True"
    assert deleted(plan) == {"uid-rendezvous"}


def test_a_worker_that_says_goodbye_late_delays_completion_only_for_a_while() -> None:
    worker = {"replicas": 2, "gpus": 0}
    pods = (pod(0, exit_code=0, message=RESULTS, ended=NOW - timedelta(seconds=5)), pod(1), rendezvous())
    plan = decide(look(*pods, worker=worker), SETTINGS)
    assert condition(plan, "Complete")[0] == "False"
    assert plan.next_check_seconds == 55
    later = decide(look(*pods, worker=worker, now=NOW + timedelta(seconds=56)), SETTINGS)
    assert condition(later, "Complete")[0] == "True"
    assert deleted(later) == {"uid-1", "uid-rendezvous"}


def test_success_without_results_is_a_failure_that_says_so() -> None:
    plan = decide(look(pod(exit_code=0)), SETTINGS)
    assert condition(plan, "Failed")[:2] == ("True", "ResultsMissing")


@pytest.mark.parametrize("code", [1, 2, 65, 66, 77, 93, 95, 96])
def test_a_permanent_code_fails_at_once_with_the_root_cause(code: int) -> None:
    message = failure("InvalidInput", "recipe: got 'rpnn', must be a recipe. Did you mean 'rpn'?", code)
    plan = decide(look(pod(exit_code=code, message=message)), SETTINGS)
    status, reason, text = condition(plan, "Failed")
    assert (status, reason) == ("True", "PermanentFailure")
    assert "Did you mean 'rpn'?" in text
    assert f"exit code {code}, rank 3" in text
    assert plan.status["lastFailure"]["class"] == "Permanent"
    assert plan.status["phase"] == "Failed"
    assert plan.actions == ()


def test_a_failed_pod_is_charged_and_deleted_but_its_name_is_not_taken_yet() -> None:
    plan = decide(look(pod(exit_code=137)), SETTINGS)
    assert plan.status["restarts"] == {
        "total": 1,
        "application": 1,
        "infrastructure": 0,
        "process": 0,
        "withoutProgress": 1,
        "checkpointIteration": 0,
    }
    assert plan.status["chargedPods"] == ["uid-0"]
    assert plan.status["phase"] == "Restarting"
    assert deleted(plan) == {"uid-0"}
    assert created(plan) == set()


def test_a_charged_pod_is_deleted_again_but_never_charged_twice() -> None:
    seen = pod(exit_code=137)
    first = decide(look(seen), SETTINGS)
    again = decide(look(seen, status=first.status), SETTINGS)
    assert again.status["restarts"] == first.status["restarts"]
    assert deleted(again) == {"uid-0"}
    gone = decide(look(status=again.status), SETTINGS)
    assert gone.status["chargedPods"] == []
    assert created(gone) == {"demo-workers", "demo-worker-0"}


def test_the_only_worker_gets_a_new_attempt_and_a_survivor_keeps_the_old_one() -> None:
    assert decide(look(pod(exit_code=137)), SETTINGS).status["attempt"] == 1
    pods = (pod(0), pod(1, exit_code=137), rendezvous())
    plan = decide(look(*pods, worker={"replicas": 2, "gpus": 0}), SETTINGS)
    assert plan.status["attempt"] == 0
    assert deleted(plan) == {"uid-1"}


def test_the_endings_of_peers_are_waited_for_and_not_charged() -> None:
    worker = {"replicas": 2, "gpus": 0}
    ended = NOW - timedelta(seconds=1)
    peer = pod(0, exit_code=ExitCode.PEER_FAILED, ended=ended)
    plan = decide(look(peer, pod(1), rendezvous(), worker=worker), SETTINGS)
    assert plan.actions == ()
    assert plan.next_check_seconds == 1
    cause = pod(1, exit_code=139, ended=NOW)
    later = decide(look(peer, cause, rendezvous(), worker=worker, now=NOW + timedelta(seconds=2)), SETTINGS)
    assert later.status["lastFailure"]["pod"] == "demo-worker-1"
    assert later.status["restarts"]["application"] == 1
    assert deleted(later) == {"uid-0", "uid-1"}
    assert later.status["attempt"] == 1


def test_a_peer_failure_whose_cause_is_gone_counts_as_a_disruption() -> None:
    plan = decide(look(pod(exit_code=ExitCode.PEER_FAILED)), SETTINGS)
    assert plan.status["restarts"]["infrastructure"] == 1


def test_a_permanent_failure_explains_the_failures_around_it() -> None:
    first = pod(0, exit_code=139, ended=NOW - timedelta(seconds=9))
    second = pod(
        1, exit_code=96, ended=NOW - timedelta(seconds=8), message=failure("LossNotFinite", "nan", 96)
    )
    plan = decide(look(first, second, rendezvous(), worker={"replicas": 2, "gpus": 0}), SETTINGS)
    assert condition(plan, "Failed")[1] == "PermanentFailure"
    assert plan.status["lastFailure"]["pod"] == "demo-worker-1"
    assert deleted(plan) == {"uid-rendezvous"}


def test_the_backoff_limit_counts_failures_without_a_newer_checkpoint() -> None:
    status: Mapping[str, Any] = {}
    for number in range(3):
        plan = decide(look(pod(exit_code=139, uid=f"uid-{number}"), status=status, backoffLimit=2), SETTINGS)
        status = plan.status
    assert condition(plan, "Failed")[:2] == ("True", "BackoffLimitExceeded")
    assert "spec.backoffLimit is 2" in condition(plan, "Failed")[2]


def test_a_newer_checkpoint_between_failures_resets_the_count() -> None:
    status: dict[str, Any] = {}
    for number in range(6):
        checkpoint = {
            "latest": f"s3://c/step-{number}",
            "iteration": 10 * (number + 1),
            "time": "2026-01-01T00:00:00Z",
            "sizeBytes": 1,
            "saveSeconds": 0.1,
            "stallSeconds": 0.1,
        }
        found = look(
            pod(exit_code=139, uid=f"uid-{number}"),
            status={**status, "checkpoint": checkpoint},
            backoffLimit=1,
        )
        status = dict(decide(found, SETTINGS).status)
    assert status["phase"] == "Restarting"
    assert status["restarts"]["application"] == 6
    assert status["restarts"]["withoutProgress"] == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"phase": "Failed", "exit_code": 143}, "TerminatedSaved"),
        ({"phase": "Failed", "exit_code": 154}, "StorageUnreachable"),
        ({"phase": "Running", "deletion_timestamp": "2026-01-01T00:00:00Z"}, "PodDeleted"),
        (
            {
                "phase": "Running",
                "deletion_timestamp": "2026-01-01T00:00:00Z",
                "conditions": [
                    {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
                ],
            },
            "PreemptionByScheduler",
        ),
    ],
)
def test_disruptions_are_not_counted_against_the_backoff_limit(fields: dict[str, Any], reason: str) -> None:
    plan = decide(look(pod(**fields), backoffLimit=0), SETTINGS)
    assert plan.status["restarts"]["infrastructure"] == 1
    assert plan.status["restarts"]["application"] == 0
    assert plan.status["lastFailure"]["reason"] == reason
    assert plan.status["phase"] == "Restarting"


@pytest.mark.parametrize("reason", ["Evicted", "UnexpectedAdmissionError", "OutOfcpu", "NodeLost"])
def test_a_pod_that_its_node_refused_or_evicted_is_a_disruption(reason: str) -> None:
    refused = replace(pod(phase="Failed"), reason=reason, message="the node was low on memory")
    plan = decide(look(refused), SETTINGS)
    assert plan.status["lastFailure"]["reason"] == reason
    assert plan.status["lastFailure"]["class"] == "Infrastructure"
    assert "low on memory" in plan.status["lastFailure"]["message"]


def test_disruptions_have_a_bound_of_their_own() -> None:
    status = {"restarts": {"infrastructure": 100}}
    plan = decide(look(pod(exit_code=143), status=status), SETTINGS)
    assert condition(plan, "Failed")[1] == "TooManyDisruptions"


def test_out_of_memory_says_so_and_what_to_do() -> None:
    plan = decide(look(pod(exit_code=137, reason="OOMKilled")), SETTINGS)
    assert plan.status["lastFailure"]["reason"] == "OOMKilled"
    assert "resources.limits.memory" in plan.status["lastFailure"]["message"]


def test_restarts_wait_longer_and_longer() -> None:
    status: Mapping[str, Any] = {}
    waits = []
    now = NOW
    for number in range(9):
        failed = pod(exit_code=143, uid=f"uid-{number}", ended=now)
        status = decide(look(failed, status=status, now=now), SETTINGS).status
        seconds = 0.0
        while not created(plan := decide(look(status=status, now=now), SETTINGS)):
            assert plan.next_check_seconds is not None
            seconds += plan.next_check_seconds
            now += timedelta(seconds=plan.next_check_seconds)
        waits.append(seconds)
    assert waits == [0, 10, 20, 40, 80, 160, 320, 360, 360]


def test_a_long_calm_starts_without_a_delay_again() -> None:
    first = decide(look(pod(exit_code=143, ended=NOW)), SETTINGS)
    later = NOW + timedelta(hours=1)
    second = decide(look(pod(exit_code=143, ended=later, uid="b"), status=first.status, now=later), SETTINGS)
    assert created(decide(look(status=second.status, now=later), SETTINGS))


def test_a_restart_ends_when_the_training_goes_on() -> None:
    charged = decide(look(pod(exit_code=143, ended=NOW)), SETTINGS).status
    fresh = pod(uid="fresh")

    def at(time: str) -> contract.ProgressRecord:
        return contract.ProgressRecord(
            progress=contract.Progress(stage=contract.Stage.TRAINING, lastProgressTime=time)
        )

    old = decide(look(fresh, status=charged, progress=at("2026-01-01T00:59:00Z")), SETTINGS)
    assert old.status["phase"] == "Restarting"
    new = decide(look(fresh, status=charged, progress=at("2026-01-01T01:00:05Z")), SETTINGS)
    assert new.status["phase"] == "Running"
    assert condition(new, "Restarting")[:2] == ("False", "Recovered")


@pytest.mark.parametrize(
    ("waiting", "said", "reason", "remedy"),
    [
        ("ErrImagePull", 'image "x:1" not found', "ImageNotPulled", "spec.worker.image"),
        ("ImagePullBackOff", "Back-off pulling image x:1", "ImageNotPulled", "imagePullSecrets"),
        ("InvalidImageName", "could not parse X:1", "ImageNotPulled", "spec.worker.image"),
        ("CreateContainerConfigError", 'secret "minio" not found', "SecretNotFound", "create the Secret"),
        (
            "CreateContainerConfigError",
            "couldn't find key accessKey in Secret d/minio",
            "SecretNotFound",
            "keys",
        ),
        ("CreateContainerConfigError", "runAsNonRoot and image has root", "ContainerNotCreated", "describe"),
    ],
)
def test_a_pod_that_cannot_start_says_why_and_what_to_do(
    waiting: str, said: str, reason: str, remedy: str
) -> None:
    plan = decide(look(pod(phase="Pending", waiting=waiting, message=said)), SETTINGS)
    for kind, status in (("Initialized", "False"), ("Degraded", "True")):
        found = condition(plan, kind)
        assert found[:2] == (status, reason)
        assert said in found[2]
        assert remedy in found[2]
    assert condition(plan, "Failed")[0] == "False"
    assert plan.actions == ()


def test_an_unschedulable_pod_carries_the_scheduler_s_words() -> None:
    said = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}]
    plan = decide(look(pod(phase="Pending", node=None, ready=False, conditions=conditions)), SETTINGS)
    assert condition(plan, "Initialized")[:2] == ("False", "Unschedulable")
    assert said in condition(plan, "Initialized")[2]


def test_a_container_that_is_not_created_for_long_is_told_of_in_time() -> None:
    waiting = pod(phase="Pending", waiting="ContainerCreating")
    early = waiting.created + timedelta(seconds=20)
    plan = decide(look(waiting, now=early), SETTINGS)
    assert condition(plan, "Initialized")[1] == "WaitingForPods"
    assert plan.next_check_seconds == 100
    late = decide(look(waiting, now=early + timedelta(seconds=100)), SETTINGS)
    assert condition(late, "Initialized")[1] == "ContainerNotCreated"


def test_a_refused_child_is_told_of_in_the_api_server_s_words() -> None:
    plan = decide(look(rejection='pods "demo-worker-0" is forbidden: exceeded quota'), SETTINGS)
    assert condition(plan, "Initialized")[:2] == ("False", "ChildRejected")
    assert "exceeded quota" in condition(plan, "Initialized")[2]
    assert "demo-worker-0" in created(plan)


def test_older_progress_never_replaces_newer() -> None:
    def record(time: str, iteration: int) -> contract.ProgressRecord:
        return contract.ProgressRecord(
            progress=contract.Progress(
                stage=contract.Stage.TRAINING, iteration=iteration, lastProgressTime=time
            ),
            worldSize=4,
            processRestarts=2,
        )

    new = decide(look(pod(), progress=record("2026-01-01T00:10:00Z", 50)), SETTINGS)
    old = decide(look(pod(), progress=record("2026-01-01T00:09:00Z", 40), status=new.status), SETTINGS)
    assert old.status["progress"]["iteration"] == 50
    assert new.status["workers"]["worldSize"] == 4
    assert new.status["restarts"]["process"] == new.status["restarts"]["total"] == 2


def test_a_finished_job_is_frozen() -> None:
    done = decide(look(pod(exit_code=0, message=RESULTS)), SETTINGS)
    late = decide(look(status=done.status, now=NOW + timedelta(days=1)), SETTINGS)
    assert late.actions == ()
    for field in ("results", "completionTime", "conditions"):
        assert late.status[field] == done.status[field]


ENDINGS = st.sampled_from(
    ["running", "pending", "gone", 0, 66, 137, 139, 143, 150, 151, "evicted", "deleted"]
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(ENDINGS, ENDINGS), min_size=1, max_size=12))
def test_whatever_happens_restarts_only_grow_and_every_failure_is_charged_at_most_once(
    history: list[tuple[Any, Any]],
) -> None:
    status: Mapping[str, Any] = {}
    uids: dict[int, int] = {0: 0, 1: 0}
    now = NOW
    failures = 0
    for step in history:
        now += timedelta(minutes=30)
        pods = [found for index, ending in enumerate(step) if (found := _state(index, ending, uids, now))]
        failures += any(ending not in ("running", "pending", "gone", 0) for ending in step)
        before = (status.get("restarts") or {}).get("total", 0)
        for _ in range(3):  # the same sight again must change nothing that counts
            plan = decide(
                look(*pods, rendezvous(), status=status, worker={"replicas": 2, "gpus": 0}, now=now), SETTINGS
            )
            status = plan.status
        json.dumps(status)
        assert before <= status["restarts"]["total"] <= failures
        names_created = created(plan)
        assert not names_created & {found.name for found in pods}
        for index in uids:
            uids[index] += 1


def _state(index: int, ending: Any, uids: dict[int, int], now: datetime) -> PodFacts | None:
    uid = f"uid-{index}-{uids[index]}"
    ended = now - timedelta(seconds=10)
    match ending:
        case "gone":
            return None
        case "running":
            return pod(index, uid=uid)
        case "pending":
            return pod(index, uid=uid, phase="Pending", waiting="ContainerCreating")
        case "evicted":
            return replace(pod(index, uid=uid, phase="Failed"), reason="Evicted")
        case "deleted":
            return pod(index, uid=uid, deletion_timestamp="2026-01-01T00:00:00Z")
        case _:
            return pod(index, uid=uid, exit_code=ending, ended=ended)
