"""Lives of a ModelZoo: what is asked for, what happens to its jobs, and what the table says then."""

from __future__ import annotations

from typing import Any

import pytest

from kubedet_operator.api import names
from kubedet_operator.decision.zoo.plan import CreateJob
from zoo_simulation import ZooSimulation, turn

RETINA, RETINA_101 = "retinanet_r50_fpn_1x", "retinanet_r101_fpn_1x"
RPN, FAST, FAST_2X = "rpn_r50_fpn_1x", "fast_rcnn_r50_fpn_1x", "fast_rcnn_r50_fpn_2x"
TWO = {"recipes": [RETINA, RETINA_101]}
EDGE = {"recipes": [FAST, FAST_2X, RPN]}
PUBLISHED = {"boxAP": 35.6}


def _start(**spec: Any) -> ZooSimulation:
    zoo = ZooSimulation(**spec)
    zoo.settle()
    return zoo


def _condition(zoo: ZooSimulation, kind: str) -> tuple[str, str]:
    found = next(item for item in zoo.status["conditions"] if item["type"] == kind)
    return found["status"], found["reason"]


def _phases(zoo: ZooSimulation) -> dict[str, str]:
    return {row["recipe"]: row["phase"] for row in zoo.status["rows"]}


def test_a_row_is_trained_by_a_job_of_its_own_and_shows_its_figures() -> None:
    zoo = _start()
    job = zoo.job(RETINA)
    assert job["spec"]["recipe"] == RETINA
    assert job["metadata"]["labels"][names.ZOO] == "zoo"
    assert job["metadata"]["ownerReferences"][0] == {
        "apiVersion": "kubedet.dev/v1alpha1",
        "kind": "ModelZoo",
        "name": "zoo",
        "uid": "zoo-1",
        "controller": True,
        "blockOwnerDeletion": True,
    }
    assert job["spec"]["checkpoint"]["storageUri"] == f"s3://zoo/zoo/{RETINA}/{zoo.row(RETINA)['hash']}"
    assert (zoo.status["phase"], zoo.status["display"]["rows"]) == ("Running", "0/1")
    zoo.succeed(RETINA, boxAP=35.9, reference=PUBLISHED, modelUri="s3://zoo/final")
    zoo.settle()
    row = zoo.row(RETINA)
    assert _condition(zoo, "Complete") == ("True", "RowsComplete")
    assert (row["phase"], row["means"]["boxAP"], row["runs"][0]["attempts"]) == ("Succeeded", 35.9, 1)
    assert row["runs"][0]["results"]["modelUri"] == "s3://zoo/final"
    assert zoo.status["display"] == {"rows": "1/1", "difference": "+0.30"}


def test_no_more_jobs_exist_at_once_than_allowed_and_they_follow_the_table() -> None:
    zoo = _start(rows={"select": [{"methods": ["retinanet"]}]}, parallelism=2)
    assert zoo.active() == {"retinanet_r50_caffe_fpn_1x", RETINA}
    zoo.succeed(RETINA)
    zoo.settle()
    assert zoo.active() == {"retinanet_r50_caffe_fpn_1x", "retinanet_r50_fpn_2x"}
    assert zoo.status["counts"] == {"total": 10, "pending": 7, "running": 2, "succeeded": 1, "failed": 0}


def test_more_parallelism_starts_more_jobs_and_less_ends_none() -> None:
    zoo = _start(rows=TWO, parallelism=2)
    zoo.change(parallelism=1)
    zoo.settle()
    assert zoo.active() == {RETINA, RETINA_101}
    zoo.change(parallelism=9, rows={"recipes": [RETINA, RETINA_101, "ssd300_coco"]})
    zoo.settle()
    assert "ssd300_coco" in zoo.active()


