"""Scenarios: how jobs start, are suspended, and end."""

from __future__ import annotations

from scenario import BACK_OFF, NO_GPU, STATE, THREE, TWO, Scenario, crash, done

LIVES = [
    Scenario(
        name="one worker trains and completes",
        covers=("kubeflow/trainer#2713", "kubeflow/trainer#4052"),
        spec={},
        steps=[
            {"expect": {"workers": [0], "Initialized": "False WaitingForPods", "phase": "Initializing"}},
            {"run": [0]},
            {"expect": {"Running": "True WorkersRunning", "phase": "Running"}},
            {"report": {"iteration": 500, "checkpoint": 500}},
            {"expect": {"progress.percentage": 50, "checkpoint.iteration": 500}},
            done(),
            {"expect": {"Complete": "True Trained", "phase": "Succeeded", "results.boxAP": 37.4}},
            {"wait": 86400},
            {"expect": {"phase": "Succeeded", "gone": False}},
        ],
    ),
    Scenario(
        name="the job runs only once enough workers do",
        covers=("volcano-sh/volcano#2684", "volcano-sh/volcano#1169"),
        spec={"worker": TWO},
        steps=[
            {"run": [0]},
            {"expect": {"Running": "False WorkersNotRunning", "phase": "Initializing"}},
            {"run": [1]},
            {"expect": {"Running": "True"}},
        ],
    ),
    Scenario(
        name="success comes from the results, not from an exit code",
        covers=("ray-project/kuberay#1902", "ray-project/kuberay#2058", "ray-project/kuberay#3211"),
        spec={},
        steps=[{"run": [0]}, crash(code=0), {"expect": {"Failed": "True ResultsMissing"}}],
    ),
    Scenario(
        name="a worker that says goodbye late ends before the rendezvous does",
        covers=("pytorch/pytorch#118891",),
        spec={"worker": TWO},
        steps=[
            {"run": [0, 1]},
            {"hold": {"index": 1}},
            done(),
            {"expect": {"Complete": "False", "workers": [0, 1]}},
            {"wait": 61},
            {"expect": {"Complete": "True", "workers": [0], "rendezvous": True}},
            {"release": {"index": 1}},
            {"expect": {"workers": [0], "rendezvous": False}},
        ],
    ),
]

