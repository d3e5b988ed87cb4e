"""What the operator sees in tests of its decisions: jobs and pods at one moment, and how to read a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import builders
from kubedet_operator.api import names
from kubedet_operator.api.status import ExcludedNode
from kubedet_operator.decision import facts
from kubedet_operator.decision.decide import decide
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.plan import ApplyChild, DeletePod, Plan
from kubedet_operator.decision.pods import PodFacts, parse_pod
from kubedet_operator.settings import OperatorSettings
from kubedet_trainer import contract

NOW = datetime(2026, 1, 1, 1, 0, 0, tzinfo=UTC)
SETTINGS = OperatorSettings()
RESULTS = contract.dump_termination_message(results=contract.Results(boxAP=37.4, secondsPerIteration=0.4))


def look(
    *pods: PodFacts,
    status: Mapping[str, Any] | None = None,
    now: datetime = NOW,
    progress: contract.ProgressRecord | None = None,
    rejection: str | None = None,
    suspects: tuple[ExcludedNode, ...] = (),
    source: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Facts:
    manifest = builders.make_manifest(**spec)
    manifest["metadata"] |= {"uid": builders.UID, "generation": 3}
    manifest["status"] = dict(status or {})
    return facts.observe(
        manifest,
        pods=pods,
        progress=progress,
        suspects=suspects,
        source=source,
        rejection=rejection,
        now=now,
    )


def decide_on(*pods: PodFacts, **what: Any) -> Plan:
    """The decision about a job with these pods; the rest as for `look`."""
    return decide(look(*pods, **what), SETTINGS)


def pod(index: int = 0, *, ended: datetime | None = None, **fields: Any) -> PodFacts:
    """A worker; with an exit code it ended long ago, or at `ended`."""
    fields.setdefault("uid", f"uid-{index}")
    if "exit_code" in fields:
        fields.setdefault("phase", "Succeeded" if fields["exit_code"] == 0 else "Failed")
    found = parse_pod(builders.make_pod(index=index, **fields))
    assert found is not None
    if ended is not None and found.ending is not None:
        found = replace(found, ending=replace(found.ending, time=ended))
    return found


def rendezvous(**fields: Any) -> PodFacts:
    return pod(component=names.RENDEZVOUS, uid=fields.pop("uid", "uid-rendezvous"), **fields)


def failure(reason: str, message: str, code: int = 65) -> str:
    return contract.dump_termination_message(
        failure=contract.Failure(exitCode=code, reason=reason, message=message, rank=3)
    )


def condition(plan: Plan, kind: str) -> tuple[str, str, str]:
    found = next(item for item in plan.status["conditions"] if item["type"] == kind)
    return found["status"], found["reason"], found["message"]


def created(plan: Plan) -> set[str]:
    return {action.manifest["metadata"]["name"] for action in plan.actions if isinstance(action, ApplyChild)}


def deleted(plan: Plan) -> set[str]:
    return {action.uid for action in plan.actions if isinstance(action, DeletePod)}
