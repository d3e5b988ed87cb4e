"""Plays the table of scenarios on a real API server: its schema, admission, garbage collection, conflicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import yaml

import install
from kube import WAIT_SECONDS, Kube
from kubedet_operator.api import names, schema
from kubedet_operator.cluster.client import JOBS
from player import Player
from real_world import GANGS, NODES, RealWorld
from scenario import Scenario
from scenarios import SCENARIOS
from shared_cluster import SharedCluster, empty

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parent.parent.parent.parent
NAMESPACE = "kubedet-integration"
AT_ONCE = 6
"""Scenarios that are played at the same time."""

_RBAC = "rbac.authorization.k8s.io"


@pytest.fixture(scope="module")
def shared_cluster(cluster: Any, account: Callable[[str], Path], fake_nodes: None) -> Iterator[SharedCluster]:
    """The cluster with all that scenarios need, and the watches of an operator with its rights there."""
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=schema.dump_crd())
    surroundings = [*_nodes(), *_pod_groups(), *_rights(), _priority_class()]
    cluster.apply(*surroundings)
    for name in ("detectionjobs.kubedet.dev", *(_pod_group_name(version) for version in GANGS.values())):
        cluster.kubectl("wait", "--for=jsonpath={.status.acceptedNames.plural}", f"crd/{name}")
        cluster.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s")
    kube, kubeconfig = Kube(account("scenarios")), str(account("kubedet-operator"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", kubeconfig)
        with SharedCluster(kube) as shared_cluster:
            yield shared_cluster
    given_back = [found for found in surroundings if found["kind"] != "ServiceAccount"]
    cluster.kubectl("delete", "-f", "-", stdin=yaml.safe_dump_all(given_back))


@pytest.fixture(scope="module")
def plays(request: pytest.FixtureRequest, shared_cluster: SharedCluster) -> Iterator[dict[str, Future[None]]]:
    """All scenarios that were selected, while they are played."""
    functions = (item for item in request.session.items if isinstance(item, pytest.Function))
    chosen = [
        item.callspec.params["scenario"]
        for item in functions
        if item.module is request.module and hasattr(item, "callspec")
    ]
    scenarios = [scenario for scenario in chosen if isinstance(scenario, Scenario)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {scenario.name: pool.submit(_play, shared_cluster, scenario) for scenario in scenarios}
        pool.shutdown(cancel_futures=True)


def _play(shared_cluster: SharedCluster, scenario: Scenario) -> None:
    world = RealWorld(shared_cluster, _namespace(scenario), scenario.spec)
    try:
        Player(world).play_all(scenario)
    finally:
        world.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_job_lives_as_expected(scenario: Scenario, plays: dict[str, Future[None]]) -> None:
    plays[scenario.name].result()


def test_jobs_leave_nothing_when_they_go(
    shared_cluster: SharedCluster, plays: dict[str, Future[None]]
) -> None:
    wait(plays.values())
    namespaces = {_namespace(scenario) for scenario in SCENARIOS if scenario.name in plays}
    for namespace in namespaces:
        shared_cluster.call(
            shared_cluster.kube.ask("DELETE", f"/{JOBS}/namespaces/{namespace}/{names.PLURAL}")
        )
    shared_cluster.call(empty(shared_cluster.kube, namespaces), seconds=2 * WAIT_SECONDS)


def _namespace(scenario: Scenario) -> str:
    return f"life-{SCENARIOS.index(scenario)}"


def _nodes() -> Iterator[dict[str, Any]]:
    for name in NODES:
        metadata = {"name": name, "annotations": {"kwok.x-k8s.io/node": "fake"}}
        yield {"apiVersion": "v1", "kind": "Node", "metadata": metadata}


def _pod_group_name(version: str) -> str:
    return f"podgroups.{version.partition('/')[0]}"


def _pod_groups() -> Iterator[dict[str, Any]]:
    """The definitions that gang schedulers bring with them, as far as anybody here reads them."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    for version in GANGS.values():
        group, _, number = version.partition("/")
        # Its group is one that only projects of Kubernetes may use, unless somebody says why.
        approval = {"api-approved.kubernetes.io": "unapproved, for tests"}
        yield {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": _pod_group_name(version), "annotations": approval},
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {"plural": "podgroups", "singular": "podgroup", "kind": "PodGroup"},
                "versions": [{"name": number, "served": True, "storage": True, "schema": schema}],
            },
        }


def _rights() -> Iterator[dict[str, Any]]:
    """An administrator for the tests; and the operator's own rights, in all namespaces."""
    metadata = {"name": "scenarios", "namespace": NAMESPACE}
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    rules = [rule for role in install.read("Role") for rule in role["rules"]]
    metadata = {"name": "kubedet-operator"}
    yield {"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules}
    for account, role in (("scenarios", "cluster-admin"), ("kubedet-operator", "kubedet-operator")):
        yield {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": f"test-{account}"},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
        }


def _priority_class() -> dict[str, Any]:
    metadata = {"name": "high"}
    return {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": metadata, "value": 1}
