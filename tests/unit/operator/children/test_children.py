"""Services and pods, beyond what the golden manifests show."""

from __future__ import annotations

from typing import Any

import pytest

from builders import UID, make_job
from kubedet_operator.api import names
from kubedet_operator.children import workers
from kubedet_operator.children.children import build_children
from kubedet_operator.settings import OperatorSettings

SETTINGS = OperatorSettings(trainer_image="trainer:test")


def _worker(index: int = 0, attempt: int = 0, **spec: Any) -> dict[str, Any]:
    return workers.build_worker(make_job(**spec), index, attempt=attempt, settings=SETTINGS)


def _container(pod: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = pod["spec"]["containers"][0]
    return container


def _environment(pod: dict[str, Any]) -> dict[str, Any]:
    variables = _container(pod)["env"]
    assert len({variable["name"] for variable in variables}) == len(variables)
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in variables}


def test_a_job_that_never_has_more_than_one_worker_is_one_pod() -> None:
    (worker,) = build_children(make_job(), attempt=0, settings=SETTINGS)
    assert worker["metadata"]["name"] == "demo-worker-0"
    assert "KUBEDET_RENDEZVOUS_ENDPOINT" not in _environment(worker)
    assert not {"hostname", "subdomain"} & worker["spec"].keys()


def test_one_worker_that_may_get_peers_is_found_by_name_from_the_start() -> None:
    elastic = {"minReplicas": 1, "maxReplicas": 2}
    job = make_job(elasticPolicy=elastic, checkpoint={"storageUri": "s3://checkpoints/x"})
    children = build_children(job, attempt=0, settings=SETTINGS)
    names_ = [child["metadata"]["name"] for child in children]
    assert names_ == ["demo-workers", "demo-rendezvous", "demo-worker-0"]


def test_several_workers_meet_at_the_rendezvous_pod() -> None:
    children = build_children(make_job(worker={"replicas": 2}), attempt=4, settings=SETTINGS)
    service, rendezvous, first, second = children
    endpoint = "demo-rendezvous.demo-workers.default.svc:29400"
    for pod in (rendezvous, first, second):
        assert _environment(pod)["KUBEDET_RENDEZVOUS_ENDPOINT"] == endpoint
        assert pod["metadata"]["labels"].items() >= service["spec"]["selector"].items()
        assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    assert rendezvous["spec"]["hostname"] == "demo-rendezvous"
    assert _environment(first)["KUBEDET_RENDEZVOUS_ID"] == f"{UID}-4"
    assert _environment(second)["KUBEDET_REPLICA_INDEX"] == "1"


@pytest.mark.parametrize("uid", [UID, None])
def test_children_belong_to_the_job_once_it_is_stored(uid: str | None) -> None:
    for child in build_children(make_job(uid=uid, worker={"replicas": 2}), attempt=0, settings=SETTINGS):
        owners = child["metadata"].get("ownerReferences", [])
        assert [owner["uid"] for owner in owners] == ([uid] if uid else [])
        assert all(owner["controller"] and owner["blockOwnerDeletion"] for owner in owners)


@pytest.mark.parametrize(
    ("worker", "limits", "processes"),
    [
        ({"gpus": 0}, None, "1"),
        ({"gpus": 8}, {"nvidia.com/gpu": "8"}, "8"),
        ({"gpus": 2, "gpuResource": "amd.com/gpu", "procsPerReplica": 1}, {"amd.com/gpu": "2"}, "1"),
    ],
)
def test_gpus_become_limits_and_processes(
    worker: dict[str, Any], limits: dict[str, str] | None, processes: str
) -> None:
    pod = _worker(worker=worker)
    assert _container(pod)["resources"].get("limits") == limits
    assert _environment(pod)["KUBEDET_PROCS_PER_REPLICA"] == processes
    assert _environment(pod)["KUBEDET_GPUS"] == str(worker["gpus"])


@pytest.mark.parametrize(
    ("worker", "size"),
    [
        ({"gpus": 8}, "16Gi"),
        ({"gpus": 0}, "1Gi"),
        ({"gpus": 8, "resources": {"limits": {"memory": "8Gi"}}}, "8Gi"),
        ({"gpus": 8, "sharedMemory": "3Gi"}, "3Gi"),
    ],
)
def test_shared_memory_fits_the_memory_limit(worker: dict[str, Any], size: str) -> None:
    volumes = {volume["name"]: volume for volume in _worker(worker=worker)["spec"]["volumes"]}
    assert volumes["shared-memory"]["emptyDir"] == {"medium": "Memory", "sizeLimit": size}


def test_threads_follow_the_cpu_limit_unless_the_user_sets_them() -> None:
    resources = {"limits": {"cpu": "16"}}
    assert _environment(_worker(worker={"gpus": 8, "resources": resources}))["OMP_NUM_THREADS"] == "2"
    assert "OMP_NUM_THREADS" not in _environment(_worker())
    env = [{"name": "OMP_NUM_THREADS", "value": "7"}]
    assert _environment(_worker(worker={"resources": resources, "env": env}))["OMP_NUM_THREADS"] == "7"


