"""The real parts of the chaos matrix, in a network of their own, and how each of them is hit.

An API server, two operators with a Lease, an S3 server (MinIO), and a small kubelet that runs launchers,
agents and ranks. Operators, pods and the S3 server are hosts that can be cut off.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import minio
import urllib3
import yaml

from kube import Kube
from kubedet_operator.api import names
from kubedet_operator.cluster.client import CORE, JOBS
from kubelet import Container, Kubelet
from pod_network import Host, Network
from s3 import ACCESS_KEY, SECRET_KEY, minio_program
from throwaway import Cluster, await_definition, run, run_cluster

NAMESPACE = "chaos"
NODE = "chaos-node"
SECRET = "s3"
BUCKET = "checkpoints"
_KEYS = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
_ACCOUNT = "chaos"
_CRDS = Path(__file__).resolve().parent.parent / "manifests" / "crds"
_UNSEEN_NODE = (
    "--controller-manager-arg=--controllers=-node-lifecycle-controller,-pod-garbage-collector-controller"
)
"""The node of the kubelet is no object, which these controllers would miss."""


async def wait_for(look: Callable[[], Any], what: str, *, seconds: float = 60) -> Any:
    """What `look` returns once that is true."""
    end = asyncio.get_running_loop().time() + seconds
    while not (found := look()):
        assert asyncio.get_running_loop().time() < end, f"no {what} within {seconds:.0f} s"
        await asyncio.sleep(0.02)
    return found


@dataclass
class Daemon:
    """A program that runs on a host of its own until it is stopped, and can be started again."""

    host: Host
    words: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.host.command(*self.words),
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
            )

    def ask(self, port: int, path: str) -> str:
        """The answer to a request; empty while there is none."""
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://{self.host.address}:{port}{path}", timeout=2) as answer,
        ):
            return str(answer.read().decode())
        return ""


@dataclass(frozen=True)
class World:
    """Everything that a job needs, and what can be hit of it."""

    kube: Kube
    kubelet: Kubelet
    operators: list[Daemon]
    s3: Daemon
    component: Callable[[str], None]
    """Does something to the API server, as the kit of the cluster does."""

    @property
    def store(self) -> minio.Minio:
        """A client of the S3 server."""
        keys = (_KEYS["accessKey"], _KEYS["secretKey"])
        client = urllib3.PoolManager(retries=False, timeout=10)
        return minio.Minio(f"{self.s3.host.address}:9000", *keys, secure=False, http_client=client)

    async def read_job(self, name: str) -> dict[str, Any]:
        """A job."""
        return await self.kube.ask("GET", f"{_jobs()}/{name}")

    async def create_job(self, manifest: dict[str, Any]) -> None:
        """Create a job."""
        await self.kube.ask("POST", _jobs(), manifest)

    async def delete_job(self, name: str) -> None:
        """Delete a job, and wait until its pods are gone."""
        await self.kube.ask("DELETE", f"{_jobs()}/{name}", {"propagationPolicy": "Background"})
        await wait_for(lambda: not self.pods_of(name), f"end of the pods of {name}")

    async def delete_pod(self, name: str, *, grace: int | None = None) -> None:
        """Delete a pod, with its own grace unless another one is given."""
        options = {} if grace is None else {"gracePeriodSeconds": grace}
        await self.kube.ask("DELETE", f"/{CORE}/namespaces/{NAMESPACE}/pods/{name}", options)

    def pods_of(self, job: str) -> list[Container]:
        """The containers of a job that run."""
        return [
            container
            for container in self.kubelet.containers.values()
            if container.pod.startswith(f"{job}-") and container.is_running()
        ]

    def leader(self) -> Daemon:
        """The operator that leads."""
        return next(filter(leads, self.operators))

    async def ready(self) -> None:
        """Wait until all parts work, as they do before each fault."""
        for daemon in (*self.operators, self.s3):
            daemon.start()
        await self.kube.wait_for(self._is_answered)
        await wait_for(self._has_bucket, "S3 server")
        await wait_for(lambda: all(one.ask(8080, "/readyz") == "ok" for one in self.operators), "operators")
        await wait_for(lambda: any(map(leads, self.operators)), "leader")

    async def _is_answered(self) -> bool:
        """Whether the API server answers; it may just have been started again."""
        with suppress(aiohttp.ClientError, TimeoutError):
            return bool(await self.kube.ask("GET", f"/{CORE}/namespaces/{NAMESPACE}"))
        return False

    def _has_bucket(self) -> bool:
        with suppress(minio.error.MinioException, urllib3.exceptions.HTTPError):
            if not self.store.bucket_exists(BUCKET):
                self.store.make_bucket(BUCKET)
            return True
        return False


def leads(operator: Daemon) -> bool:
    """Whether an operator holds the Lease."""
    return "kubedet_operator_leader 1.0" in operator.ask(8080, "/metrics")


@asynccontextmanager
async def run_world(kit: Path, folder: Path, *, name: str) -> AsyncIterator[World]:
    """Run all of it until the block ends. The process must run in `pod_network.ISOLATE`."""
    network = Network()
    with run_cluster(kit, name, "--apiserver-arg=--bind-address=0.0.0.0", _UNSEEN_NODE) as found:
        cluster = replace(found, namespace=NAMESPACE)
        index = json.loads((Path(cluster.kubeconfig).parent / "cluster.json").read_text())["index"]
        gateway = f"10.213.{index}.1"  # for which the API server has a certificate
        network.open(gateway)
        local = _prepare(cluster, folder / "admin.json", gateway=None)
        remote = _prepare(cluster, folder / "operator.json", gateway=gateway)
        kube = Kube(local)
        kubelet = Kubelet(kube, network, namespace=NAMESPACE, node=NODE, folder=folder / "pods")
        s3 = _s3(network.host("s3"), cluster.programs / "minio", folder)
        kubelet.secrets[SECRET] = {**_KEYS, "endpoint": f"http://{s3.host.address}:9000"}
        operators = [_operator(network.host(f"operator-{i}"), remote, folder) for i in range(2)]

        def component(action: str) -> None:
            run(kit / "component", action, "kube-apiserver", "--name", name)

        world = World(kube, kubelet, operators, s3, component)
        task = asyncio.create_task(kubelet.run())
        try:
            await world.ready()
            yield world
        finally:
            task.cancel()
            kubelet.close()
            for daemon in (*operators, s3):
                if daemon.process is not None:
                    daemon.process.kill()
                    daemon.process.wait()
            await kube.close()


def _prepare(cluster: Cluster, path: Path, *, gateway: str | None) -> Path:
    """A kubeconfig of an administrator's account, which reaches the API server at `gateway` if given."""
    if gateway is None:
        cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(_surroundings()))
        cluster.kubectl("apply", "--server-side", "-f", _CRDS)
        await_definition(cluster.kubectl)
    token = cluster.kubectl("create", "token", _ACCOUNT, "--duration=6h").strip()
    config = json.loads(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    if gateway is not None:
        place = config["clusters"][0]["cluster"]
        place["server"] = place["server"].replace("127.0.0.1", gateway)
    path.write_text(json.dumps(config))
    return path


def _surroundings() -> Iterator[dict[str, Any]]:
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    account = {"name": _ACCOUNT, "namespace": NAMESPACE}
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account}
    yield {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": _ACCOUNT},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", **account}],
    }


def _s3(host: Host, program: Path, folder: Path) -> Daemon:
    (folder / "s3").mkdir()
    command, environment = minio_program(program, folder / "s3", ":9000")
    return Daemon(host, command, environment, folder / "s3.log")


def _operator(host: Host, kubeconfig: Path, folder: Path) -> Daemon:
    environment = {
        "KUBECONFIG": str(kubeconfig),
        "KUBEDET_OPERATOR_NAMESPACES": NAMESPACE,
        "KUBEDET_OPERATOR_LEASE_NAMESPACE": NAMESPACE,
        "KUBEDET_OPERATOR_PROGRESS_INTERVAL_SECONDS": "1",
    }
    return Daemon(host, [sys.executable, "-m", "kubedet_operator"], environment, folder / f"{host.name}.log")


def _jobs() -> str:
    return f"/{JOBS}/namespaces/{NAMESPACE}/{names.PLURAL}"
