"""A container's manifest becomes a command of this machine."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from builders import make_job
from kubedet_operator.children import workers
from kubedet_operator.local.container import CannotRunHere, Command, Machine, free_port, translate
from kubedet_operator.settings import OperatorSettings


def _command(
    tmp_path: Path,
    *,
    rendezvous: bool = False,
    secrets: dict[str, Any] | None = None,
    inherited: dict[str, str] | None = None,
    **spec: Any,
) -> Command:
    job = make_job(**spec)
    settings = OperatorSettings()
    pod = (
        workers.build_rendezvous(job, settings=settings)
        if rendezvous
        else workers.build_worker(job, 1, attempt=0, settings=settings)
    )
    machine = Machine(
        output=tmp_path,
        secrets=secrets or {},
        inherited={"PATH": "/bin", "KUBEDET_RECIPE": "stale", "KUBEDET_OVERRIDES": "{}", **(inherited or {})},
        rendezvous_port=23456,
    )
    return translate(pod, machine)


def test_the_command_is_the_pods_with_this_python(tmp_path: Path) -> None:
    assert _command(tmp_path).arguments == (sys.executable, "-m", "kubedet_trainer.worker.launch")


def test_paths_and_addresses_are_this_machines(tmp_path: Path) -> None:
    environment = _command(tmp_path, worker={"replicas": 2}).environment
    work = tmp_path / "work" / "demo-worker-1"
    assert environment["KUBEDET_WORK_DIRECTORY"] == str(work)
    assert environment["KUBEDET_TERMINATION_MESSAGE_PATH"] == str(work / "termination-log")
    assert environment["KUBEDET_LOCAL_ADDRESS"] == "127.0.0.1"
    assert environment["KUBEDET_RENDEZVOUS_ENDPOINT"] == "127.0.0.1:23456"


def test_worker_and_rendezvous_agree_on_the_port(tmp_path: Path) -> None:
    command = _command(tmp_path, rendezvous=True, worker={"replicas": 2})
    assert command.environment["KUBEDET_RENDEZVOUS_ENDPOINT"] == "127.0.0.1:23456"
    assert command.metrics_port is None


def test_folders_of_modules_are_those_of_the_container_and_then_those_of_the_machine(tmp_path: Path) -> None:
    variable = {"name": "PYTHONPATH", "value": "/recipes"}

    with_variable = _command(tmp_path, inherited={"PYTHONPATH": "/home/ann"}, worker={"env": [variable]})
    without = _command(tmp_path, inherited={"PYTHONPATH": "/home/ann"})

    assert with_variable.environment["PYTHONPATH"] == "/recipes:/home/ann"
    assert without.environment["PYTHONPATH"] == "/home/ann"


def test_the_machines_environment_is_inherited_but_for_the_contracts(tmp_path: Path) -> None:
    environment = _command(tmp_path).environment
    assert environment["PATH"] == "/bin"
    assert environment["KUBEDET_RECIPE"] == "smoke_faster_rcnn"
    assert "KUBEDET_OVERRIDES" not in environment


def test_secrets_are_resolved_and_optional_keys_may_be_absent(tmp_path: Path) -> None:
    command = _command(
        tmp_path,
        dataset={"storageUri": "s3://datasets/coco", "secretRef": {"name": "minio"}},
        secrets={"minio": {"accessKey": "a", "secretKey": "hush"}},
    )
    assert command.environment["KUBEDET_DATASET_SECRET_KEY"] == "hush"
    assert "KUBEDET_DATASET_CA" not in command.environment
    assert "hush" not in repr(command)


@pytest.mark.parametrize(
    ("spec", "secrets", "said"),
    [
        ({"dataset": {"secretRef": {"name": "minio"}}}, {}, "Secret minio: absent"),
        (
            {"dataset": {"secretRef": {"name": "minio"}}},
            {"minio": {"accessKey": "a"}},
            "key secretKey of Secret minio: absent",
        ),
        (
            {"worker": {"env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]}},
            {},
            "environment variable X: got valueFrom configMapKeyRef, must be",
        ),
    ],
)
def test_what_only_a_cluster_has_is_refused(
    tmp_path: Path, spec: dict[str, Any], secrets: dict[str, Any], said: str
) -> None:
    with pytest.raises(CannotRunHere, match=said):
        _command(tmp_path, secrets=secrets, **spec)


def test_a_taken_port_is_not_offered() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(preferred=port) not in (0, port)


def test_a_port_beyond_the_last_one_is_replaced() -> None:
    assert 0 < free_port(preferred=65536) < 65536


def test_each_worker_prefers_a_port_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    assert _command(tmp_path, metrics={"port": port - 1}).metrics_port == port