def test_a_fast_rcnn_waits_for_the_proposals_of_its_rpn_and_gets_them() -> None:
    zoo = _start(
        rows=EDGE,
        parallelism=9,
        template={"spec": {"checkpoint": {"secretRef": {"name": "minio"}, "endpoint": "https://minio:9000"}}},
    )
    assert zoo.active() == {RPN}
    assert zoo.job(RPN)["spec"]["writeProposals"] is True
    assert _phases(zoo) == {RPN: "Running", FAST: "Waiting", FAST_2X: "Waiting"}
    assert RPN in zoo.row(FAST)["runs"][0]["message"]
    zoo.succeed(RPN, ar1000=57.0)
    zoo.settle()
    assert zoo.active() == {FAST, FAST_2X}
    written = f"{zoo.job(RPN)['spec']['checkpoint']['storageUri']}/proposals"
    assert zoo.job(FAST)["spec"]["dataset"]["proposals"] == {
        "storageUri": written,
        "endpoint": "https://minio:9000",
        "secretRef": {"name": "minio"},
    }


def test_a_row_whose_rpn_fails_fails_too_and_both_are_trained_when_the_rpn_is_tried_again() -> None:
    zoo = _start(rows={"recipes": [RPN, FAST]})
    zoo.fail(RPN)
    zoo.settle()
    assert _phases(zoo) == {RPN: "Failed", FAST: "Failed"}
    assert _condition(zoo, "Failed") == ("True", "RowsFailed")
    zoo.delete(RPN)
    zoo.settle()
    assert (_condition(zoo, "Failed"), "completionTime" in zoo.status) == (("False", "NotFailed"), False)
    zoo.succeed(RPN)
    zoo.settle()
    zoo.succeed(FAST)
    zoo.settle()
    assert (_condition(zoo, "Complete")[0], zoo.row(RPN)["runs"][0]["attempts"]) == ("True", 2)


def test_an_rpn_that_is_done_writes_its_proposals_when_a_row_needs_them_later() -> None:
    zoo = _start(rows={"recipes": [RPN]})
    place = zoo.job(RPN)["spec"]["checkpoint"]["storageUri"]
    zoo.succeed(RPN, ar1000=57.0)
    zoo.settle()
    zoo.change(rows={"recipes": [RPN, FAST]})
    zoo.settle()
    assert zoo.active() == {RPN}
    assert zoo.job(RPN)["spec"]["checkpoint"]["storageUri"] == place  # it continues from its last state
    assert zoo.row(RPN)["means"] == {"ar1000": 57.0}
    zoo.succeed(RPN, ar1000=57.0)
    zoo.settle()
    assert zoo.active() == {FAST}


def test_proposals_that_are_given_make_no_edge() -> None:
    given = {"recipe": FAST, "spec": {"dataset": {"proposals": {"storageUri": "s3://old/proposals"}}}}
    zoo = _start(rows={"recipes": [FAST]}, changes=[given])
    assert zoo.job(FAST)["spec"]["dataset"]["proposals"] == {"storageUri": "s3://old/proposals"}


def test_a_second_apply_trains_nothing() -> None:
    zoo = _start(rows=TWO, parallelism=2)
    for recipe in (RETINA, RETINA_101):
        zoo.succeed(recipe)
    zoo.settle()
    writes, jobs = zoo.writes, dict(zoo.jobs)
    zoo.settle()
    zoo.wait(86400)
    assert (zoo.writes, zoo.jobs) == (writes, jobs)


def test_a_changed_override_trains_that_row_alone() -> None:
    zoo = _start(rows=TWO, parallelism=2)
    for recipe in (RETINA, RETINA_101):
        zoo.succeed(recipe, boxAP=35.0)
    zoo.settle()
    zoo.change(changes=[{"recipe": RETINA, "spec": {"overrides": {"optimizer.lr": "0.02"}}}])
    zoo.settle()
    assert zoo.active() == {RETINA}
    assert _phases(zoo) == {RETINA: "Running", RETINA_101: "Succeeded"}
    assert "means" not in zoo.row(RETINA) or not zoo.row(RETINA)["means"]
    assert _condition(zoo, "Complete")[0] == "False"


def test_what_says_nothing_about_the_result_trains_nothing_again() -> None:
    zoo = _start()
    zoo.succeed(RETINA)
    zoo.settle()
    zoo.change(
        template={
            "spec": {
                "worker": {"gpus": 4, "image": "other:1"},
                "backoffLimit": 9,
                "dataset": {"secretRef": {"name": "new"}, "format": "COCO"},
            }
        }
    )
    zoo.settle()
    assert not zoo.active()
    assert _condition(zoo, "Complete")[0] == "True"


