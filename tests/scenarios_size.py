"""Scenarios: how many workers there are, and where."""

from __future__ import annotations

from scenario import ELASTIC, NO_GPU, STATE, THREE, TWO, Scenario, crash

SIZES = [
    Scenario(
        name="other bounds make a new attempt, for the workers know theirs from the start",
        spec=ELASTIC,
        steps=[
            {"run": [0, 1]},
            {"change": {"elasticPolicy": {"maxReplicas": 8}}},
            {"expect": {"attempt": 1, "workers": [0, 1], "pod 0 env KUBEDET_MAX_REPLICAS": "8"}},
            {"expect": {"restarts.total": 0, "Restarting": "True Resized spec.elasticPolicy has changed"}},
        ],
    ),
    Scenario(
        name="a job becomes elastic while it runs",
        spec={"worker": TWO, "checkpoint": STATE},
        steps=[
            {"run": [0, 1]},
            {"change": {"elasticPolicy": {"maxReplicas": 4}}},
            {"expect": {"attempt": 1, "workers": [0, 1], "pod 0 env KUBEDET_MIN_REPLICAS": "1"}},
        ],
    ),
    Scenario(
        name="a job of one worker has no Service and no rendezvous until it gets a second one",
        spec={"worker": {"replicas": 1, "gpus": 0}},
        steps=[
            {"run": [0]},
            {"expect": {"workers": [0], "service": False, "rendezvous": False}},
            {"change": {"worker": {"replicas": 2}}},
            {"expect": {"workers": [0, 1], "service": True, "rendezvous": True, "attempt": 1}},
            {"run": [0, 1]},
            {"change": {"worker": {"replicas": 1}}},
            {"expect": {"workers": [0], "rendezvous": False, "attempt": 2, "restarts.total": 0}},
        ],
    ),
    Scenario(
        name="an elastic job grows after a delay and the next checkpoint",
        covers=("kubeflow/trainer#2903", "kubeflow/trainer#1509"),
        spec=ELASTIC,
        steps=[
            {"run": [0, 1]},
            {"report": {"iteration": 10, "checkpoint": 10}},
            {"mark": None},
            {"change": {"worker": {"replicas": 4}}},
            {"expect": {"workers": [0, 1], "elastic.absent": [2, 3]}},
            {"wait": 101},
            {"expect": {"workers": [0, 1]}},
            {"report": {"iteration": 20, "checkpoint": 20}},
            {"expect": {"workers": [0, 1, 2, 3], "same": [0, 1], "attempt": 0, "elastic.absent": []}},
            {"expect": {"pod 3 env KUBEDET_MAX_REPLICAS": "4", "restarts.total": 0}},
        ],
    ),
    Scenario(
        name="a wish that does not last changes nothing",
        covers=("kubeflow/trainer#1509",),
        spec=ELASTIC,
        steps=[
            {"run": [0, 1]},
            {"change": {"worker": {"replicas": 3}}},
            {"wait": 50},
            {"change": {"worker": {"replicas": 2}}},
            {"wait": 200},
            {"report": {"iteration": 20, "checkpoint": 20}},
            {"expect": {"workers": [0, 1], "elastic.absent": []}},
        ],
    ),
    Scenario(
        name="an elastic job that has not begun takes its new size at once",
        spec=ELASTIC,
        steps=[{"change": {"worker": {"replicas": 3}}}, {"expect": {"workers": [0, 1, 2]}}],
    ),
    Scenario(
        name="an elastic job shrinks by its highest indices, which save first",
        covers=("kubeflow/trainer#1509",),
        spec={**ELASTIC, "worker": THREE},
        steps=[
            {"run": [0, 1, 2]},
            {"mark": None},
            {"hold": {"index": 2}},
            {"change": {"worker": {"replicas": 1}}},
            {"expect": {"workers": [0], "same": [0], "Running": "True", "workers.desired": 1}},
            {"end": {"index": 2, "code": 143}},
            {"release": {"index": 2}},
            {"expect": {"workers": [0], "restarts.total": 0, "attempt": 0}},
        ],
    ),
    Scenario(
        name="an elastic job goes on without a worker that has no place, and tries again",
        covers=("volcano-sh/volcano#3171", "volcano-sh/volcano#4607", "volcano-sh/volcano#5805"),
        spec=ELASTIC,
        steps=[
            {"run": [0, 1]},
            {"report": {"iteration": 10, "checkpoint": 10}},
            {"evict": {"index": 0, "reason": "Evicted"}},
            {"wait": 2},
            {"unschedule": {"index": 0, "message": NO_GPU}},
            {"expect": {"Running": "True", "workers": [0, 1]}},
            {"wait": 1},
            {"report": {"iteration": 12}},
            {"wait": 61},
            {"expect": {"workers": [1], "elastic.absent": [0], "Restarting": "False", "Degraded": "False"}},
            {"wait": 101},
            {"report": {"iteration": 20, "checkpoint": 20}},
            {"expect": {"workers": [0, 1], "restarts.total": 1}},
        ],
    ),
    Scenario(
        name="below its least size an elastic job waits",
        spec={**ELASTIC, "elasticPolicy": {"minReplicas": 2, "maxReplicas": 4}},
        steps=[
            {"run": [0, 1]},
            {"evict": {"index": 0, "reason": "Evicted"}},
            {"wait": 2},
            {"unschedule": {"index": 0, "message": NO_GPU}},
            {"wait": 3600},
            {"expect": {"workers": [0, 1], "Running": "False", "Degraded": "True Unschedulable"}},
        ],
    ),
    Scenario(
        name="another size makes a new attempt of a job that is not elastic",
        spec={"worker": TWO},
        steps=[
            {"run": [0, 1]},
            {"hold": {"index": 1}},
            {"change": {"worker": {"replicas": 3}}},
            {"expect": {"workers": [], "Restarting": "True Resized", "attempt": 1}},
            {"release": {"index": 1}},
            {"expect": {"workers": [0, 1, 2], "pod 0 env KUBEDET_REPLICAS": "3", "restarts.total": 0}},
            {"run": [0, 1, 2]},
            {"expect": {"Restarting": "False Recovered", "Running": "True"}},
        ],
    ),
]