STARTS = [
    Scenario(
        name="an image that cannot be pulled ends the job after a while",
        covers=("ray-project/kuberay#4272",),
        spec={},
        steps=[
            {"block": {"index": 0, "reason": "ImagePullBackOff", "message": BACK_OFF}},
            {
                "expect": {
                    "Initialized": f"False ImageNotPulled {BACK_OFF}",
                    "Degraded": "True ImageNotPulled",
                }
            },
            {"wait": 599},
            {"expect": {"Failed": "False"}},
            {"wait": 2},
            {"expect": {"Failed": "True StartUpFailed", "lastFailure.class": "StartUp", "restarts.total": 0}},
            {"expect": {"lastFailure.reason": "ImageNotPulled", "workers": []}},
        ],
    ),
    Scenario(
        name="a corrected image replaces the pod that cannot start",
        spec={},
        steps=[
            {"block": {"index": 0, "reason": "ErrImagePull", "message": BACK_OFF}},
            {"mark": None},
            {"change": {"worker": {"image": "right:1"}}},
            {"expect": {"new": [0], "pod 0 image": "right:1", "restarts.total": 0}},
        ],
    ),
    Scenario(
        name="a registry that is away for a while does not end a job that has trained",
        spec={"checkpoint": STATE},
        steps=[
            {"run": [0]},
            {"report": {"iteration": 10, "checkpoint": 10}},
            crash(),
            {"block": {"index": 0, "reason": "ErrImagePull", "message": BACK_OFF}},
            {"wait": 1800},
            {"expect": {"Failed": "False", "Degraded": "True ImageNotPulled"}},
            {"run": [0]},
            {"expect": {"Degraded": "False"}},
        ],
    ),
    Scenario(
        name="a missing Secret is named",
        spec={},
        steps=[
            {
                "block": {
                    "index": 0,
                    "reason": "CreateContainerConfigError",
                    "message": 'secret "minio" not found',
                }
            },
            {"expect": {"Degraded": 'True SecretNotFound secret "minio" not found'}},
            {"run": [0]},
            {"expect": {"Degraded": "False AsExpected"}},
        ],
    ),
    Scenario(
        name="a missing claim is named, and ends the job after a while",
        spec={},
        steps=[
            {"unschedule": {"index": 0, "message": '0/1 nodes: persistentvolumeclaim "coco" not found.'}},
            {"expect": {"Degraded": 'True ClaimNotFound persistentvolumeclaim "coco" not found'}},
            {"wait": 601},
            {"expect": {"Failed": "True StartUpFailed"}},
        ],
    ),
    Scenario(
        name="a job may wait for a place for as long as it takes",
        covers=("dlrover#1175", "scheduler-plugins#722"),
        spec={},
        steps=[
            {"unschedule": {"index": 0, "message": NO_GPU}},
            {"expect": {"Initialized": f"False Unschedulable {NO_GPU}"}},
            {"wait": 864000},
            {"expect": {"Failed": "False", "workers": [0]}},
        ],
    ),
    Scenario(
        name="or only as long as it says",
        spec={"preRunningDeadlineSeconds": 300},
        steps=[
            {"unschedule": {"index": 0, "message": NO_GPU}},
            {"wait": 299},
            {"expect": {"Failed": "False"}},
            {"wait": 1},
            {"expect": {"Failed": f"True PreRunningDeadlineExceeded {NO_GPU}", "workers": []}},
        ],
    ),
    Scenario(
        name="a job that has run once is beyond the deadline of its start",
        spec={"preRunningDeadlineSeconds": 300},
        steps=[{"run": [0]}, {"wait": 10}, crash(), {"wait": 900}, {"expect": {"Failed": "False"}}],
    ),
]

ENDS = [
    Scenario(
        name="the deadline fires though nothing happens, and keeps the pods that ended",
        covers=("kubeflow/trainer#1533",),
        spec={"activeDeadlineSeconds": 3600},
        steps=[
            {"run": [0]},
            {"wait": 3599},
            {"expect": {"Failed": "False", "workers": [0]}},
            {"wait": 1},
            {"expect": {"Failed": "True DeadlineExceeded", "workers": [], "activeSeconds": 3600}},
        ],
    ),
    Scenario(
        name="time suspended does not count against the deadline",
        spec={"activeDeadlineSeconds": 1000},
        steps=[
            {"run": [0]},
            {"wait": 600},
            {"change": {"suspend": True}},
            {"wait": 86400},
            {"expect": {"Failed": "False", "activeSeconds": 600, "phase": "Suspended"}},
            {"change": {"suspend": False}},
            {"run": [0]},
            {"wait": 399},
            {"expect": {"Failed": "False"}},
            {"wait": 1},
            {"expect": {"Failed": "True DeadlineExceeded"}},
        ],
    ),
    Scenario(
        name="a finished job goes on time, with no event",
        covers=("kubeflow/trainer#1533", "kubeflow/trainer#3824", "kubeflow/trainer#718"),
        spec={"ttlSecondsAfterFinished": 7200},
        steps=[
            {"run": [0]},
            done(),
            {"wait": 7199},
            {"expect": {"gone": False, "Complete": "True"}},
            {"wait": 1},
            {"expect": {"gone": True}},
        ],
    ),
    Scenario(
        name="a failed job goes on time too",
        spec={"ttlSecondsAfterFinished": 0},
        steps=[crash(code=65), {"expect": {"gone": True}}],
    ),
    Scenario(
        name="a time to live that is set late counts from the end",
        spec={},
        steps=[
            {"run": [0]},
            done(),
            {"wait": 100},
            {"change": {"ttlSecondsAfterFinished": 150}},
            {"wait": 49},
            {"expect": {"gone": False}},
            {"wait": 1},
            {"expect": {"gone": True}},
        ],
    ),
    Scenario(
        name="by default what runs is stopped and what has ended stays",
        covers=("kubeflow/trainer#671", "kubeflow/trainer#774", "kubeflow/trainer#1241"),
        spec={"worker": TWO},
        steps=[
            {"run": [0, 1]},
            crash(0, 65),
            {"wait": 2},
            {"expect": {"Failed": "True", "workers": [0], "rendezvous": False}},
        ],
    ),
    Scenario(
        name="all pods go, but never the one that explains the failure",
        covers=("kubeflow/trainer#3419",),
        spec={"worker": THREE, "cleanPodPolicy": "All"},
        steps=[
            {"run": [0, 1, 2]},
            {"unseen": crash(0, 151)},
            crash(1, 95),
            {"wait": 2},
            {"expect": {"Failed": "True PermanentFailure", "workers": [1]}},
        ],
    ),
    Scenario(
        name="no pod goes where none shall",
        covers=("kubeflow/trainer#3419",),
        spec={"worker": TWO, "cleanPodPolicy": "None"},
        steps=[
            {"run": [0, 1]},
            crash(0, 65),
            {"wait": 2},
            {"expect": {"Failed": "True", "workers": [0, 1], "rendezvous": True}},
        ],
    ),
]

