"""Lives of jobs as a table: what is asked for, what happens, and what must be seen then.

Every scenario is data, so that any driver can play it: `unit/operator/test_scenarios.py` on decisions alone with
a simulated cluster, an integration test on a real API server. A step is one thing that happens, or an
expectation; after each the operator is given the time to do what it wants to. `covers` names the threads of
other operators that reported the fault which the scenario excludes.

Steps (verb: arguments):
    run: [index...]             workers are placed and ready
    place: {index, node}        the scheduler chooses a node
    end: {index, code, message, reason}     a container ends; index None is the rendezvous
    block: {index, reason, message}         the kubelet cannot start the container
    unschedule: {index, message, reason}    the scheduler finds no node, or a queue holds the pod
    evict: {index, reason, message}         the node refuses or ends the pod
    delete: {index, disruption, held}       somebody deletes the pod; held: it does not go
    hold, release: {index}      from now on the pod does not go when told to, or does again
    report: {iteration, checkpoint, world_size}     rank 0 has done a step, and maybe saved
    change: {field: value}      a person changes the spec
    reject: {message}           the API server refuses children; None: no more
    wait: seconds               nothing happens; the operator acts at the times that it has chosen
    unseen: step                as the step, but the operator learns of it only with the next one
    mark: None                  remembers the pods, for `same` and `new`
    expect: what must be seen:
        Condition: "Status Reason text", reason and text being optional
        workers: indices of the worker pods that exist and were not told to end
        same, new: indices of workers that are, or are not, those of the mark
        gone: True              the job is deleted
        a.b.c: value            of the status
        pod N a.b.c: value      of worker N's manifest; KIND a.b.c: of another child
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kubedet_trainer import contract

Step = dict[str, Any]

RESULTS = contract.dump_termination_message(results=contract.Results(boxAP=37.4, secondsPerIteration=0.4))
STATE = {"storageUri": "s3://checkpoints/x"}
TWO = {"replicas": 2, "gpus": 0}
THREE = {"replicas": 3, "gpus": 0}
ELASTIC = {
    "worker": TWO,
    "checkpoint": STATE,
    "elasticPolicy": {"minReplicas": 1, "maxReplicas": 4, "scaleUpDelaySeconds": 100},
}
NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
BACK_OFF = 'Back-off pulling image "nowhere/trainer:1"'


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One life of one job."""

    name: str
    covers: tuple[str, ...] = ()
    spec: dict[str, Any]
    steps: list[Step]


def failure(code: int, reason: str, message: str, **more: Any) -> str:
    """What a trainer leaves in its termination message."""
    record = contract.Failure(exitCode=code, reason=reason, message=message, **more)
    return contract.dump_termination_message(failure=record)


def _crash(index: int = 0, code: int = 139, **more: Any) -> Step:
    return {"end": {"index": index, "code": code, **more}}


def _done(index: int = 0) -> Step:
    return {"end": {"index": index, "code": 0, "message": RESULTS}}


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
            _done(),
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
        steps=[{"run": [0]}, _crash(code=0), {"expect": {"Failed": "True ResultsMissing"}}],
    ),
    Scenario(
        name="a worker that says goodbye late ends before the rendezvous does",
        covers=("pytorch/pytorch#118891",),
        spec={"worker": TWO},
        steps=[
            {"run": [0, 1]},
            {"hold": {"index": 1}},
            _done(),
            {"expect": {"Complete": "False", "workers": [0, 1]}},
            {"wait": 61},
            {"expect": {"Complete": "True", "workers": [0], "rendezvous": True}},
            {"release": {"index": 1}},
            {"expect": {"workers": [0], "rendezvous": False}},
        ],
    ),
]