GANGS = [
    Scenario(
        name="Volcano waits for the fewest that can train",
        covers=("kubeflow/trainer#1571", "volcano-sh/volcano#5946", "pytorch/torchx#540"),
        spec={
            **ELASTIC,
            "schedulingPolicy": {"gang": "Volcano", "queue": "team-a", "priorityClassName": "high"},
        },
        steps=[
            {"expect": {"PodGroup spec.minMember": 1, "PodGroup spec.queue": "team-a", "workers": [0, 1]}},
            {"expect": {"pod 0 spec.schedulerName": "volcano", "pod 0 spec.priorityClassName": "high"}},
            {"expect": {"pod 1 annotation scheduling.k8s.io/group-name": "demo"}},
        ],
    ),
    Scenario(
        name="coscheduling has its PodGroup before the first pod",
        covers=("scheduler-plugins#713", "scheduler-plugins#114", "scheduler-plugins#450"),
        spec={"worker": TWO, "schedulingPolicy": {"gang": "Coscheduling"}},
        steps=[
            {"expect": {"PodGroup spec.minMember": 2, "PodGroup apiVersion": "scheduling.x-k8s.io/v1alpha1"}},
            {"expect": {"pod 0 label scheduling.x-k8s.io/pod-group": "demo"}},
        ],
    ),
    Scenario(
        name="Kueue admits the workers of an attempt as one group",
        covers=("kubernetes-sigs/kueue#15661", "kubernetes-sigs/kueue#13646"),
        spec={"worker": TWO, "schedulingPolicy": {"gang": "Kueue", "queue": "team-a"}},
        steps=[
            {"expect": {"pod 0 label kueue.x-k8s.io/queue-name": "team-a"}},
            {"expect": {"pod 0 annotation kueue.x-k8s.io/pod-group-total-count": "2"}},
            {"unschedule": {"index": 0, "message": "gated", "reason": "SchedulingGated"}},
            {"unschedule": {"index": 1, "message": "gated", "reason": "SchedulingGated"}},
            {"wait": 10},
            {"expect": {"QuotaReserved": "False WaitingForQuota 2 of 2 workers", "phase": "Queued"}},
            {"expect": {"Degraded": "False"}},
            {"run": [0, 1]},
            {"expect": {"QuotaReserved": "True Admitted", "phase": "Running"}},
            {"mark": None},
            crash(1),
            {"wait": 2},
            {"expect": {"new": [0, 1], "attempt": 1, "restarts.total": 1}},
        ],
    ),
    Scenario(
        name="a job in no queue reserves nothing",
        spec={},
        steps=[{"expect": {"QuotaReserved": "True NoQueue"}}],
    ),
    Scenario(
        name="workers prefer their peers' neighbourhood",
        spec={"worker": TWO, "schedulingPolicy": {"topology": {"key": "topology.kubernetes.io/zone"}}},
        steps=[{"expect": {"pod 0 topology": ["topology.kubernetes.io/zone"]}}],
    ),
]
