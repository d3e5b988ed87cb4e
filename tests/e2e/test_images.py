"""The built images hold what they should and no more, and the trainer's works alone as its page says."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from cluster_jobs import NAMESPACE, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parent.parent.parent
OPERATOR_IMAGE = "kubedet-operator:e2e"
TRAINER_IMAGE = "kubedet-trainer:e2e"
VERSION = importlib.metadata.version("kubedet")
ABSENT = {OPERATOR_IMAGE: {"torch", "cv2", "pip"}, TRAINER_IMAGE: {"kopf", "kubernetes", "aiohttp", "pip"}}
"""What each image must do without. The trainer's is looked at before anything is mounted into it."""

PROGRAM = """
import importlib.util, json, os, shutil, sys, kubedet_operator, kubedet_trainer.commands.kubedet
def is_writable(folder):
    try:
        open(folder + "/written", "w").close()
    except OSError:
        return False
    return True
print(json.dumps({
    "user": os.getuid(),
    "modules": [name for name in sys.argv[1:] if importlib.util.find_spec(name)],
    "compilers": [name for name in ("gcc", "g++", "cc", "clang", "ld", "make") if shutil.which(name)],
    "writable": [folder for folder in ("/", "/opt/kubedet", sys.prefix, "/work") if is_writable(folder)],
}))
"""
DOCKER_RUN = ["docker", "run", "--rm"]
DOCKER_OPTIONS = shlex.split(
    "--read-only --tmpfs /tmp --shm-size 1g --user '$(id -u):$(id -g)' --volume '$PWD:/work'"
)
"""What the pod of the test has as fields."""

SHORTER = {
    "train": ["schedule.epochs=1", "--dataset", "synthetic://shapes?images=16&val_images=4"],
    "benchmark": ["--iterations", "2", "--images", "2"],
}
"""What a test adds to a command of the page; the last of an option given twice counts."""


@pytest.mark.parametrize("image", ABSENT)
def test_an_image_holds_its_half_and_no_compiler(operator: Any, image: str) -> None:
    name = image.replace(":", "-")
    asked = sorted(ABSENT[image] | {"click", "prometheus_client"})
    container = {**_container(image), "name": "look", "command": ["python3", "-c", PROGRAM, *asked]}
    output = _run_pod(operator, name, {"containers": [container]})["look"]
    assert json.loads(output) == {
        "user": 1000,
        "modules": ["click", "prometheus_client"],
        "compilers": [],
        "writable": [],
    }


