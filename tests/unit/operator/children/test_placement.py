"""Queues, gangs, topology and excluded nodes in the manifests, beyond what the scenarios show."""

from __future__ import annotations

from typing import Any

import pytest

from builders import STATE, UID, make_job
from kubedet_operator.api.status import ExcludedNode
from kubedet_operator.children import workers
from kubedet_operator.children.children import build_children
from kubedet_operator.children.placement import build_pod_group
from kubedet_operator.settings import OperatorSettings

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def _worker(*excluded: ExcludedNode, attempt: int = 0, **spec: Any) -> dict[str, Any]:
    settings = OperatorSettings()
    return workers.build_worker(make_job(**spec), 0, attempt=attempt, settings=settings, excluded=excluded)


def _node(name: str, mode: Any = "Required") -> ExcludedNode:
    return ExcludedNode(name=name, mode=mode, reason="Hang", until="2026-01-01T00:00:00Z")


def test_every_term_of_the_user_rules_an_excluded_node_out() -> None:
    terms = [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"matchFields": [{"key": "x"}]}]
    affinity = {"nodeAffinity": {_REQUIRED: {"nodeSelectorTerms": terms}}, "podAntiAffinity": {"x": []}}
    pod = _worker(_node("n1"), _node("n2"), worker={"affinity": affinity})
    found = pod["spec"]["affinity"]
    for term in found["nodeAffinity"][_REQUIRED]["nodeSelectorTerms"]:
        assert [field.get("values") for field in term["matchFields"]][-2:] == [["n1"], ["n2"]]
    assert found["podAntiAffinity"] == {"x": []}
    assert len(terms[1]["matchFields"]) == 1, "the job itself stays as it is"


def test_an_avoided_node_is_a_preference_beside_the_user_s() -> None:
    mine = {"nodeAffinity": {_PREFERRED: [{"weight": 1, "preference": {}}]}}
    pod = _worker(_node("n", "Preferred"), worker={"affinity": mine})
    weights = [term["weight"] for term in pod["spec"]["affinity"]["nodeAffinity"][_PREFERRED]]
    assert weights == [1, 100]
    assert _REQUIRED not in pod["spec"]["affinity"]["nodeAffinity"]


def test_the_rendezvous_pod_may_run_anywhere_and_is_in_no_gang() -> None:
    scheduling = {"gang": "Volcano", "queue": "q", "priorityClassName": "high"}
    children = build_children(
        make_job(worker={"replicas": 2}, schedulingPolicy=scheduling),
        attempt=0,
        settings=OperatorSettings(),
        excluded=[_node("n")],
    )
    rendezvous = next(child for child in children if child["metadata"]["name"] == "demo-rendezvous")
    assert not {"affinity", "schedulerName"} & rendezvous["spec"].keys()
    assert rendezvous["spec"]["priorityClassName"] == "high"


@pytest.mark.parametrize(
    ("scheduling", "queued"),
    [
        ({"queue": "q"}, True),
        ({"queue": "q", "gang": "Coscheduling"}, True),
        ({"queue": "q", "gang": "Volcano"}, False),
        ({}, False),
    ],
)
def test_a_queue_is_kueue_s_unless_volcano_has_its_own(scheduling: dict[str, Any], queued: bool) -> None:
    labels = _worker(schedulingPolicy=scheduling)["metadata"]["labels"]
    assert ("kueue.x-k8s.io/queue-name" in labels) == queued


def test_every_attempt_is_a_group_of_its_own_that_kueue_does_not_wait_for() -> None:
    pod = _worker(attempt=3, schedulingPolicy={"queue": "q", "gang": "Kueue"}, worker={"replicas": 2})
    assert pod["metadata"]["labels"]["kueue.x-k8s.io/pod-group-name"] == f"demo-{UID[:8]}-3"
    assert pod["metadata"]["annotations"]["kueue.x-k8s.io/retriable-in-group"] == "false"


def test_a_required_topology_is_required() -> None:
    topology = {"key": "zone", "mode": "Required"}
    term = _worker(schedulingPolicy={"topology": topology})["spec"]["affinity"]["podAffinity"][_REQUIRED][0]
    assert term["topologyKey"] == "zone"
    assert term["labelSelector"]["matchLabels"]["kubedet.dev/job-name"] == "demo"


def test_a_podgroup_belongs_to_the_job_and_to_nobody_without_a_gang() -> None:
    group = build_pod_group(make_job(schedulingPolicy={"gang": "Coscheduling"}))
    assert group is not None
    assert group["metadata"]["ownerReferences"][0]["uid"] == UID
    assert build_pod_group(make_job(schedulingPolicy={"gang": "Kueue", "queue": "q"})) is None


def test_the_template_has_the_last_word() -> None:
    pod = _worker(
        schedulingPolicy={"gang": "Volcano"}, worker={"template": {"spec": {"schedulerName": "mine"}}}
    )
    assert pod["spec"]["schedulerName"] == "mine"


def test_an_elastic_job_of_one_worker_has_a_rendezvous_for_those_to_come() -> None:
    job = make_job(checkpoint=STATE, elasticPolicy={"maxReplicas": 3})
    kinds = [
        child["metadata"]["name"] for child in build_children(job, attempt=0, settings=OperatorSettings())
    ]
    assert "demo-rendezvous" in kinds
