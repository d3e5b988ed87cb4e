"""What a ModelZoo trains: which rows, in which order, and which again when the zoo changes."""

from __future__ import annotations

from kubedet_operator.api import names
from kubedet_operator.decision.zoo.plan import CreateJob
from zoo_simulation import settled

RETINA, RETINA_101 = "retinanet_r50_fpn_1x", "retinanet_r101_fpn_1x"
RPN, FAST, FAST_2X = "rpn_r50_fpn_1x", "fast_rcnn_r50_fpn_1x", "fast_rcnn_r50_fpn_2x"
TWO = {"recipes": [RETINA, RETINA_101]}
EDGE = {"recipes": [FAST, FAST_2X, RPN]}
PUBLISHED = {"boxAP": 35.6}


def test_a_row_is_trained_by_a_job_of_its_own_and_shows_its_figures() -> None:
    zoo = settled()
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
    assert zoo.condition("Complete") == ("True", "RowsComplete")
    assert (row["phase"], row["means"]["boxAP"], row["runs"][0]["attempts"]) == ("Succeeded", 35.9, 1)
    assert row["runs"][0]["results"]["modelUri"] == "s3://zoo/final"
    assert zoo.status["display"] == {"rows": "1/1", "difference": "+0.30"}


def test_no_more_jobs_exist_at_once_than_allowed_and_they_follow_the_table() -> None:
    zoo = settled(rows={"select": [{"methods": ["retinanet"]}]}, parallelism=2)
    assert zoo.active() == {"retinanet_r50_caffe_fpn_1x", RETINA}
    zoo.succeed(RETINA)
    zoo.settle()
    assert zoo.active() == {"retinanet_r50_caffe_fpn_1x", "retinanet_r50_fpn_2x"}
    assert zoo.status["counts"] == {"total": 10, "pending": 7, "running": 2, "succeeded": 1, "failed": 0}


def test_more_parallelism_starts_more_jobs_and_less_ends_none() -> None:
    zoo = settled(rows=TWO, parallelism=2)
    zoo.change(parallelism=1)
    zoo.settle()
    assert zoo.active() == {RETINA, RETINA_101}
    zoo.change(parallelism=9, rows={"recipes": [RETINA, RETINA_101, "ssd300_coco"]})
    zoo.settle()
    assert "ssd300_coco" in zoo.active()


def test_a_fast_rcnn_waits_for_the_proposals_of_its_rpn_and_gets_them() -> None:
    zoo = settled(
        rows=EDGE,
        parallelism=9,
        template={"spec": {"checkpoint": {"secretRef": {"name": "minio"}, "endpoint": "https://minio:9000"}}},
    )
    assert zoo.active() == {RPN}
    assert zoo.job(RPN)["spec"]["writeProposals"] is True
    assert zoo.phases() == {RPN: "Running", FAST: "Waiting", FAST_2X: "Waiting"}
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
    zoo = settled(rows={"recipes": [RPN, FAST]})
    zoo.fail(RPN)
    zoo.settle()
    assert zoo.phases() == {RPN: "Failed", FAST: "Failed"}
    assert zoo.condition("Failed") == ("True", "RowsFailed")
    zoo.delete(RPN)
    zoo.settle()
    assert (zoo.condition("Failed"), "completionTime" in zoo.status) == (("False", "NotFailed"), False)
    zoo.succeed(RPN)
    zoo.settle()
    zoo.succeed(FAST)
    zoo.settle()
    assert (zoo.condition("Complete")[0], zoo.row(RPN)["runs"][0]["attempts"]) == ("True", 2)


def test_an_rpn_that_is_done_writes_its_proposals_when_a_row_needs_them_later() -> None:
    zoo = settled(rows={"recipes": [RPN]})
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
    zoo = settled(rows={"recipes": [FAST]}, changes=[given])
    assert zoo.job(FAST)["spec"]["dataset"]["proposals"] == {"storageUri": "s3://old/proposals"}


def test_a_second_apply_trains_nothing() -> None:
    zoo = settled(rows=TWO, parallelism=2)
    for recipe in (RETINA, RETINA_101):
        zoo.succeed(recipe)
    zoo.settle()
    writes, jobs = zoo.writes, dict(zoo.jobs)
    zoo.settle()
    zoo.wait(86400)
    assert (zoo.writes, zoo.jobs) == (writes, jobs)


def test_a_changed_override_trains_that_row_alone() -> None:
    zoo = settled(rows=TWO, parallelism=2)
    for recipe in (RETINA, RETINA_101):
        zoo.succeed(recipe, boxAP=35.0)
    zoo.settle()
    zoo.change(changes=[{"recipe": RETINA, "spec": {"overrides": {"optimizer.lr": "0.02"}}}])
    zoo.settle()
    assert zoo.active() == {RETINA}
    assert zoo.phases() == {RETINA: "Running", RETINA_101: "Succeeded"}
    assert "means" not in zoo.row(RETINA) or not zoo.row(RETINA)["means"]
    assert zoo.condition("Complete")[0] == "False"


def test_what_says_nothing_about_the_result_trains_nothing_again() -> None:
    zoo = settled()
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
    assert zoo.condition("Complete")[0] == "True"


def test_a_changed_rpn_trains_its_fast_rcnn_again() -> None:
    zoo = settled(rows={"recipes": [RPN, FAST]})
    zoo.succeed(RPN)
    zoo.settle()
    zoo.succeed(FAST)
    zoo.settle()
    zoo.change(changes=[{"recipe": RPN, "spec": {"overrides": {"optimizer.lr": "0.02"}}}])
    zoo.settle()
    assert zoo.phases() == {RPN: "Running", FAST: "Waiting"}


def test_a_running_job_of_a_row_that_changed_is_replaced_once_it_is_gone() -> None:
    zoo = settled()
    before = zoo.job(RETINA)["metadata"]["uid"]
    zoo.change(changes=[{"recipe": RETINA, "spec": {"overrides": {"optimizer.lr": "0.02"}}}])
    plan = zoo.plan()
    assert not any(isinstance(action, CreateJob) for action in plan.actions)
    zoo.settle()
    assert zoo.job(RETINA)["metadata"]["uid"] != before


def test_repeats_have_seeds_and_places_of_their_own_and_show_mean_and_spread() -> None:
    zoo = settled(
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


def test_a_row_can_have_repeats_of_its_own() -> None:
    zoo = settled(
        rows={"recipes": [RETINA, "ssd300_coco"]},
        parallelism=5,
        changes=[{"recipe": RETINA, "repeats": 3}],
    )
    seeds = {row["recipe"]: [run["seed"] for run in row["runs"]] for row in zoo.status["rows"]}
    assert seeds == {RETINA: [0, 1, 2], "ssd300_coco": [0]}
    zoo.change(repeats=2)
    zoo.settle()
    assert [len(row["runs"]) for row in zoo.status["rows"]] == [3, 2]


def test_more_repeats_keep_those_that_are_done() -> None:
    zoo = settled()
    zoo.succeed(RETINA, boxAP=35.0)
    zoo.settle()
    zoo.change(repeats=2)
    zoo.settle()
    runs = zoo.row(RETINA)["runs"]
    assert [run["phase"] for run in runs] == ["Succeeded", "Running"]
