"""The CRD on a real API server and the checks in Python give one verdict about generated jobs."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

import job_documents
from kube import Kube, Refused
from kubedet_operator.api import names, schema, validation
from kubedet_operator.api.decoding import InvalidManifest
from throwaway import await_definition

DOCUMENTS = int(os.environ.get("KUBEDET_DOCUMENTS", 300))
"""How many are judged. 10,000 take some minutes."""
NAMESPACE = "kubedet-verdicts"
PARALLEL = 8
JOBS = f"/apis/{names.API_VERSION}/namespaces/{NAMESPACE}/{names.PLURAL}"

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300 + DOCUMENTS // 5)]


@pytest.fixture(scope="module")
def kubeconfig(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An administrator's, of the cluster with the CRD."""
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=schema.dump_crd())
    await_definition(cluster.kubectl)
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    cluster.kubectl("create", "serviceaccount", "judge", "-n", NAMESPACE)
    binding = ("--clusterrole=cluster-admin", f"--serviceaccount={NAMESPACE}:judge")
    cluster.kubectl("create", "clusterrolebinding", "judge", *binding)
    token = cluster.kubectl("create", "token", "judge", "-n", NAMESPACE, "--duration=3h").strip()
    config = json.loads(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    path = tmp_path_factory.mktemp("judge") / "config.json"
    path.write_text(json.dumps(config))
    yield path
    cluster.kubectl("delete", "clusterrolebinding", "judge")
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


async def test_the_api_server_and_the_operator_judge_alike(kubeconfig: Path) -> None:
    seed = int(os.environ.get("KUBEDET_SEED", 0)) or (time.time_ns() if DOCUMENTS > 1000 else 1)
    kube, started = Kube(kubeconfig), time.monotonic()
    documents = islice(job_documents.generate(Random(seed), namespace=NAMESPACE), DOCUMENTS)
    differences: list[str] = []
    verdicts: Counter[str] = Counter()

    async def judge() -> None:
        for document in documents:
            theirs, ours = await _ask(kube, document), _check(document)
            verdicts["refused" if theirs else "accepted"] += 1
            if (theirs is None) != (ours is None):
                differences.append(f"API server: {theirs}\nPython: {ours}\n{json.dumps(document)[:3000]}")
                print(differences[-1], flush=True)

    await asyncio.gather(*(judge() for _ in range(PARALLEL)))
    await kube.close()
    print(f"seed {seed}: {dict(verdicts)}, {len(differences)} differ, {time.monotonic() - started:.0f} s")
    assert not differences, "\n\n".join(differences[:20])
    assert min(verdicts["accepted"], verdicts["refused"]) > DOCUMENTS / 10


async def _ask(kube: Kube, document: dict[str, Any]) -> str | None:
    """Why the API server refuses a document, or None."""
    try:
        await kube.ask("POST", f"{JOBS}?dryRun=All&fieldValidation=Strict", _as_kubectl_sends(document))
    except Refused as refusal:
        return str(refusal)[:1500]
    return None


def _as_kubectl_sends(value: Any) -> Any:
    """Go writes 1.0 as 1. A client that writes 1.0 is refused where CEL computes with the field."""
    if isinstance(value, dict):
        return {name: _as_kubectl_sends(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_as_kubectl_sends(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check(document: dict[str, Any]) -> str | None:
    try:
        validation.load_job(document)
    except InvalidManifest as error:
        return str(error)[:1500]
    return None