def test_a_changed_rpn_trains_its_fast_rcnn_again() -> None:
    zoo = _start(rows={"recipes": [RPN, FAST]})
    zoo.succeed(RPN)
    zoo.settle()
    zoo.succeed(FAST)
    zoo.settle()
    zoo.change(changes=[{"recipe": RPN, "spec": {"overrides": {"optimizer.lr": "0.02"}}}])
    zoo.settle()
    assert _phases(zoo) == {RPN: "Running", FAST: "Waiting"}


def test_a_running_job_of_a_row_that_changed_is_replaced_once_it_is_gone() -> None:
    zoo = _start()
    before = zoo.job(RETINA)["metadata"]["uid"]
    zoo.change(changes=[{"recipe": RETINA, "spec": {"overrides": {"optimizer.lr": "0.02"}}}])
    plan = zoo.plan()
    assert not any(isinstance(action, CreateJob) for action in plan.actions)
    zoo.settle()
    assert zoo.job(RETINA)["metadata"]["uid"] != before


def test_repeats_have_seeds_and_places_of_their_own_and_show_mean_and_spread() -> None:
    zoo = _start(
        repeats=2,
        parallelism=2,
        changes=[{"recipe": RETINA, "spec": {"overrides": {"seed": "7"}}}],
    )
    first, second = zoo.job(RETINA, 0)["spec"], zoo.job(RETINA, 1)["spec"]
    assert (first["overrides"], second["overrides"]) == ({"seed": "7"}, {"seed": "8"})
    assert first["checkpoint"]["storageUri"] != second["checkpoint"]["storageUri"]
    zoo.succeed(RETINA, 0, boxAP=35.0, reference=PUBLISHED)
    zoo.settle()
    assert zoo.status["counts"]["succeeded"] == 0
    zoo.succeed(RETINA, 1, boxAP=36.0, reference=PUBLISHED)
    zoo.settle()
    row = zoo.row(RETINA)
    assert (row["means"]["boxAP"], row["spread"]["boxAP"]) == (35.5, 0.707)
    assert (row["differences"], row["verdict"]) == ({"boxAP": -0.1}, "Equal")


def test_more_repeats_keep_those_that_are_done() -> None:
    zoo = _start()
    zoo.succeed(RETINA, boxAP=35.0)
    zoo.settle()
    zoo.change(repeats=2)
    zoo.settle()
    runs = zoo.row(RETINA)["runs"]
    assert [run["phase"] for run in runs] == ["Succeeded", "Running"]


def test_suspension_suspends_what_is_unfinished_and_starts_nothing() -> None:
    zoo = _start(rows=TWO, parallelism=1)
    zoo.change(suspend=True)
    zoo.settle()
    assert zoo.job(RETINA)["spec"]["suspend"] is True
    assert zoo.active() == {RETINA}
    assert (_condition(zoo, "Suspended"), zoo.status["phase"]) == (("True", "SuspendRequested"), "Suspended")
    zoo.change(suspend=False)
    zoo.settle()
    assert zoo.job(RETINA)["spec"]["suspend"] is False
    assert names.ZOO_SUSPENDED not in zoo.job(RETINA)["metadata"]["annotations"]
    assert _condition(zoo, "Suspended") == ("False", "Resumed")


def test_a_job_that_somebody_else_suspended_stays_so_when_the_zoo_resumes() -> None:
    zoo = _start()
    job = zoo.job(RETINA)
    job["spec"]["suspend"] = True
    turn(job, "Suspended", "True")
    zoo.settle()
    assert zoo.row(RETINA)["phase"] == "Suspended"
    for suspend in (True, False):
        zoo.change(suspend=suspend)
        zoo.settle()
        assert zoo.job(RETINA)["spec"]["suspend"] is True


def test_a_suspended_job_keeps_its_slot() -> None:
    zoo = _start(rows=TWO, parallelism=1)
    job = zoo.job(RETINA)
    job["spec"]["suspend"] = True
    turn(job, "Suspended", "True")
    zoo.settle()
    assert zoo.active() == {RETINA}


