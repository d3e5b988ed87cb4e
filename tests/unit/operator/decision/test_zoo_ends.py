"""How a ModelZoo pauses, fails, forgets and ends, and what its table says then."""

from __future__ import annotations

from typing import Any

import pytest

from kubedet_operator.api import names
from kubedet_operator.decision.zoo.policies import start
from zoo_simulation import ZooSimulation, settled, turn

RETINA, RETINA_101 = "retinanet_r50_fpn_1x", "retinanet_r101_fpn_1x"
TWO = {"recipes": [RETINA, RETINA_101]}
PUBLISHED = {"boxAP": 35.6}


def test_suspension_suspends_what_is_unfinished_and_starts_nothing() -> None:
    zoo = settled(rows=TWO, parallelism=1)
    zoo.change(suspend=True)
    zoo.settle()
    assert zoo.job(RETINA)["spec"]["suspend"] is True
    assert zoo.active() == {RETINA}
    assert (zoo.condition("Suspended"), zoo.status["phase"]) == (("True", "SuspendRequested"), "Suspended")
    zoo.change(suspend=False)
    zoo.settle()
    assert zoo.job(RETINA)["spec"]["suspend"] is False
    assert names.ZOO_SUSPENDED not in zoo.job(RETINA)["metadata"]["annotations"]
    assert zoo.condition("Suspended") == ("False", "Resumed")


def test_a_job_that_somebody_else_suspended_stays_so_when_the_zoo_resumes() -> None:
    zoo = settled()
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
    zoo = settled(rows=TWO, parallelism=1)
    job = zoo.job(RETINA)
    job["spec"]["suspend"] = True
    turn(job, "Suspended", "True")
    zoo.settle()
    assert zoo.active() == {RETINA}


def test_a_failed_row_does_not_stop_the_others() -> None:
    zoo = settled(rows=TWO)
    zoo.fail(RETINA, message="loss is NaN")
    zoo.settle()
    assert zoo.active() == {RETINA_101}
    assert zoo.row(RETINA)["runs"][0]["message"] == "loss is NaN"
    zoo.succeed(RETINA_101)
    zoo.settle()
    assert zoo.condition("Failed") == ("True", "RowsFailed")
    assert zoo.status["counts"]["succeeded"] == 1


def test_with_policy_stop_the_running_jobs_end_and_no_other_starts() -> None:
    zoo = settled(rows={"recipes": [RETINA, RETINA_101, "ssd300_coco"]}, parallelism=2, failurePolicy="Stop")
    zoo.fail(RETINA)
    zoo.settle()
    assert zoo.active() == {RETINA_101}
    assert zoo.condition("Failed")[0] == "False"
    zoo.succeed(RETINA_101)
    zoo.settle()
    assert not zoo.active()
    assert zoo.phases()["ssd300_coco"] == "Pending"
    assert zoo.condition("Failed") == ("True", "RowsFailed")


def test_a_job_deleted_by_hand_is_made_again_unless_its_row_has_its_result() -> None:
    zoo = settled(rows=TWO)
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
    zoo = settled(rows=TWO, parallelism=2, template={"spec": {"ttlSecondsAfterFinished": 60}})
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
    assert zoo.phases() == {RETINA: "Succeeded", RETINA_101: "Failed"}


def test_a_job_is_not_deleted_before_its_result_is_recorded() -> None:
    zoo = settled(template={"spec": {"ttlSecondsAfterFinished": 0}})
    zoo.succeed(RETINA, boxAP=35.0)
    zoo.reconcile(0)
    assert zoo.row(RETINA)["phase"] == "Succeeded"
    assert zoo.jobs
    zoo.settle()
    zoo.wait(1)
    assert not zoo.jobs


def test_a_finished_zoo_is_deleted_in_time_with_its_jobs() -> None:
    zoo = settled(ttlSecondsAfterFinished=60)
    zoo.succeed(RETINA)
    zoo.settle()
    zoo.wait(59)
    assert zoo.zoo is not None
    zoo.wait(2)
    assert zoo.status == {}
    assert not zoo.jobs


def test_a_zoo_of_another_controller_is_left_alone() -> None:
    zoo = settled(managedBy="example.com/other")
    assert (zoo.status, zoo.jobs) == ({}, {})


def test_an_invalid_change_starts_nothing_and_loses_nothing() -> None:
    zoo = settled(rows=TWO)
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
    assert zoo.condition("Failed")[0] == "False"


