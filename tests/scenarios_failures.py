"""Scenarios: what fails, whom it is charged to, and what is restarted."""

from __future__ import annotations

from scenario import NO_GPU, STATE, THREE, TWO, Scenario, crash, failure

RESTARTS = [
    Scenario(
        name="every failure counts against the limit",
        covers=(
            "kubeflow/trainer#2045",
            "kubeflow/common#167",
            "kubeflow/trainer#2342",
            "kubeflow/trainer#1749",
        ),
        spec={"backoffLimit": 2},
        steps=[
            crash(),
            {"expect": {"workers": [0], "restarts.application": 1, "lastFailure.exitCode": 139}},
            crash(),
            {"wait": 11},
            crash(),
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
            crash(),
            {"expect": {"phase": "Restarting"}},
            crash(code=96, message=failure(96, "LossNotFinite", "the loss is NaN at iteration 7")),
            {"expect": {"Failed": "True PermanentFailure the loss is NaN", "Restarting": "False"}},
        ],
    ),
    Scenario(
        name="restarts wait longer and longer, and a newer checkpoint ends that",
        covers=("volcano-sh/volcano#1099",),
        spec={"backoffLimit": 9, "checkpoint": STATE},
        steps=[
            crash(),
            {"expect": {"workers": [0]}},
            crash(),
            {"wait": 9},
            {"expect": {"workers": []}},
            {"wait": 1},
            {"expect": {"workers": [0]}},
            crash(),
            {"wait": 19},
            {"expect": {"workers": []}},
            {"wait": 1},
            {"run": [0]},
            {"report": {"iteration": 10, "checkpoint": 10}},
            crash(),
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
            crash(1),
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
            crash(0, 137),
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
            {"unseen": crash(0)},
            crash(1),
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
            crash(1),
            {"wait": 300},
            crash(0, 151),
            crash(2, 150),
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
            {"unseen": crash(0, 139, message=failure(139, "Crashed", "late", time="2026-01-01T00:00:30Z"))},
            crash(2, 134, message=failure(134, "Aborted", "early", time="2026-01-01T00:00:20.5Z")),
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
            crash(0, 139, message=failure(139, "Crashed", "signal 11", lastLines=["File x.py, line 3"])),
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
            {"run": [0]},
            {"delete": {"index": 0, "disruption": "PreemptionByScheduler"}},
            {"wait": 11},
            {"expect": {"lastFailure.reason": "PreemptionByScheduler", "restarts.withoutProgress": 0}},
            crash(code=143),
            {"expect": {"Failed": "True TooManyDisruptions maxInfrastructureRestarts is 2"}},
        ],
    ),
    Scenario(
        name="failures that bring no checkpoint end the job though none is the application's",
        spec={"failurePolicy": {"stopAfterNoProgressRestarts": 2}},
        steps=[
            crash(code=154),
            {"wait": 11},
            crash(code=150),
            {"wait": 21},
            crash(code=154),
            {"expect": {"Failed": "True NoProgress stopAfterNoProgressRestarts is 2"}},
        ],
    ),
    Scenario(
        name="a larger backoffLimit is not cut short by the limit of restarts without progress",
        spec={"backoffLimit": 5},
        steps=[
            *[step for _ in range(5) for step in (crash(), {"wait": 400})],
            {"expect": {"phase": "Restarting", "restarts.application": 5}},
            crash(),
            {"expect": {"Failed": "True BackoffLimitExceeded"}},
        ],
    ),
    Scenario(
        name="hangs are the application's",
        covers=("dlrover#1010",),
        spec={"backoffLimit": 1},
        steps=[
            crash(code=152, message=failure(152, "Hang", "no step for 600 s")),
            {"expect": {"lastFailure.reason": "Hang", "restarts.application": 1}},
            crash(code=152),
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
            crash(code=154),
            {"expect": {"Failed": "True PermanentFailure rule data", "lastFailure.rule": "data"}},
        ],
    ),
    Scenario(
        name="a rule by message restarts what would be permanent",
        spec={
            "backoffLimit": 0,
            "failurePolicy": {
                "rules": [
                    {
                        "name": "flaky",
                        "onMessagePatterns": ["quota.*(exceeded|used up)"],
                        "action": "RestartIgnoreLimit",
                    },
                    {"name": "other", "onExitCodes": [66], "action": "FailJob"},
                ]
            },
        },
        steps=[
            crash(code=66, message=failure(66, "MissingInput", "the quota of GETs is used up")),
            {"expect": {"restarts.infrastructure": 1, "lastFailure.rule": "flaky", "workers": [0]}},
            crash(code=66, message=failure(66, "MissingInput", "no such bucket")),
            {"expect": {"Failed": "True PermanentFailure", "lastFailure.rule": "other"}},
        ],
    ),
    Scenario(
        name="a rule makes the application's what was a disruption",
        spec={
            "backoffLimit": 0,
            "failurePolicy": {"rules": [{"name": "s", "onExitCodes": [154], "action": "Restart"}]},
        },
        steps=[crash(code=154), {"expect": {"Failed": "True BackoffLimitExceeded"}}],
    ),
]