@pytest.mark.parametrize("image", ABSENT)
def test_the_bill_and_the_labels_of_an_image_are_those_of_the_version(
    operator: Any, image: str, tmp_path: Path
) -> None:
    archive = _archive(image)
    labels = _labels(archive)
    assert labels["org.opencontainers.image.version"] == VERSION
    assert labels["org.opencontainers.image.title"] == image.partition(":")[0]
    assert labels["org.opencontainers.image.base.name"] == "kubedet-base:bookworm"
    bill = tmp_path / "bill.json"
    subprocess.run([sys.executable, ROOT / "images" / "sbom.py", archive, bill], cwd=ROOT, check=True)
    document = json.loads(bill.read_text())
    assert document["metadata"]["component"]["version"] == VERSION
    pins = set(re.findall(r"^[\w.-]+==[\w.]+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    listed = {f"{canonicalize_name(item['name'])}=={item['version']}" for item in document["components"]}
    print(f"\n{image}: {len(listed)} packages, {archive.stat().st_size / 1e6:.0f} MB")
    assert len(listed) > 20
    assert listed - pins == set(), "not pinned by constraints.txt"


def test_the_trainer_works_alone_as_its_page_says(operator: Any, shared: Path) -> None:
    """Each command of docs/trainer-image.md is a container of one pod, one after another, with one volume.

    A pod stands in for `docker run`: the page's options and the pod's fields say the same of the user, the
    root that is read-only, /work, /tmp and /dev/shm.
    """
    photographs = sorted((shared / "data/bccd/images").glob("*.jpg"))[:2]
    files = [f"--from-file={path}" for path in photographs]
    operator.kubectl("create", "configmap", "photographs", "-n", NAMESPACE, *files)
    mounts = {"work": "/work", "tmp": "/tmp", "memory": "/dev/shm", "torch": "/opt/torch"}
    mounted = [
        *({"name": volume, "mountPath": path} for volume, path in mounts.items()),
        {"name": "photographs", "mountPath": "/work/photographs"},
    ]
    variables = {"PYTHONPATH": "/opt/torch", "OMP_NUM_THREADS": "2"}
    steps = [
        {
            **_container(TRAINER_IMAGE),
            "name": arguments[0],
            "args": [*arguments, *SHORTER.get(arguments[0], [])],
            "env": [{"name": key, "value": value} for key, value in variables.items()],
            "volumeMounts": mounted,
        }
        for arguments in _documented_commands()
    ]
    assert [step["name"] for step in steps] == ["recipes", "train", "predict", "benchmark"]
    volumes = [
        {"name": "work", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        {"name": "torch", "persistentVolumeClaim": {"claimName": "torch", "readOnly": True}},
        {"name": "photographs", "configMap": {"name": "photographs"}},
    ]
    spec = {"initContainers": steps[:-1], "containers": steps[-1:], "volumes": volumes}
    logs = _run_pod(operator, "trainer-alone", spec)
    assert "faster_rcnn_r50_fpn_1x" in logs["recipes"]
    assert "model: file:///work/runs/smoke_faster_rcnn/checkpoints/step-00000002/state.pt" in logs["train"]
    assert re.search(r"detections in 2 pictures: found/\S+\.json", logs["predict"])
    assert re.search(r"s/iter +\d+\.\d{3}", logs["benchmark"])


def _documented_commands() -> list[list[str]]:
    """The arguments after the image's name in each `docker run` of the page."""
    text = (ROOT / "docs" / "trainer-image.md").read_text().replace("\\\n", "")
    image = f"kubedet-trainer:{VERSION}"
    blocks = [shlex.split(block) for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)]
    places = [words.index(image) for words in blocks]
    for words, place in zip(blocks[1:], places[1:], strict=True):
        assert words[:place] == [*DOCKER_RUN, *DOCKER_OPTIONS]
    assert blocks[0][: places[0]] == DOCKER_RUN, "the list of recipes needs nothing"
    return [words[place + 1 :] for words, place in zip(blocks, places, strict=True)]


def _container(image: str) -> dict[str, Any]:
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {"image": image, "securityContext": {**restricted, "readOnlyRootFilesystem": True}}


def _run_pod(cluster: Any, name: str, spec: dict[str, Any]) -> dict[str, str]:
    """Run a pod to its end, as the user of the image; what each container wrote."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "fsGroup": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            **spec,
        },
    }
    cluster.apply(json.dumps(pod))
    try:
        phase = wait_for(lambda: _ending(cluster, name), 600, f"end of pod {name}")
        names = [part["name"] for part in (*spec.get("initContainers", []), *spec["containers"])]
        logs = {part: cluster.kubectl("logs", "-n", NAMESPACE, name, "-c", part) for part in names}
        assert phase == "Succeeded", logs
        return logs
    finally:
        cluster.kubectl("delete", "pod", name, "-n", NAMESPACE, "--wait=false")


def _ending(cluster: Any, name: str) -> str | None:
    phase = cluster.get("pod", name)["status"].get("phase")
    return phase if phase in ("Succeeded", "Failed") else None


def _archive(image: str) -> Path:
    """The file that the kit's builder wrote."""
    home = Path(os.environ.get("KUBEDET_CLUSTER_HOME", Path.home() / ".cache/kubedet-cluster"))
    return home / "images" / f"{image.replace(':', '_')}.tar"


def _labels(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as image:

        def read(name: str) -> Any:
            member = image.extractfile(name)
            assert member is not None
            return json.load(member)

        labels: dict[str, str] = read(read("manifest.json")[0]["Config"])["config"]["Labels"]
        return labels
