"""The end of the release, and of the tests: this file has the last name, as no operator is left after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cluster_jobs import NAMESPACE, pod_uids, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

CRD = "detectionjobs.kubedet.dev"


def test_uninstall_leaves_the_definition_the_jobs_and_their_pods(
    operator: Any, object_store: Any, apply_job: Callable[..., str]
) -> None:
    name = apply_job("left-behind")
    selector = f"kubedet.dev/job-name={name}"
    wait_for(lambda: _are_running(operator, selector), 120, "running pods")
    before = pod_uids(operator, selector)
    print("\n" + operator.kubectl("get", "dj", "-n", NAMESPACE, "-o", "wide"))
    print(operator.helm("uninstall", "kubedet", "--wait", "--timeout=2m"))
    assert operator.helm("list", "--short") == ""
    wait_for(
        lambda: not pod_uids(operator, "app.kubernetes.io/component=operator"), 60, "end of the operator"
    )
    print(operator.kubectl("get", f"crd/{CRD}"))
    operator.picture("after the uninstall")
    assert pod_uids(operator, selector) == before
    assert _are_running(operator, selector)
    assert operator.get("dj", name)["metadata"]["name"] == name


def _are_running(cluster: Any, selector: str) -> bool:
    pods = cluster.get("pods", "-l", selector)["items"]
    return bool(pods) and all(pod["status"].get("phase") == "Running" for pod in pods)