NODES = [
    Scenario(
        name="broken hardware excludes its node for a while",
        spec={"failurePolicy": {"nodeExclusion": {"ttlSeconds": 600}}},
        steps=[
            {"place": {"index": 0, "node": "gpu-7"}},
            {"run": [0]},
            crash(code=153, message=failure(153, "GpuHardware", "Xid 79")),
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
                "rules": [
                    {"name": "ecc", "onMessagePatterns": ["Xid (48|79)"], "action": "ExcludeNodeAndRestart"}
                ]
            }
        },
        steps=[
            {"place": {"index": 0, "node": "gpu-7"}},
            {"run": [0]},
            crash(code=134, message=failure(134, "Aborted", "NVRM: Xid 48: double bit error")),
            {"expect": {"excludedNodes.0.name": "gpu-7", "pod 0 forbidden": ["gpu-7"]}},
        ],
    ),
    Scenario(
        name="crashes that come back on one node make pods avoid it, not fear it",
        spec={},
        steps=[
            {"place": {"index": 0, "node": "gpu-3"}},
            {"run": [0]},
            crash(),
            {"expect": {"excludedNodes": []}},
            {"place": {"index": 0, "node": "gpu-3"}},
            {"run": [0]},
            crash(),
            {"wait": 11},
            {"expect": {"excludedNodes.0.mode": "Preferred", "excludedNodes.0.failures": 2}},
            {"expect": {"pod 0 avoided": ["gpu-3"], "pod 0 forbidden": []}},
        ],
    ),
    Scenario(
        name="a pod that waits for an excluded node is made anew once it is allowed again",
        covers=("volcano-sh/volcano#5805",),
        spec={"failurePolicy": {"nodeExclusion": {"ttlSeconds": 600}}},
        steps=[
            {"place": {"index": 0, "node": "gpu-7"}},
            {"run": [0]},
            crash(code=153),
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
            {"place": {"index": 0, "node": "lost"}},
            {"run": [0]},
            {"delete": {"index": 0, "disruption": "DeletionByTaintManager", "held": True}},
            {"wait": 120},
            {"expect": {"workers": []}},
            {"wait": 40},
            {"expect": {"workers": [0], "restarts.infrastructure": 1, "attempt": 1}},
        ],
    ),
    Scenario(
        name="a worker of several is replaced while it still ends",
        spec={"worker": TWO},
        steps=[
            {"run": [0, 1]},
            {"mark": None},
            {"delete": {"index": 1, "held": True}},
            {"expect": {"workers": [0]}},
            {"wait": 2},
            {"expect": {"workers": [0, 1], "same": [0], "new": [1], "restarts.infrastructure": 1}},
            {"unschedule": {"index": 1, "message": NO_GPU}},
            {"expect": {"Degraded": "False", "attempt": 0}},
            {"release": {"index": 1}},
            {"expect": {"Degraded": "True Unschedulable"}},
            {"run": [1]},
            {"wait": 5},
            {"report": {"iteration": 9}},
            {"expect": {"Restarting": "False Recovered", "restarts.total": 1, "Degraded": "False"}},
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
