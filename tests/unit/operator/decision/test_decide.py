"""Whole decisions: from a job and its pods to a status and actions."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

import world
from kubedet_operator.api.status import format_seconds
from kubedet_trainer import contract


def test_a_new_job_gets_all_of_its_children_at_once() -> None:
    plan = world.decide_on(worker={"replicas": 2, "gpus": 0})
    assert world.created(plan) == {"demo-workers", "demo-rendezvous", "demo-worker-0", "demo-worker-1"}
    assert plan.status["startTime"] == "2026-01-01T01:00:00Z"
    assert plan.status["observedGeneration"] == 3
    assert plan.status["phase"] == "Initializing"
    assert plan.status["workers"]["desired"] == 2
    assert plan.status["display"] == {"workers": "0/2"}


def test_one_worker_needs_neither_a_service_nor_a_rendezvous_pod() -> None:
    assert world.created(world.decide_on()) == {"demo-worker-0"}


def test_nothing_is_done_while_all_is_well() -> None:
    plan = world.decide_on(world.pod())
    assert plan.actions == ()
    assert plan.status["phase"] == "Running"
    assert world.decide_on(world.pod(), status=plan.status).status == plan.status


def test_a_name_that_an_older_job_still_holds_is_waited_for() -> None:
    other = replace(world.pod(), job_uid="another-job")
    assert world.decide_on(other).actions == ()


def test_an_invalid_spec_fails_without_any_pod_and_names_every_rule() -> None:
    plan = world.decide_on(worker={"gpus": -1, "replicas": 0})
    status, reason, message = world.condition(plan, "Failed")
    assert (status, reason) == ("True", "InvalidSpec")
    assert "spec.worker.gpus" in message
    assert "spec.worker.replicas" in message
    assert plan.actions == ()


def test_an_unreadable_spec_fails_likewise() -> None:
    plan = world.decide_on(recipee="smoke_rpn")
    assert world.condition(plan, "Failed")[:2] == ("True", "InvalidSpec")
    assert "recipe" in world.condition(plan, "Failed")[2]


def test_a_mended_spec_is_judged_anew() -> None:
    broken = world.decide_on(worker={"gpus": -1})
    plan = world.decide_on(status=broken.status)
    assert world.condition(plan, "Failed")[0] == "False"
    assert "completionTime" not in plan.status
    assert "demo-worker-0" in world.created(plan)


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
    plan = world.decide_on(world.pod(exit_code=0, message=world.RESULTS), progress=record)
    assert world.condition(plan, "Complete")[:2] == ("True", "Trained")
    assert plan.status["results"]["boxAP"] == 37.4
    assert plan.status["progress"]["percentage"] == 100
    assert plan.status["phase"] == "Succeeded"
    assert plan.status["completionTime"]
    assert plan.next_check_seconds is None
    assert plan.actions == ()


def test_a_training_that_ended_early_is_complete_and_says_why_and_where() -> None:
    reason = "stopped after epoch 7 of 12: boxAP was not better than 41.2 (epoch 4) in 3 evaluations"
    results = contract.Results(
        boxAP=41.2, checkpoint="Best", epoch=4, iterations=70, endedEarly=reason, leftOut={"crowds": 3}
    )
    record = contract.ProgressRecord(
        progress=contract.Progress(
            stage=contract.Stage.TRAINING, iteration=65, totalIterations=120, percentage=54
        )
    )
    message = contract.dump_termination_message(results=results)
    plan = world.decide_on(world.pod(exit_code=0, message=message), progress=record)
    status, trained, text = world.condition(plan, "Complete")
    assert (status, trained) == ("True", "Trained")
    assert text.endswith(reason)
    progress = plan.status["progress"]
    assert (progress["iteration"], progress["totalIterations"], progress["percentage"]) == (70, 70, 100)
    row = plan.status["results"]
    assert (row["checkpoint"], row["epoch"], row["endedEarly"]) == ("Best", 4, reason)
    assert row["leftOut"] == {"crowds": 3}


def test_a_complete_job_stops_what_still_runs_and_keeps_what_has_ended() -> None:
    pods = (world.pod(0, exit_code=0, message=world.RESULTS), world.pod(1, exit_code=0), world.rendezvous())
    plan = world.decide_on(*pods, worker={"replicas": 2, "gpus": 0})
    assert world.condition(plan, "Complete")[0] == "True"
    assert world.deleted(plan) == {"uid-rendezvous"}


def test_a_worker_that_says_goodbye_late_delays_completion_only_for_a_while() -> None:
    worker = {"replicas": 2, "gpus": 0}
    pods = (
        world.pod(0, exit_code=0, message=world.RESULTS, ended=world.NOW - timedelta(seconds=5)),
        world.pod(1),
        world.rendezvous(),
    )
    plan = world.decide_on(*pods, worker=worker)
    assert world.condition(plan, "Complete")[0] == "False"
    assert plan.next_check_seconds == 55
    later = world.decide_on(*pods, worker=worker, now=world.NOW + timedelta(seconds=56))
    assert world.condition(later, "Complete")[0] == "True"
    assert world.deleted(later) == {"uid-1"}, "the rendezvous goes last"


def test_success_without_results_is_a_failure_that_says_so() -> None:
    plan = world.decide_on(world.pod(exit_code=0))
    assert world.condition(plan, "Failed")[:2] == ("True", "ResultsMissing")


def test_older_progress_never_replaces_newer() -> None:
    def record(time: str, iteration: int) -> contract.ProgressRecord:
        return contract.ProgressRecord(
            progress=contract.Progress(
                stage=contract.Stage.TRAINING, iteration=iteration, lastProgressTime=time
            ),
            worldSize=4,
            processRestarts=2,
        )

    new = world.decide_on(world.pod(), progress=record("2026-01-01T00:10:00Z", 50))
    old = world.decide_on(world.pod(), progress=record("2026-01-01T00:09:00Z", 40), status=new.status)
    assert old.status["progress"]["iteration"] == 50
    assert new.status["workers"]["worldSize"] == 4
    assert new.status["restarts"]["process"] == 2
    assert (
        new.status["restarts"]["total"] == 0
    )  # those of pods; one lost pod restarts every other's processes


def test_a_finished_job_is_frozen() -> None:
    done = world.decide_on(world.pod(exit_code=0, message=world.RESULTS))
    late = world.decide_on(status=done.status, now=world.NOW + timedelta(days=1))
    assert late.actions == ()
    for field in ("results", "completionTime", "conditions"):
        assert late.status[field] == done.status[field]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (42, "42s"), (65, "1m05s"), (12000, "3h20m"), (187200, "2d04h")]
)
def test_a_duration_reads_in_its_two_leading_units(seconds: int, text: str) -> None:
    assert format_seconds(seconds) == text
