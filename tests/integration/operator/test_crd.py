"""A real API server takes the CRD, and judges jobs as the same rules in Python do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import BROKEN_RULES, make_job, make_manifest, merge
from kubedet_operator.api import schema, transitions, types, validation
from kubedet_operator.api.status import ExcludedNode
from kubedet_operator.children.children import build_children
from kubedet_operator.settings import OperatorSettings
from throwaway import await_definition

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

EXCLUDED = [
    ExcludedNode(name=f"node-{mode.lower()}", mode=mode, reason="Hang", until="2026-01-01T00:00:00Z")
    for mode in ("Preferred", "Required", "Required")
]
ROOT = Path(__file__).resolve().parent.parent.parent.parent
NAMESPACE = "kubedet-crd"
CRD = "crd/detectionjobs.kubedet.dev"


@pytest.fixture(scope="module")
def api(cluster: Any) -> Any:
    """The cluster with the CRD and a namespace of the strictest Pod Security level."""
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=schema.dump_crd())
    await_definition(cluster.kubectl)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    )
    yield cluster
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def _create(api: Any, manifest: dict[str, Any], *options: str) -> dict[str, Any]:
    text = api.kubectl("create", *options, "-o", "yaml", "-f", "-", stdin=yaml.safe_dump(manifest))
    created: dict[str, Any] = yaml.safe_load(text)
    return created


def _refused(api: Any, *arguments: str, stdin: str | None = None) -> str:
    with pytest.raises(RuntimeError) as caught:
        api.kubectl(*arguments, stdin=stdin)
    return str(caught.value)


def test_the_api_server_fills_in_the_defaults_of_the_dataclasses(api: Any) -> None:
    manifest = make_manifest(
        namespace=NAMESPACE, checkpoint={"storageUri": "s3://checkpoints/x", "keepBest": {}}
    )
    stored = _create(api, manifest, "--dry-run=server")
    assert types.parse_job(stored).spec == types.parse_job(manifest).spec
    assert stored["spec"]["worker"]["replicas"] == 1
    assert stored["spec"]["checkpoint"]["keepBest"] == {"metric": "boxAP", "count": 1}


@pytest.mark.parametrize(("spec", "path"), BROKEN_RULES)
def test_a_broken_rule_is_refused_with_its_meaning(api: Any, spec: dict[str, Any], path: str) -> None:
    (violation,) = validation.validate(make_job(**spec))
    manifest = yaml.safe_dump(make_manifest(namespace=NAMESPACE, **spec))
    said = _refused(api, "create", "--dry-run=server", "-f", "-", stdin=manifest)
    assert violation.path == path
    assert violation.rule in said
    (rule,) = [rule for rule in validation.RULES if rule.meaning == violation.rule]
    if rule.field:
        named = f"{rule.scope.replace('[]', '[0]')}{rule.field}".removeprefix(".")
        assert f"{named}: Invalid value" in said
    if rule.got:
        assert re.search(rf"got \S.*, {re.escape(rule.meaning)}", said)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"recipe": "Mask RCNN"}, "got 'Mask RCNN', must be a name that `kubedet recipes` lists"),
        (
            {"weightsMirror": "https://ann:pw@host"},
            "got a text with @, must be https://host/path without a user",
        ),
        ({"worker": {"template": {"spec": {"tolerationz": []}}}}, "spec.worker.template.spec.tolerationz"),
        (
            {"worker": {"template": {"spec": "text"}}},
            "spec.worker.template.spec in body must be of type object",
        ),
        ({"dataset": {"storageUri": "http://x"}}, "must be s3://bucket/prefix"),
        ({"worker": {"replicas": 0}}, "spec.worker.replicas in body should be greater than or equal to 1"),
        ({"worker": {"sharedMemory": "lots"}}, "spec.worker.sharedMemory"),
        ({"worker": {"replica": 2}}, 'unknown field "spec.worker.replica"'),
        ({"suspended": True}, 'unknown field "spec.suspended"'),
        ({"schedulingPolicy": {"gang": "Mesos"}}, 'Unsupported value: "Mesos"'),
    ],
)
def test_bounds_and_unknown_fields_are_refused(api: Any, spec: dict[str, Any], said: str) -> None:
    manifest = yaml.safe_dump(make_manifest(namespace=NAMESPACE, **spec))
    assert said in _refused(api, "create", "--dry-run=server", "-f", "-", stdin=manifest)


def test_what_makes_a_run_may_change_until_a_worker_has_trained(api: Any) -> None:
    checkpoint = {"storageUri": "s3://checkpoints/x"}
    job = make_manifest(name="changing", namespace=NAMESPACE, checkpoint=checkpoint, task="Measure")
    _create(api, job)
    change = {
        "task": "Train",
        "recipe": "smoke_rpn",
        "overrides": {"optimizer.lr": "0.01"},
        "dataset": {"val": {"images": "other"}},
        "checkpoint": {"storageUri": "s3://checkpoints/y"},
        "managedBy": "example.com/other",
    }
    apply = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    changed = {**job, "spec": merge(job["spec"], change)}
    api.kubectl(*apply, stdin=yaml.safe_dump(changed))
    target = ("-n", NAMESPACE, "dj", "changing")

    def report(status: dict[str, Any]) -> None:
        patch = json.dumps({"status": status})
        api.kubectl("patch", *target, "--subresource=status", "--type=merge", "-p", patch)

    report({"startTime": "2026-01-01T00:00:00Z", "progress": {"stage": "Initializing", "iteration": 0}})
    said = _refused(api, *apply, stdin=yaml.safe_dump(job))
    assert said.count("must not change once") == 1
    assert "spec.managedBy must not change once the job has started" in said
    changed["spec"]["recipe"] = "smoke_ssd"
    api.kubectl(*apply, stdin=yaml.safe_dump(changed))
    report({"progress": {"iteration": 1}})
    said = _refused(api, *apply, stdin=yaml.safe_dump(job))
    for transition in transitions.TRANSITIONS:
        assert f"{transition.field} must not change once {transition.moment.words.format(noun='job')}" in said
    later = {
        "backoffLimit": 9,
        "suspend": True,
        "elasticPolicy": {"maxReplicas": 4},
        "failurePolicy": {
            "rules": [{"name": "x", "onMessagePatterns": ["Xid (48|79)"], "action": "FailJob"}]
        },
        "activeDeadlineSeconds": 60,
        "ttlSecondsAfterFinished": 0,
    }
    api.kubectl("patch", *target, "--type=merge", "-p", json.dumps({"spec": later}))
    api.kubectl("scale", *target, "--replicas=3")
    assert "worker.replicas must be from" in _refused(api, "scale", *target, "--replicas=5")
    assert "smoke_ssd" in api.kubectl("get", *target, "-o", "wide")


def test_golden_jobs_become_pods_of_the_restricted_level(api: Any) -> None:
    for path in sorted((ROOT / "tests" / "golden" / "manifests").glob("*.job.yaml")):
        manifest = yaml.safe_load(path.read_text())
        manifest["metadata"]["namespace"] = NAMESPACE
        job = types.parse_job(_create(api, manifest))
        children = yaml.safe_dump_all(
            build_children(job, attempt=0, settings=OperatorSettings(), excluded=EXCLUDED)
        )
        api.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=children)