RESTARTS = [
    Scenario(
        name="every failure counts against the limit",
        covers=("kubeflow/trainer#2045", "kubeflow/common#167", "kubeflow/trainer#2342", "kubeflow/trainer#1749"),
        spec={"backoffLimit": 2},
        steps=[
            _crash(),
            {"expect": {"workers": [0], "restarts.application": 1, "lastFailure.exitCode": 139}},
            _crash(),
            {"wait": 11},
            _crash(),
            {"expect": {"Failed": "True BackoffLimitExceeded spec.backoffLimit is 2", "workers": [0]}},
            {"wait": 86400},
            {"expect": {"restarts.application": 3, "phase": "Failed"}},
        ],
    ),
    Scenario(
        name="a permanent error ends a job that is restarting",
        covers=("kubeflow/trainer#2044",),
        spec={},
        steps=[
            _crash(),
            {"expect": {"phase": "Restarting"}},
            _crash(code=96, message=failure(96, "LossNotFinite", "the loss is NaN at iteration 7")),
            {"expect": {"Failed": "True PermanentFailure the loss is NaN", "Restarting": "False"}},
        ],
    ),
    Scenario(
        name="restarts wait longer and longer, and a newer checkpoint ends that",
        covers=("volcano-sh/volcano#1099",),
        spec={"backoffLimit": 9, "checkpoint": STATE},
        steps=[
            _crash(),
            {"expect": {"workers": [0]}},
            _crash(),
            {"wait": 9},
            {"expect": {"workers": []}},
            {"wait": 1},
            {"expect": {"workers": [0]}},
            _crash(),
            {"wait": 19},
            {"expect": {"workers": []}},
            {"wait": 1},
            {"run": [0]},
            {"report": {"iteration": 10, "checkpoint": 10}},
            _crash(),
            {"expect": {"workers": [0], "restarts.withoutProgress": 1, "restarts.application": 4}},
        ],
    ),
    Scenario(
        name="one lost worker keeps the others' pods",
        covers=("jobset#467", "jobset#928", "lws#715", "ray-project/kuberay#2192", "dlrover#1690"),
        spec={"worker": THREE},
        steps=[
            {"run": [0, 1, 2]},
            {"mark": None},
            _crash(1),
            {"wait": 2},
            {"expect": {"workers": [0, 1, 2], "same": [0, 2], "new": [1], "attempt": 0}},
        ],
    ),
    Scenario(
        name="worker 0 is like any other",
        covers=("kubeflow/trainer#1638", "dlrover#450", "pytorch/pytorch#67742", "pytorch/pytorch#147064"),
        spec={"worker": TWO},
        steps=[
            {"run": [0, 1]},
            {"mark": None},
            _crash(0, 137),
            {"wait": 2},
            {"expect": {"same": [1], "new": [0], "attempt": 0, "rendezvous": True}},
        ],
    ),
    Scenario(
        name="a new attempt has a rendezvous id of its own",
        covers=("kubeflow/trainer#1638", "pytorch/pytorch#135712"),
        spec={"worker": TWO},
        steps=[
            {"run": [0, 1]},
            {"unseen": _crash(0)},
            _crash(1),
            {"wait": 2},
            {"expect": {"workers": [0, 1], "attempt": 1, "restarts.total": 1}},
            {"expect": {"pod 0 env KUBEDET_RENDEZVOUS_ID": "UID-1", "pod 1 env KUBEDET_ATTEMPT": "1"}},
        ],
    ),
    Scenario(
        name="workers that notice a failure late are not charged with it",
        covers=("kubeflow/trainer#2000", "pytorch/torchft#164", "pytorch/torchft#196"),
        spec={"worker": THREE},
        steps=[
            {"run": [0, 1, 2]},
            {"wait": 5},
            _crash(1),
            {"wait": 300},
            _crash(0, 151),
            _crash(2, 150),
            {"wait": 60},
            {"expect": {"restarts.total": 1, "lastFailure.pod": "demo-worker-1", "workers": [0, 1, 2]}},
        ],
    ),
    Scenario(
        name="the earliest failure is the cause, whichever pod is seen first",
        spec={"worker": THREE},
        steps=[
            {"run": [0, 1, 2]},
            {"wait": 60},
            {"unseen": _crash(0, 139, message=failure(139, "Crashed", "late", time="2026-01-01T00:00:30Z"))},
            _crash(2, 134, message=failure(134, "Aborted", "early", time="2026-01-01T00:00:20.5Z")),
            {"wait": 2},
            {"expect": {"lastFailure.pod": "demo-worker-2", "lastFailure.message": "early"}},
            {"expect": {"restarts.application": 1}},
        ],
    ),
    Scenario(
        name="the log of a pod that is replaced is kept where it tells something",
        covers=("kubeflow/trainer#3419",),
        spec={},
        steps=[
            _crash(0, 139, message=failure(139, "Crashed", "signal 11", lastLines=["File x.py, line 3"])),
            {"expect": {"lastFailure.lastLines": ["File x.py, line 3"], "workers": [0]}},
        ],
    ),
    Scenario(
        name="memory that ran out is named, with a remedy",
        spec={},
        steps=[
            {"end": {"index": 0, "code": 137, "reason": "OOMKilled"}},
            {"expect": {"lastFailure.reason": "OOMKilled", "restarts.application": 1}},
        ],
    ),
    Scenario(
        name="disruptions have a budget of their own",
        covers=("volcano-sh/volcano#4607",),
        spec={"backoffLimit": 0, "failurePolicy": {"maxInfrastructureRestarts": 2}},
        steps=[
            {"evict": {"index": 0, "reason": "Evicted", "message": "the node was low on memory"}},
            {"expect": {"restarts.infrastructure": 1, "restarts.application": 0}},
            {"delete": {"index": 0, "disruption": "PreemptionByScheduler"}},
            {"wait": 11},
            {"expect": {"lastFailure.reason": "PreemptionByScheduler", "restarts.withoutProgress": 0}},
            _crash(code=143),
            {"expect": {"Failed": "True TooManyDisruptions maxInfrastructureRestarts is 2"}},
        ],
    ),
    Scenario(
        name="failures that bring no checkpoint end the job though none is the application's",
        spec={"failurePolicy": {"stopAfterNoProgressRestarts": 2}},
        steps=[
            _crash(code=154),
            {"wait": 11},
            _crash(code=150),
            {"wait": 21},
            _crash(code=154),
            {"expect": {"Failed": "True NoProgress stopAfterNoProgressRestarts is 2"}},
        ],
    ),
    Scenario(
        name="a larger backoffLimit is not cut short by the limit of restarts without progress",
        spec={"backoffLimit": 5},
        steps=[
            *[step for _ in range(5) for step in (_crash(), {"wait": 400})],
            {"expect": {"phase": "Restarting", "restarts.application": 5}},
            _crash(),
            {"expect": {"Failed": "True BackoffLimitExceeded"}},
        ],
    ),
    Scenario(
        name="hangs are the application's",
        covers=("dlrover#1010",),
        spec={"backoffLimit": 1},
        steps=[
            _crash(code=152, message=failure(152, "Hang", "no step for 600 s")),
            {"expect": {"lastFailure.reason": "Hang", "restarts.application": 1}},
            _crash(code=152),
            {"expect": {"Failed": "True BackoffLimitExceeded"}},
        ],
    ),
    Scenario(
        name="a lost rendezvous costs nobody his attempt",
        covers=("dlrover#1342",),
        spec={"worker": TWO, "backoffLimit": 0},
        steps=[
            {"run": [0, 1]},
            {"mark": None},
            {"end": {"index": None, "code": 137}},
            {"wait": 2},
            {"expect": {"rendezvous": True, "same": [0, 1], "restarts.infrastructure": 1, "attempt": 0}},
        ],
    ),
    Scenario(
        name="a rule fails the job at once",
        spec={
            "failurePolicy": {
                "rules": [{"name": "data", "onExitCodes": [154], "action": "FailJob"}],
            }
        },
        steps=[
            _crash(code=154),
            {"expect": {"Failed": "True PermanentFailure rule data", "lastFailure.rule": "data"}},
        ],
    ),
    Scenario(
        name="a rule by message restarts what would be permanent",
        spec={
            "backoffLimit": 0,
            "failurePolicy": {
                "rules": [
                    {"name": "flaky", "onMessagePatterns": ["quota.*(exceeded|used up)"], "action": "RestartIgnoreLimit"},
                    {"name": "other", "onExitCodes": [66], "action": "FailJob"},
                ]
            },
        },
        steps=[
            _crash(code=66, message=failure(66, "MissingInput", "the quota of GETs is used up")),
            {"expect": {"restarts.infrastructure": 1, "lastFailure.rule": "flaky", "workers": [0]}},
            _crash(code=66, message=failure(66, "MissingInput", "no such bucket")),
            {"expect": {"Failed": "True PermanentFailure", "lastFailure.rule": "other"}},
        ],
    ),
    Scenario(
        name="a rule makes the application's what was a disruption",
        spec={"backoffLimit": 0, "failurePolicy": {"rules": [{"name": "s", "onExitCodes": [154], "action": "Restart"}]}},
        steps=[_crash(code=154), {"expect": {"Failed": "True BackoffLimitExceeded"}}],
    ),
]