def test_rows_that_are_gone_leave_the_table_and_their_unfinished_jobs_end() -> None:
    zoo = settled(rows=TWO, parallelism=2)
    zoo.succeed(RETINA_101, boxAP=38.0)
    zoo.settle()
    zoo.change(rows={"recipes": ["ssd300_coco"]})
    zoo.settle()
    assert zoo.phases() == {"ssd300_coco": "Running"}
    zoo.change(rows={"recipes": ["ssd300_coco", RETINA_101]})
    zoo.settle()
    assert zoo.row(RETINA_101)["means"]["boxAP"] == 38.0  # its job is still there


def test_a_name_that_somebody_else_has_is_told_and_not_touched() -> None:
    zoo = ZooSimulation()
    name = names.row_job_name("zoo", RETINA, 0)
    zoo.jobs[name] = {"metadata": {"name": name, "uid": "other"}, "spec": {}, "status": {}}
    zoo.settle()
    assert zoo.condition("Degraded") == ("True", "NameTaken")
    assert zoo.jobs[name]["metadata"]["uid"] == "other"
    assert zoo.plan().next_check_seconds == start.TAKEN_SECONDS
    del zoo.jobs[name]
    zoo.settle()
    assert (zoo.condition("Degraded")[0], zoo.active()) == ("False", {RETINA})


def test_the_name_of_a_row_that_has_its_result_is_anybody_s() -> None:
    zoo = settled()
    zoo.succeed(RETINA, boxAP=35.9)
    zoo.settle()
    zoo.job(RETINA)["metadata"] |= {"uid": "other", "ownerReferences": []}
    zoo.settle()
    assert zoo.condition("Degraded")[0] == "False"
    assert zoo.plan().next_check_seconds is None


def test_a_refused_job_is_told_until_one_is_taken() -> None:
    zoo = ZooSimulation()
    zoo.rejection = "exceeded quota"
    zoo.settle()
    assert zoo.condition("Degraded") == ("True", "ChildRejected")
    assert zoo.row(RETINA)["phase"] == "Pending"
    zoo.rejection = None
    zoo.settle()
    assert (zoo.condition("Degraded")[0], zoo.active()) == ("False", {RETINA})


def test_queues_pass_through_the_template() -> None:
    zoo = settled(template={"spec": {"schedulingPolicy": {"queue": "team-a", "gang": "Kueue"}}})
    assert zoo.job(RETINA)["spec"]["schedulingPolicy"]["queue"] == "team-a"


@pytest.mark.parametrize(
    ("spec", "figures", "verdict", "reason"),
    [
        ({}, {"boxAP": 35.0}, "Below", None),
        ({}, {"boxAP": 36.2}, "Above", None),
        ({"tolerance": {"boxAP": 1}}, {"boxAP": 35.0}, "Equal", None),
        (
            {},
            {"boxAP": 35.6, "hardware": {"precision": "bf16"}},
            "NotComparable",
            "trained in bf16, not fp32",
        ),
        ({}, {"boxAP": 36.2, "hardware": {"precision": "tf32"}}, "Above", None),
        ({}, {"boxAP": 35.6, "reference": {}}, "NotComparable", "nothing is published for this recipe"),
        (
            {"template": {"spec": {"dataset": {"storageUri": "synthetic://shapes"}}}},
            {"boxAP": 35.6},
            "NotComparable",
            "another data set than COCO: generated",
        ),
        (
            {"template": {"spec": {"overrides": {"global_batch": "8"}}}},
            {"boxAP": 35.6},
            "NotComparable",
            "the recipe is changed: global_batch",
        ),
        (
            {},
            {"boxAP": 35.6, "hardware": {"globalBatch": 8}, "validationImages": 50},
            "NotComparable",
            "8 images per step, not 16; 50 validation images, not the 5000 of COCO",
        ),
        ({}, {"boxAP": 35.6, "hardware": {"globalBatch": 16}, "validationImages": 5000}, "Equal", None),
    ],
)
def test_the_verdict_compares_only_what_can_be_compared(
    spec: dict[str, Any], figures: dict[str, Any], verdict: str, reason: str | None
) -> None:
    zoo = settled(**spec)
    zoo.succeed(RETINA, **{"reference": PUBLISHED, **figures})
    zoo.settle()
    row = zoo.row(RETINA)
    assert (row["verdict"], row.get("reason")) == (verdict, reason)


def test_the_table_has_a_mean_difference_with_its_standard_error() -> None:
    zoo = settled(rows=TWO, parallelism=2)
    zoo.succeed(RETINA, boxAP=35.8, reference=PUBLISHED)
    zoo.succeed(RETINA_101, boxAP=37.6, reference={"boxAP": 37.7})
    zoo.settle()
    assert zoo.status["differences"]["boxAP"] == {"mean": 0.05, "standardError": 0.15, "rows": 2}
