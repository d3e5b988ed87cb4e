"""The form of `scenarios`: lives of jobs, by what is asked for, what happens, and what must be seen then.

Every scenario is data, so that any driver can play it: `unit/operator/test_scenarios.py` on decisions alone
with a simulated cluster, another one on a real API server. A step is one thing that happens, or an
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
        rendezvous, service: whether there is such a child
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


def crash(index: int = 0, code: int = 139, **more: Any) -> Step:
    """A worker ends, by default with a segmentation fault."""
    return {"end": {"index": index, "code": code, **more}}


def done(index: int = 0) -> Step:
    """A worker ends well, and leaves the results."""
    return {"end": {"index": index, "code": 0, "message": RESULTS}}