NODES = [
    Scenario(
        name="broken hardware excludes its node for a while",
        spec={"failurePolicy": {"nodeExclusion": {"ttlSeconds": 600}}},
        steps=[
            {"place": {"index": 0, "node": "gpu-7"}},
            {"run": [0]},
            _crash(code=153, message=failure(153, "GpuHardware", "Xid 79")),
            {"expect": {"excludedNodes.0.name": "gpu-7", "excludedNodes.0.mode": "Required"}},
            {"expect": {"pod 0 forbidden": ["gpu-7"], "restarts.infrastructure": 1}},
            {"wait": 601},
            {"expect": {"excludedNodes": []}},
        ],
    ),
    Scenario(
        name="a rule excludes the node by what the message says",
        spec={
            "failurePolicy": {
                "rules": [{"name": "ecc", "onMessagePatterns": ["Xid (48|79)"], "action": "ExcludeNodeAndRestart"}]
            }
        },
        steps=[
            {"place": {"index": 0, "node": "gpu-7"}},
            {"run": [0]},
            _crash(code=134, message=failure(134, "Aborted", "NVRM: Xid 48: double bit error")),
            {"expect": {"excludedNodes.0.name": "gpu-7", "pod 0 forbidden": ["gpu-7"]}},
        ],
    ),
    Scenario(
        name="crashes that come back on one node make pods avoid it, not fear it",
        spec={},
        steps=[
            {"place": {"index": 0, "node": "n"}},
            {"run": [0]},
            _crash(),
            {"expect": {"excludedNodes": []}},
            {"place": {"index": 0, "node": "n"}},
            {"run": [0]},
            _crash(),
            {"wait": 11},
            {"expect": {"excludedNodes.0.mode": "Preferred", "excludedNodes.0.failures": 2}},
            {"expect": {"pod 0 avoided": ["n"], "pod 0 forbidden": []}},
        ],
    ),
    Scenario(
        name="a pod that waits for an excluded node is made anew once it is allowed again",
        covers=("volcano-sh/volcano#5805",),
        spec={"failurePolicy": {"nodeExclusion": {"ttlSeconds": 600}}},
        steps=[
            {"place": {"index": 0, "node": "gpu-7"}},
            {"run": [0]},
            _crash(code=153),
            {"unschedule": {"index": 0, "message": NO_GPU}},
            {"mark": None},
            {"wait": 601},
            {"expect": {"new": [0], "pod 0 forbidden": []}},
        ],
    ),
    Scenario(
        name="a pod of a lost node is forced away after its grace",
        covers=("dlrover#1010",),
        spec={},
        steps=[
            {"run": [0]},
            {"delete": {"index": 0, "disruption": "DeletionByTaintManager", "held": True}},
            {"wait": 120},
            {"expect": {"workers": []}},
            {"wait": 40},
            {"expect": {"workers": [0], "restarts.infrastructure": 1, "attempt": 1}},
        ],
    ),
    Scenario(
        name="a worker that saves for long is not forced away",
        spec={},
        steps=[
            {"run": [0]},
            {"delete": {"index": 0, "held": True}},
            {"wait": 86400},
            {"expect": {"workers": []}},
            {"release": {"index": 0}},
            {"expect": {"workers": [0], "restarts.infrastructure": 1}},
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
            {"expect": {"Initialized": f"False ImageNotPulled {BACK_OFF}", "Degraded": "True ImageNotPulled"}},
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
            _crash(),
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
            {"block": {"index": 0, "reason": "CreateContainerConfigError", "message": 'secret "minio" not found'}},
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
        steps=[{"run": [0]}, {"wait": 10}, _crash(), {"wait": 900}, {"expect": {"Failed": "False"}}],
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
            _done(),
            {"wait": 7199},
            {"expect": {"gone": False, "Complete": "True"}},
            {"wait": 1},
            {"expect": {"gone": True}},
        ],
    ),
    Scenario(
        name="a failed job goes on time too",
        spec={"ttlSecondsAfterFinished": 0},
        steps=[_crash(code=65), {"expect": {"gone": True}}],
    ),
    Scenario(
        name="a time to live that is set late counts from the end",
        spec={},
        steps=[
            {"run": [0]},
            _done(),
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
            _crash(0, 65),
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
            {"unseen": _crash(0, 151)},
            _crash(1, 95),
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
            _crash(0, 65),
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
            _done(),
            {"expect": {"Complete": "True Trained", "phase": "Succeeded"}},
        ],
    ),
]