def test_a_failed_row_does_not_stop_the_others() -> None:
    zoo = _start(rows=TWO)
    zoo.fail(RETINA, message="loss is NaN")
    zoo.settle()
    assert zoo.active() == {RETINA_101}
    assert zoo.row(RETINA)["runs"][0]["message"] == "loss is NaN"
    zoo.succeed(RETINA_101)
    zoo.settle()
    assert _condition(zoo, "Failed") == ("True", "RowsFailed")
    assert zoo.status["counts"]["succeeded"] == 1


def test_with_policy_stop_the_running_jobs_end_and_no_other_starts() -> None:
    zoo = _start(rows={"recipes": [RETINA, RETINA_101, "ssd300_coco"]}, parallelism=2, failurePolicy="Stop")
    zoo.fail(RETINA)
    zoo.settle()
    assert zoo.active() == {RETINA_101}
    assert _condition(zoo, "Failed")[0] == "False"
    zoo.succeed(RETINA_101)
    zoo.settle()
    assert not zoo.active()
    assert _phases(zoo)["ssd300_coco"] == "Pending"
    assert _condition(zoo, "Failed") == ("True", "RowsFailed")


def test_a_job_deleted_by_hand_is_made_again_unless_its_row_has_its_result() -> None:
    zoo = _start(rows=TWO)
    zoo.delete(RETINA)
    zoo.settle()
    assert zoo.active() == {RETINA}
    zoo.succeed(RETINA, boxAP=35.0)
    zoo.settle()
    zoo.delete(RETINA)
    zoo.settle()
    assert zoo.active() == {RETINA_101}
    assert zoo.row(RETINA)["means"]["boxAP"] == 35.0


def test_finished_jobs_are_deleted_in_time_and_take_no_figure_with_them() -> None:
    zoo = _start(rows=TWO, parallelism=2, template={"spec": {"ttlSecondsAfterFinished": 60}})
    assert "ttlSecondsAfterFinished" not in zoo.job(RETINA)["spec"]
    zoo.succeed(RETINA, boxAP=35.0, reference=PUBLISHED)
    zoo.fail(RETINA_101)
    zoo.settle()
    zoo.wait(59)
    assert len(zoo.jobs) == 2
    zoo.wait(2)
    zoo.settle()
    assert not zoo.jobs
    assert (zoo.row(RETINA)["means"]["boxAP"], zoo.row(RETINA)["published"]) == (35.0, PUBLISHED)
    assert _phases(zoo) == {RETINA: "Succeeded", RETINA_101: "Failed"}


def test_a_job_is_not_deleted_before_its_result_is_recorded() -> None:
    zoo = _start(template={"spec": {"ttlSecondsAfterFinished": 0}})
    zoo.succeed(RETINA, boxAP=35.0)
    zoo.reconcile(0)
    assert zoo.row(RETINA)["phase"] == "Succeeded"
    assert zoo.jobs
    zoo.settle()
    zoo.wait(1)
    assert not zoo.jobs


def test_a_finished_zoo_is_deleted_in_time_with_its_jobs() -> None:
    zoo = _start(ttlSecondsAfterFinished=60)
    zoo.succeed(RETINA)
    zoo.settle()
    zoo.wait(59)
    assert zoo.zoo is not None
    zoo.wait(2)
    assert zoo.status == {}
    assert not zoo.jobs


def test_a_zoo_of_another_controller_is_left_alone() -> None:
    zoo = _start(managedBy="example.com/other")
    assert (zoo.status, zoo.jobs) == ({}, {})


def test_an_invalid_change_starts_nothing_and_loses_nothing() -> None:
    zoo = _start(rows=TWO)
    zoo.succeed(RETINA, boxAP=35.0)
    zoo.settle()
    zoo.change(changes=[{"recipe": RETINA_101, "spec": {"worker": {"replicas": 0}}}])
    zoo.settle()
    failed = next(item for item in zoo.status["conditions"] if item["type"] == "Failed")
    assert failed["reason"] == "InvalidSpec"
    assert failed["message"] == "spec.changes[0].spec.worker.replicas: got 0, must be from 1 to 1000"
    assert zoo.row(RETINA)["means"]["boxAP"] == 35.0
    assert zoo.active() == {RETINA_101}
    zoo.change(changes=[])
    zoo.settle()
    assert _condition(zoo, "Failed")[0] == "False"


