"""Two real nodes with the chart installed, an object store with real photographs, and a Prometheus."""

from __future__ import annotations

import json
import os
import re
import shutil
import string
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import minio
import pytest
import yaml

from cluster_jobs import NAMESPACE, is_complete
from pod_discovery import serve_pods
from throwaway import run

ROOT = Path(__file__).resolve().parent.parent.parent
MANIFESTS = Path(__file__).resolve().parent / "manifests"
CHART = ROOT / "charts" / "kubedet"
CLUSTER = "kubedet-e2e"
RELEASE = "kubedet"
FREE_DISK_GB = 30
OPERATOR_IMAGE = "kubedet-operator:e2e"
TRAINER_IMAGE = "kubedet-trainer:e2e"


@dataclass(frozen=True)
class Cluster:
    """A running cluster and how to talk to it."""

    environment: Mapping[str, str]

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """The output of one kubectl command; a failure carries what kubectl said."""
        return self._run("kubectl", *arguments, stdin=stdin)

    def helm(self, *arguments: str) -> str:
        """The output of one Helm command about the release's namespace."""
        return self._run("helm", "-n", NAMESPACE, *arguments)

    def _run(self, *command: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            command, input=stdin, env=dict(self.environment), capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, text: str) -> None:
        """`kubectl apply` of a manifest."""
        self.kubectl("apply", "-f", "-", stdin=text)

    def get(self, *arguments: str) -> Any:
        """`kubectl get -o json` in the test's namespace."""
        return json.loads(self.kubectl("get", "-n", NAMESPACE, "-o", "json", *arguments))

    def picture(self, title: str) -> None:
        """Show what a user would see now."""
        print(f"\n--- {title}\n{self.kubectl('get', 'dj,pods', '-n', NAMESPACE, '-o', 'wide')}", flush=True)


@dataclass(frozen=True)
class ObjectStore:
    """A running S3 server, reached from the pods and from here under one address."""

    endpoint: str
    access_key: str
    secret_key: str

    def client(self) -> minio.Minio:
        """A client of the store."""
        host = self.endpoint.removeprefix("http://")
        return minio.Minio(host, access_key=self.access_key, secret_key=self.secret_key, secure=False)


@dataclass(frozen=True)
class Monitoring:
    """A Prometheus that scrapes operator and workers, and since when."""

    url: str
    since: float


def fill(name: str, **values: object) -> str:
    """A manifest of this folder with its ``${NAME}`` places filled."""
    return string.Template((MANIFESTS / name).read_text()).substitute(values)


@pytest.fixture(scope="session")
def cluster(shared: Path) -> Iterator[Cluster]:
    """Two real nodes with both images loaded; taken down in the end."""
    free = shutil.disk_usage(Path.home()).free / 1e9
    if free < FREE_DISK_GB:
        pytest.skip(f"{free:.0f} GB of disk are free, images and nodes need {FREE_DISK_GB}")
    kit = shared / "cluster"
    # Without torch, which the test mounts: it is most of an image's gigabytes and of its building's minutes.
    run("make", "-C", ROOT, "images", "IMAGE_BUILDER=kit", "IMAGE_TAG=e2e", "TORCH_PACKAGES=")
    try:
        run(kit / "up", "--name", CLUSTER, "--nodes", "2")
        run(kit / "load-image", "--name", CLUSTER, OPERATOR_IMAGE, TRAINER_IMAGE)
        yield Cluster({**os.environ, **_exports(run(kit / "env", "--name", CLUSTER))})
    finally:
        run(kit / "down", "--name", CLUSTER)


@pytest.fixture(scope="session")
def object_store(cluster: Cluster, shared: Path) -> Iterator[ObjectStore]:
    """MinIO with the photographs in ``datasets`` and an empty ``checkpoints``."""
    kit = shared / "cluster"
    run(kit / "minio", "up", "--pods", "--name", CLUSTER)
    variables = _exports(run(kit / "env", "--name", CLUSTER))
    store = ObjectStore(
        next(value for name, value in variables.items() if value.startswith("http") and ":9000" in value),
        "kubedet",
        "kubedet-secret",
    )
    client = store.client()
    client.make_bucket("datasets")
    client.make_bucket("checkpoints")
    photographs = shared / "data" / "bccd"
    for path in sorted(photographs.rglob("*")):
        if path.is_file():
            client.fput_object("datasets", f"bccd/{path.relative_to(photographs)}", str(path))
    yield store
    run(kit / "minio", "down")