SIZES = [
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
        spec={**ELASTIC, "schedulingPolicy": {"gang": "Volcano", "queue": "team-a", "priorityClassName": "high"}},
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
            {"expect": {"QuotaReserved": "False WaitingForQuota 2 workers", "phase": "Queued"}},
            {"expect": {"Degraded": "False"}},
            {"run": [0, 1]},
            {"expect": {"QuotaReserved": "True Admitted", "phase": "Running"}},
            {"mark": None},
            _crash(1),
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

FAULTS = [
    Scenario(
        name="a refused pod is told of and tried again",
        covers=("dask/dask-kubernetes#975",),
        spec={},
        steps=[
            {"expect": {"workers": [0]}},
            {"reject": {"message": "exceeded quota"}},
            {"expect": {"Degraded": "True ChildRejected exceeded quota"}},
            {"reject": {"message": None}},
            {"expect": {"Degraded": "False"}},
        ],
    ),
    Scenario(
        name="nothing is written or done while nothing happens",
        covers=("dask/dask-kubernetes#810",),
        spec={"worker": TWO},
        steps=[
            {"run": [0, 1]},
            {"mark": None},
            {"wait": 86400},
            {"expect": {"same": [0, 1], "written since the mark": 0}},
        ],
    ),
    Scenario(
        name="a lost event is made up for by the next one",
        covers=("ray-project/kuberay#3903", "dask/dask-kubernetes#592"),
        spec={"worker": TWO, "backoffLimit": 9},
        steps=[
            {"unseen": {"run": [0, 1]}},
            {"unseen": _crash(1)},
            {"wait": 700},
            {"expect": {"workers": [0, 1], "restarts.application": 1}},
        ],
    ),
]

SCENARIOS = [*LIVES, *RESTARTS, *NODES, *STARTS, *ENDS, *SUSPENSIONS, *SIZES, *GANGS, *FAULTS]