SUSPENSIONS = [
    Scenario(
        name="a job that is created suspended has no pod",
        spec={"suspend": True},
        steps=[
            {"expect": {"Suspended": "True", "workers": [], "phase": "Suspended", "startTime": None}},
            {"change": {"suspend": False}},
            {"expect": {"Suspended": "False Resumed", "workers": [0], "phase": "Initializing"}},
        ],
    ),
    Scenario(
        name="suspension saves, ends the rendezvous last, and charges nobody",
        covers=("kubernetes-sigs/kueue#15661",),
        spec={"worker": TWO},
        steps=[
            {"run": [0, 1]},
            {"hold": {"index": 0}},
            {"hold": {"index": 1}},
            {"change": {"suspend": True}},
            {"expect": {"Suspended": "False Suspending 2 workers", "workers": [], "rendezvous": True}},
            {"end": {"index": 0, "code": 143}},
            {"end": {"index": 1, "code": 144}},
            {"release": {"index": 0}},
            {"release": {"index": 1}},
            {"expect": {"Suspended": "True", "rendezvous": False, "restarts.total": 0, "workers.active": 0}},
        ],
    ),
    Scenario(
        name="a resumed job may have another number of workers",
        spec={"worker": THREE},
        steps=[
            {"run": [0, 1, 2]},
            {"change": {"suspend": True}},
            {"change": {"worker": {"replicas": 2}}},
            {"expect": {"workers": [], "phase": "Suspended"}},
            {"change": {"suspend": False}},
            {"expect": {"workers": [0, 1], "attempt": 1, "pod 0 env KUBEDET_REPLICAS": "2"}},
            {"run": [0, 1]},
            {"expect": {"Running": "True", "restarts.total": 0}},
        ],
    ),
    Scenario(
        name="a resume waits for the last pod of the old attempt",
        covers=("ray-project/kuberay#4971", "ray-project/kuberay#5211"),
        spec={"worker": THREE},
        steps=[
            {"run": [0, 1, 2]},
            {"hold": {"index": 2}},
            {"change": {"suspend": True}},
            {"change": {"suspend": False, "worker": {"replicas": 1}}},
            {"expect": {"workers": []}},
            {"release": {"index": 2}},
            {"expect": {"workers": [0], "attempt": 1}},
        ],
    ),
    Scenario(
        name="a job of another controller is left alone",
        spec={"managedBy": "kueue.x-k8s.io/multikueue"},
        steps=[{"wait": 3600}, {"expect": {"workers": [], "": {}}}],
    ),
    Scenario(
        name="a job that ends while it is suspended has ended",
        spec={},
        steps=[
            {"run": [0]},
            {"hold": {"index": 0}},
            {"change": {"suspend": True}},
            done(),
            {"expect": {"Complete": "True Trained", "phase": "Succeeded"}},
        ],
    ),
]