def test_rows_that_are_gone_leave_the_table_and_their_unfinished_jobs_end() -> None:
    zoo = _start(rows=TWO, parallelism=2)
    zoo.succeed(RETINA_101, boxAP=38.0)
    zoo.settle()
    zoo.change(rows={"recipes": ["ssd300_coco"]})
    zoo.settle()
    assert _phases(zoo) == {"ssd300_coco": "Running"}
    zoo.change(rows={"recipes": ["ssd300_coco", RETINA_101]})
    zoo.settle()
    assert zoo.row(RETINA_101)["means"]["boxAP"] == 38.0  # its job is still there


def test_a_name_that_somebody_else_has_is_told_and_not_touched() -> None:
    zoo = ZooSimulation()
    name = names.row_job_name("zoo", RETINA, 0)
    zoo.jobs[name] = {"metadata": {"name": name, "uid": "other"}, "spec": {}, "status": {}}
    zoo.settle()
    assert _condition(zoo, "Degraded") == ("True", "NameTaken")
    assert zoo.jobs[name]["metadata"]["uid"] == "other"
    del zoo.jobs[name]
    zoo.settle()
    assert (_condition(zoo, "Degraded")[0], zoo.active()) == ("False", {RETINA})


def test_a_refused_job_is_told_until_one_is_taken() -> None:
    zoo = ZooSimulation()
    zoo.rejection = "exceeded quota"
    zoo.settle()
    assert _condition(zoo, "Degraded") == ("True", "ChildRejected")
    assert zoo.row(RETINA)["phase"] == "Pending"
    zoo.rejection = None
    zoo.settle()
    assert (_condition(zoo, "Degraded")[0], zoo.active()) == ("False", {RETINA})


def test_queues_pass_through_the_template() -> None:
    zoo = _start(template={"spec": {"schedulingPolicy": {"queue": "team-a", "gang": "Kueue"}}})
    assert zoo.job(RETINA)["spec"]["schedulingPolicy"]["queue"] == "team-a"


@pytest.mark.parametrize(
    ("spec", "figures", "verdict", "reason"),
    [
        ({}, {"boxAP": 35.0}, "Below", None),
        ({}, {"boxAP": 36.2}, "Above", None),
        ({"tolerance": {"boxAP": 1}}, {"boxAP": 35.0}, "Equal", None),
        ({}, {"boxAP": 35.6, "hardware": {"precision": "bf16"}}, "NotComparable", "another precision: bf16"),
        ({}, {"boxAP": 35.6, "reference": {}}, "NotComparable", "nothing is published for this recipe"),
        (
            {"template": {"spec": {"dataset": {"storageUri": "synthetic://shapes"}}}},
            {"boxAP": 35.6},
            "NotComparable",
            "another data set",
        ),
        (
            {"template": {"spec": {"overrides": {"global_batch": "8"}}}},
            {"boxAP": 35.6},
            "NotComparable",
            "another recipe: overrides has global_batch",
        ),
    ],
)
def test_the_verdict_compares_only_what_can_be_compared(
    spec: dict[str, Any], figures: dict[str, Any], verdict: str, reason: str | None
) -> None:
    zoo = _start(**spec)
    zoo.succeed(RETINA, **{"reference": PUBLISHED, **figures})
    zoo.settle()
    row = zoo.row(RETINA)
    assert (row["verdict"], row.get("reason")) == (verdict, reason)


def test_the_table_has_a_mean_difference_with_its_standard_error() -> None:
    zoo = _start(rows=TWO, parallelism=2)
    zoo.succeed(RETINA, boxAP=35.8, reference=PUBLISHED)
    zoo.succeed(RETINA_101, boxAP=37.6, reference={"boxAP": 37.7})
    zoo.settle()
    assert zoo.status["differences"]["boxAP"] == {"mean": 0.05, "standardError": 0.15, "rows": 2}
