"""When the page of a zoo is written, by which pod, and what is done about pods that fail."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

import builders
from kubedet_operator.api import names
from kubedet_operator.decision.pods import Ending, PodFacts
from kubedet_operator.decision.policies.lost import EVICTED_FROM_LOST_NODE, PATIENCE_SECONDS
from kubedet_operator.decision.zoo.policies.page import INTERVAL_SECONDS, MOST_FAILURES
from kubedet_trainer.contract import catalogue
from zoo_simulation import ZooSimulation, settled

RETINA, RETINA_101, SSD = "retinanet_r50_fpn_1x", "retinanet_r101_fpn_1x", "ssd300_coco"
TWO = {"recipes": [RETINA, RETINA_101]}


def fail(pod: PodFacts) -> PodFacts:
    ending = Ending(exit_code=68, reason="Error", message="first\ns3://zoo: no such bucket", time=pod.created)
    return replace(pod, phase="Failed", ending=ending)


def hang(pod: PodFacts) -> PodFacts:
    return replace(pod, waiting_reason="ErrImagePull", waiting_message="no such image")


def table_of(pod: dict[str, Any]) -> dict[str, Any]:
    packed = pod["metadata"]["annotations"][names.ZOO_TABLE]
    table: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed)))
    return table


def end_one(**spec: Any) -> ZooSimulation:
    """A zoo of two rows, of which one has ended."""
    zoo = settled(rows=TWO, parallelism=2, **spec)
    zoo.succeed(RETINA, boxAP=35.0)
    zoo.settle()
    return zoo


def test_the_first_row_that_ends_makes_the_page_and_its_pod_goes() -> None:
    zoo = settled(rows=TWO, parallelism=2)
    assert not zoo.pages
    zoo.succeed(RETINA, boxAP=35.0)
    zoo.settle()
    assert (len(zoo.pages), zoo.page) == (1, None)
    assert zoo.status["reportUri"] == "s3://zoo/zoo/index.html"
    assert zoo.condition("PageWritten") == ("True", "RowsShown")
    assert [row["recipe"] for row in table_of(zoo.pages[0])["status"]["rows"]] == [RETINA_101, RETINA][::-1]


def test_rows_that_end_soon_after_come_together_and_the_end_does_not_wait() -> None:
    zoo = settled(rows={"recipes": [RETINA, RETINA_101, SSD, "ssd512_coco"]}, parallelism=4)
    zoo.succeed(RETINA)
    zoo.settle()
    for recipe in (RETINA_101, SSD):
        zoo.succeed(recipe)
        zoo.settle()
    zoo.wait(INTERVAL_SECONDS - 1)
    assert len(zoo.pages) == 1
    zoo.wait(2)
    assert len(zoo.pages) == 2
    zoo.succeed("ssd512_coco")
    zoo.settle()
    assert len(zoo.pages) == 3
    phases = {row["phase"] for row in table_of(zoo.pages[-1])["status"]["rows"]}
    assert phases == {"Succeeded"}
    zoo.wait(86400)
    assert len(zoo.pages) == 3


def test_a_page_that_is_behind_names_the_rows_that_it_lacks_until_it_shows_them() -> None:
    zoo = settled(rows={"recipes": [RETINA, RETINA_101, SSD]}, parallelism=3)
    zoo.succeed(RETINA)
    zoo.settle()
    assert zoo.condition("PageWritten") == ("True", "RowsShown")
    zoo.wait(60)
    zoo.succeed(RETINA_101)
    zoo.settle()
    assert zoo.condition("PageWritten") == ("False", "RowsBehind")
    (told,) = [item for item in zoo.status["conditions"] if item["type"] == "PageWritten"]
    assert f"these rows have ended since: {RETINA_101}; it is written again within" in told["message"]
    zoo.wait(INTERVAL_SECONDS)
    assert zoo.condition("PageWritten") == ("True", "RowsShown")
    assert len(zoo.pages) == 2


def test_what_runs_makes_no_page() -> None:
    zoo = end_one()
    zoo.change(suspend=True)
    zoo.settle()
    zoo.wait(86400)
    assert len(zoo.pages) == 1


def test_a_failed_row_is_shown_too() -> None:
    zoo = settled()
    zoo.fail(RETINA, message="loss is not finite")
    zoo.settle()
    (row,) = table_of(zoo.pages[0])["status"]["rows"]
    assert row["runs"][0]["message"] == "loss is not finite"


def test_a_pod_that_fails_is_tried_again_with_growing_delays_and_then_given_up() -> None:
    zoo = settled(rows=TWO, parallelism=2)
    zoo.page_ends = fail
    zoo.succeed(RETINA)
    zoo.settle()
    assert zoo.condition("PageWritten") == ("False", "PageFailed")
    times = [zoo.now]
    for _ in range(4 * 3600 // 10):
        known = len(zoo.pages)
        zoo.wait(10)
        if len(zoo.pages) > known:
            times.append(zoo.now)
    pauses = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    assert pauses == [30, 60, 120, 240]
    assert len(zoo.pages) == MOST_FAILURES
    (condition,) = [item for item in zoo.status["conditions"] if item["type"] == "PageWritten"]
    assert "failed with exit code 68: s3://zoo: no such bucket; it failed 5 times" in condition["message"]
    assert "reportUri" not in zoo.status
    zoo.page_ends = ZooSimulation().page_ends
    zoo.succeed(RETINA_101)
    zoo.settle()
    assert zoo.condition("PageWritten")[0] == "True"
    assert zoo.condition("Complete")[0] == "True"


def test_a_page_that_cannot_be_written_fails_no_row() -> None:
    zoo = settled()
    zoo.page_ends = fail
    zoo.succeed(RETINA)
    zoo.settle()
    zoo.wait(86400)
    assert (zoo.condition("Complete")[0], zoo.status["phase"]) == ("True", "Succeeded")


def test_a_failure_is_counted_once_although_the_operator_dies_after_it() -> None:
    zoo = settled()
    zoo.page_ends = fail
    zoo.succeed(RETINA)
    zoo.reconcile()
    for _ in range(5):
        zoo.reconcile(survives=0)
    assert zoo.status["page"]["failures"] == 1
    assert zoo.page is not None


def test_a_pod_that_does_not_start_is_told_and_waited_for() -> None:
    zoo = settled()
    zoo.page_ends = hang
    zoo.succeed(RETINA)
    zoo.settle()
    assert "PageWritten" not in {item["type"] for item in zoo.status["conditions"]}
    zoo.wait(150)
    (condition,) = [item for item in zoo.status["conditions"] if item["type"] == "PageWritten"]
    assert (condition["reason"], condition["message"]) == (
        "PageNotStarted",
        "the pod zoo-page has not started: no such image",
    )
    assert zoo.page is not None
    zoo.page = replace(zoo.page, phase="Succeeded")
    zoo.settle()
    assert zoo.condition("PageWritten")[0] == "True"
    assert not zoo.page


def test_a_pod_that_somebody_deletes_is_created_again() -> None:
    zoo = settled()
    zoo.page_ends = hang
    zoo.succeed(RETINA)
    zoo.settle()
    zoo.page = None
    zoo.page_ends = ZooSimulation().page_ends
    zoo.settle()
    zoo.wait(60)
    assert (len(zoo.pages), zoo.condition("PageWritten")[0]) == (2, "True")


def test_a_pod_on_a_lost_node_is_forced_away_and_created_again() -> None:
    zoo = settled()
    zoo.page_ends = lambda pod: replace(
        pod, phase="Running", deleting=True, gone_by=pod.created, disruption=EVICTED_FROM_LOST_NODE
    )
    zoo.succeed(RETINA)
    zoo.settle()
    assert zoo.plan().next_check_seconds == PATIENCE_SECONDS
    zoo.page_ends = ZooSimulation().page_ends
    zoo.wait(60)
    assert (len(zoo.pages), zoo.condition("PageWritten")[0]) == (2, "True")


def test_a_zoo_is_not_deleted_before_its_page_is_written_or_given_up() -> None:
    zoo = settled(ttlSecondsAfterFinished=0)
    zoo.page_ends = hang
    zoo.succeed(RETINA)
    zoo.settle()
    zoo.wait(3600)
    assert zoo.zoo is not None
    assert zoo.page is not None
    zoo.page = fail(zoo.page)
    zoo.page_ends = fail
    zoo.settle()
    zoo.wait(3600)
    assert zoo.zoo is None


def test_a_template_without_a_place_says_so_and_makes_no_pod() -> None:
    zoo = settled(template={"spec": {"checkpoint": None}})
    zoo.succeed(RETINA)
    zoo.settle()
    assert not zoo.pages
    assert zoo.condition("PageWritten") == ("False", "NoPlace")


def test_the_pod_is_small_without_a_token_and_follows_the_policies_of_the_template() -> None:
    container = {"name": "trainer", "command": ["python3", "other.py"]}
    worker: dict[str, Any] = {
        "gpus": 8,
        "replicas": 4,
        "image": "registry/own:2",
        "imagePullSecrets": [{"name": "pull"}],
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy"}],
        "template": {
            "metadata": {
                "labels": {"team": "a", names.APP_COMPONENT: "mine"},
                "annotations": {"mesh": "off"},
            },
            "spec": {
                "serviceAccountName": "boss",
                "initContainers": [{"name": "prepare", "command": ["true"]}],
                "containers": [container, {"name": "sidecar"}],
            },
        },
    }
    store = {"storageUri": "pvc://zoo/rows", "secretRef": {"name": "minio"}}
    spec = {"worker": worker, "checkpoint": store, "schedulingPolicy": {"queue": "team-a", "gang": "Kueue"}}
    zoo = settled(template={"spec": spec})
    zoo.succeed(RETINA)
    zoo.settle()
    (pod,) = zoo.pages
    metadata, pod_spec = pod["metadata"], pod["spec"]
    assert (metadata["labels"]["team"], metadata["annotations"]["mesh"]) == ("a", "off")
    assert metadata["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert metadata["labels"][names.APP_COMPONENT] == "page"
    assert metadata["ownerReferences"][0]["uid"] == "zoo-1"
    (made,) = pod_spec["containers"]
    assert made["image"] == "registry/own:2"
    assert made["command"] == [
        "python3", "-m", "kubedet_trainer.commands.kubedet", "report",
        "--zoo", "/var/lib/kubedet/zoo/table", "--output", "file:///data/checkpoint/rows/zoo",
    ]  # fmt: skip
    assert made["resources"] == {"requests": {"cpu": "100m", "memory": "256Mi"}}
    assert made["securityContext"]["readOnlyRootFilesystem"] is True
    variables = {item["name"] for item in made["env"]}
    assert {"HTTPS_PROXY", "KUBEDET_CHECKPOINT_ACCESS_KEY"} < variables
    assert pod_spec["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod_spec
    assert not {"initContainers", "hostname"} & pod_spec.keys()
    assert (pod_spec["restartPolicy"], pod_spec["imagePullSecrets"]) == ("Never", [{"name": "pull"}])
    assert {"key": "gpu", "operator": "Exists"} in pod_spec["tolerations"]
    assert zoo.status["reportUri"] == "pvc://zoo/rows/zoo/index.html"
    item = next(volume for volume in pod_spec["volumes"] if volume["name"] == "zoo")
    assert (
        item["downwardAPI"]["items"][0]["fieldRef"]["fieldPath"]
        == f"metadata.annotations['{names.ZOO_TABLE}']"
    )


@pytest.mark.parametrize("repeats", [1, 10])
def test_the_rows_of_the_largest_zoo_fit_into_its_pod(repeats: int) -> None:
    """95 rows, and as many trainings as a zoo may have, each with a message as long as it may be."""
    recipes = list(catalogue.NAMES) if repeats == 1 else [f"own.recipes:r{number}" for number in range(100)]
    zoo = settled(rows={"recipes": recipes}, repeats=repeats, parallelism=1000)
    while zoo.active():
        for recipe in sorted(zoo.active()):
            for seed in range(repeats):
                message = f"<script>{recipe} {builders.UID} {seed} " + "".join(
                    chr(33 + (number * 7919 + seed * 31 + len(recipe)) % 90) for number in range(500)
                )
                zoo.fail(recipe, seed, message)
        zoo.settle()
    pod = zoo.pages[-1]
    assert len(json.dumps(pod)) < 250_000
    assert len(table_of(pod)["status"]["rows"]) == len(recipes)