@pytest.fixture(scope="session")
def monitoring(
    cluster: Cluster, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Monitoring]:
    """A Prometheus that finds its targets the way that manifests/monitoring/README.md gives."""
    page = (ROOT / "manifests" / "monitoring" / "README.md").read_text()
    config = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    config["global"] = {"scrape_interval": "5s", "evaluation_interval": "15s"}  # jobs here last minutes
    config["rule_files"] = [str(CHART / "files" / "rules.yaml")]
    (scrape,) = config["scrape_configs"]
    assert scrape.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    path = tmp_path_factory.mktemp("prometheus") / "prometheus.yml"
    kit = shared / "cluster"
    with serve_pods(lambda: json.loads(cluster.kubectl("get", "--raw", "/api/v1/pods"))["items"]) as address:
        scrape["http_sd_configs"] = [{"url": address, "refresh_interval": "5s"}]
        path.write_text(yaml.safe_dump(config))
        variables = _exports(run(kit / "prometheus", "up", "--config", path))
        yield Monitoring(variables["PROMETHEUS_URL"], time.time())
        run(kit / "prometheus", "down")


@pytest.fixture(scope="session")
def operator(cluster: Cluster, object_store: ObjectStore, monitoring: Monitoring) -> Cluster:
    """The cluster with the operator in it, installed by the chart."""
    cluster.apply(
        fill(
            "namespace.yaml",
            SITE_PACKAGES=sysconfig.get_paths()["purelib"],
            ACCESS_KEY=object_store.access_key,
            SECRET_KEY=object_store.secret_key,
            ENDPOINT=object_store.endpoint,
        )
    )
    images = ("--set", "operator.image.tag=e2e", "--set", "trainer.image.tag=e2e")
    started = time.monotonic()
    cluster.helm("install", RELEASE, str(CHART), *images, "--wait", "--timeout=2m")
    # Helm is content with all but one replica.
    cluster.kubectl("rollout", "status", "-n", NAMESPACE, "deployment/kubedet-operator", "--timeout=2m")
    print(f"\nhelm install and all replicas ready: {time.monotonic() - started:.1f} s")
    print(cluster.helm("status", RELEASE, "--show-resources"), flush=True)
    return cluster


def _exports(text: str) -> dict[str, str]:
    """The variables of ``export NAME=value`` lines, with ``$PATH`` in them resolved."""
    found = dict(re.findall(r"^export (\w+)=[\"']?(.*?)[\"']?$", text, re.MULTILINE))
    return {name: os.path.expandvars(value) for name, value in found.items()}


@pytest.fixture
def job_manifest() -> Callable[..., str]:
    """A function that fills the job's manifest: the name and what differs from the usual."""

    def manifest(name: str, **changes: object) -> str:
        usual: dict[str, object] = {
            "RECIPE": "smoke_faster_rcnn",
            "OVERRIDES": '{schedule.epochs: "8", schedule.decay_epochs: "6,7", data.num_workers: "1"}',
            "DATASET": "s3://datasets/bccd",
            "SECRET": "minio",
            "REPLICAS": 1,
            "IMAGE": TRAINER_IMAGE,
            "RESOURCES": "{}",
            "MORE": "backoffLimit: 3",
        }
        return fill("job.yaml", NAME=name, **{**usual, **changes})

    return manifest


@pytest.fixture
def apply_job(
    operator: Any, object_store: Any, job_manifest: Callable[..., str]
) -> Iterator[Callable[..., str]]:
    """Apply a job and delete it in the end; a complete one costs nothing and stays for the dashboards."""
    names: list[str] = []

    def apply(name: str, **changes: object) -> str:
        names.append(name)
        operator.apply(job_manifest(name, **changes))
        return name

    yield apply
    for name in names:
        if not is_complete(operator, name):
            operator.kubectl("delete", "dj", name, "-n", NAMESPACE, "--ignore-not-found", "--wait=false")