def test_secrets_are_references_and_an_explicit_endpoint_wins() -> None:
    pod = _worker(
        checkpoint={
            "storageUri": "s3://checkpoints/x",
            "secretRef": {"name": "minio"},
            "endpoint": "https://minio:9000",
        }
    )
    environment = _environment(pod)
    assert environment["KUBEDET_CHECKPOINT_ENDPOINT"] == "https://minio:9000"
    secret = environment["KUBEDET_CHECKPOINT_SECRET_KEY"]
    assert secret == {"secretKeyRef": {"name": "minio", "key": "secretKey"}}
    assert environment["KUBEDET_CHECKPOINT_CA"]["secretKeyRef"]["optional"] is True


def test_claims_are_mounted_once_each_and_become_paths() -> None:
    pod = _worker(
        dataset={"storageUri": "pvc://coco/2017", "proposals": {"storageUri": "pvc://rpn/1x"}},
        weightsMirror="pvc://zoo",
        checkpoint={"storageUri": "pvc://runs/x", "resume": "pvc://coco/old"},
    )
    environment = _environment(pod)
    assert environment["KUBEDET_DATASET_URI"] == "file:///data/dataset/2017"
    assert environment["KUBEDET_CHECKPOINT_URI"] == "file:///data/checkpoint/x"
    assert environment["KUBEDET_CHECKPOINT_RESUME"] == "file:///data/resume/old"
    claims = [
        (volume["name"], volume["persistentVolumeClaim"]["claimName"])
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert environment["KUBEDET_PROPOSALS_URI"] == "file:///data/proposals/1x"
    assert environment["KUBEDET_WEIGHTS_MIRROR"] == "file:///data/weights-mirror"
    assert claims == [
        ("dataset", "coco"),
        ("proposals", "rpn"),
        ("checkpoint", "runs"),
        ("weights-mirror", "zoo"),
    ]
    mounts = {mount["mountPath"]: mount for mount in _container(pod)["volumeMounts"]}
    assert mounts["/data/dataset"]["readOnly"] is True
    assert mounts["/data/resume"] == {"name": "dataset", "mountPath": "/data/resume", "readOnly": True}
    assert "readOnly" not in mounts["/data/checkpoint"]


def test_without_a_place_checkpoints_live_as_long_as_the_pod() -> None:
    assert _environment(_worker())["KUBEDET_CHECKPOINT_URI"] == "file:///var/lib/kubedet/checkpoints"


def test_a_disabled_benchmark_times_no_image() -> None:
    assert _environment(_worker(benchmark={"enabled": False}))["KUBEDET_BENCHMARK_IMAGES"] == "0"


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ([], ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]),
        (
            [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            ["nvidia.com/gpu", "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"],
        ),
        (
            [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 600}],
            ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"],
        ),
        ([{"operator": "Exists"}], [None]),
    ],
)
def test_a_lost_node_is_tolerated_for_30_s_unless_the_user_says_otherwise(
    given: list[dict[str, Any]], keys: list[str | None]
) -> None:
    tolerations = _worker(worker={"tolerations": given})["spec"]["tolerations"]
    assert [toleration.get("key") for toleration in tolerations] == keys
    assert tolerations[: len(given)] == given


def test_the_template_comes_last_but_identity_stays() -> None:
    template = {
        "metadata": {"labels": {names.JOB_NAME: "evil", "team": "a"}, "annotations": {"x": "y"}},
        "spec": {
            "priorityClassName": "high",
            "containers": [{"name": "trainer", "env": [{"name": "PYTHONPATH", "value": "/opt"}]}],
        },
    }
    pod = _worker(worker={"template": template})
    assert pod["metadata"]["labels"][names.JOB_NAME] == "demo"
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["metadata"]["annotations"].items() >= {"x": "y", "prometheus.io/scrape": "true"}.items()
    assert pod["spec"]["priorityClassName"] == "high"
    assert _environment(pod)["PYTHONPATH"] == "/opt"
    assert _environment(pod)["KUBEDET_RECIPE"] == "smoke_faster_rcnn"


def test_the_rendezvous_pod_takes_the_template_but_not_its_resources() -> None:
    container = {"name": "trainer", "image": "other", "resources": {"limits": {"nvidia.com/gpu": 8}}}
    job = make_job(worker={"replicas": 2, "template": {"spec": {"containers": [container]}}})
    pod = workers.build_rendezvous(job, settings=SETTINGS)
    assert _container(pod)["image"] == "other"
    assert _container(pod)["resources"] == {"requests": {"cpu": "50m", "memory": "32Mi"}}


def test_building_is_pure() -> None:
    job = make_job(worker={"replicas": 2, "template": {"spec": {"volumes": [{"name": "x"}]}}})
    assert build_children(job, attempt=1, settings=SETTINGS) == build_children(
        job, attempt=1, settings=SETTINGS
    )


def test_image_settings_of_the_job_win_over_the_operators() -> None:
    worker = {"image": "mine:1", "imagePullPolicy": "Never", "imagePullSecrets": [{"name": "registry"}]}
    pod = _worker(worker=worker)
    assert _container(_worker())["image"] == "trainer:test"
    assert (_container(pod)["image"], _container(pod)["imagePullPolicy"]) == ("mine:1", "Never")
    assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
