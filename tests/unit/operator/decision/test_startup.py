"""Pods that cannot start say why, in the words of whoever knows, and what to do."""

from __future__ import annotations

from datetime import timedelta

import pytest

import world


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
    pod = world.pod(phase="Pending", waiting=waiting, message=said)
    plan = world.decide_on(pod, now=pod.created + timedelta(seconds=20))
    for kind, status in (("Initialized", "False"), ("Degraded", "True")):
        found = world.condition(plan, kind)
        assert found[:2] == (status, reason)
        assert said in found[2]
        assert remedy in found[2]
    assert world.condition(plan, "Failed")[0] == "False"
    assert plan.actions == ()


def test_an_unschedulable_pod_carries_the_scheduler_s_words() -> None:
    said = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}]
    plan = world.decide_on(world.pod(phase="Pending", node=None, ready=False, conditions=conditions))
    assert world.condition(plan, "Initialized")[:2] == ("False", "Unschedulable")
    assert said in world.condition(plan, "Initialized")[2]


def test_a_container_that_is_not_created_for_long_is_told_of_in_time() -> None:
    waiting = world.pod(phase="Pending", waiting="ContainerCreating")
    early = waiting.created + timedelta(seconds=20)
    plan = world.decide_on(waiting, now=early)
    assert world.condition(plan, "Initialized")[1] == "WaitingForPods"
    assert plan.next_check_seconds == 100
    late = world.decide_on(waiting, now=early + timedelta(seconds=100))
    assert world.condition(late, "Initialized")[1] == "ContainerNotCreated"


def test_a_refused_child_is_told_of_in_the_api_server_s_words() -> None:
    plan = world.decide_on(rejection='pods "demo-worker-0" is forbidden: exceeded quota')
    assert world.condition(plan, "Initialized")[:2] == ("False", "ChildRejected")
    assert "exceeded quota" in world.condition(plan, "Initialized")[2]
    assert "demo-worker-0" in world.created(plan)


def test_time_in_a_queue_is_not_held_against_the_kubelet() -> None:
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:59:50Z"}
    blocked = world.pod(phase="Pending", waiting="ImagePullBackOff", conditions=[placed])
    plan = world.decide_on(blocked)
    assert world.condition(plan, "Degraded")[:2] == ("True", "ImageNotPulled")
    assert world.condition(plan, "Failed")[0] == "False"
    assert plan.next_check_seconds == 590
    creating = world.pod(phase="Pending", waiting="ContainerCreating", conditions=[placed])
    assert world.condition(world.decide_on(creating), "Initialized")[1] == "WaitingForPods"


def test_a_rendezvous_that_ran_for_long_does_not_fail_the_job_when_it_crashes() -> None:
    crashing = world.rendezvous(waiting="CrashLoopBackOff")
    starting = world.pod(0, phase="Pending", waiting="ContainerCreating")
    plan = world.decide_on(starting, world.pod(1), crashing, worker={"replicas": 2, "gpus": 0})
    assert world.condition(plan, "Failed")[0] == "False"
    assert world.condition(plan, "Degraded")[:2] == ("True", "ContainerNotCreated")


def test_an_elastic_job_that_trains_is_not_ended_by_a_worker_that_cannot_start() -> None:
    blocked = world.pod(1, phase="Pending", waiting="ErrImagePull")
    spec = {"elasticPolicy": {"maxReplicas": 2}, "checkpoint": {"storageUri": "s3://bucket/x"}}
    pods = (world.pod(0), blocked, world.rendezvous())
    plan = world.decide_on(*pods, worker={"replicas": 2, "gpus": 0}, **spec)
    assert world.condition(plan, "Failed")[0] == "False"
    assert world.condition(plan, "Running")[0] == "True"
