"""What others write into statuses and annotations costs nobody a decision, and spoils no status."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest

import world
from kubedet_operator.api import names, schema
from kubedet_operator.control.zoos import compare_rows
from status_documents import generate
from zoo_simulation import ZooSimulation, settled

RETINA, RPN, FAST = "retinanet_r50_fpn_1x", "rpn_r50_fpn_1x", "fast_rcnn_r50_fpn_1x"
JOB, ZOO = schema.build_schema(), schema.build_schema(schema.ZOO)
JOB_STATUS, ZOO_STATUS = (kind["properties"]["status"] for kind in (JOB, ZOO))
IN_TIME = {
    "activeDeadlineSeconds": 100,
    "preRunningDeadlineSeconds": 5,
    "ttlSecondsAfterFinished": 2147483647,
}
ELASTIC = {
    "worker": {"replicas": 2, "gpus": 1},
    "checkpoint": {"storageUri": "s3://x/y"},
    "elasticPolicy": {"minReplicas": 1, "maxReplicas": 4},
}


@pytest.mark.parametrize(
    "spec", [{}, {"suspend": True}, IN_TIME, ELASTIC], ids=["plain", "suspend", "time", "elastic"]
)
def test_a_job_is_decided_about_whatever_status_it_has(spec: dict[str, Any]) -> None:
    for seed in range(40):
        chance = random.Random(seed)
        status = generate(JOB_STATUS, chance)
        pods = chance.choice([[], [world.pod()], [world.pod(exit_code=1)], [world.pod(exit_code=0)]])
        decided = json.loads(
            json.dumps(world.decide_on(*pods, status=status, **spec).status, allow_nan=False)
        )
        jsonschema.validate(decided, JOB_STATUS)


def test_a_zoo_is_decided_about_whatever_statuses_it_and_its_jobs_have() -> None:
    for seed in range(24):
        chance, zoo = random.Random(seed), _make_zoo()
        hashes = {row["recipe"]: row["hash"] for row in zoo.status["rows"]}
        assert zoo.zoo is not None
        before = zoo.zoo["status"] = generate(ZOO_STATUS, chance)
        for row, recipe in zip(before.get("rows") or (), hashes, strict=False):
            row |= {"recipe": recipe, "hash": hashes[recipe]}
        for job in zoo.jobs.values():
            job["status"] = generate(JOB_STATUS, chance)
        decided = json.loads(json.dumps(zoo.plan().status, allow_nan=False))
        jsonschema.validate(decided, ZOO_STATUS)
        assert {row["recipe"] for row in decided["rows"]} == set(hashes)
        assert all(told.message for told in compare_rows(before, decided))


def _make_zoo() -> ZooSimulation:
    return settled(
        rows={"recipes": [RETINA, RPN, FAST]},
        parallelism=3,
        repeats=2,
        ttlSecondsAfterFinished=5,
        template={"spec": {"ttlSecondsAfterFinished": 2147483647}},
    )


@pytest.mark.parametrize("annotation", [names.ZOO_SEED, names.ZOO_ATTEMPT])
@pytest.mark.parametrize("text", ["9" * 5000, "9" * 19, "-1", "²", ""])
def test_an_annotation_that_is_no_number_is_that_job_s_own_trouble(annotation: str, text: str) -> None:
    zoo = settled(rows={"recipes": [RETINA, RPN]}, parallelism=2)
    zoo.job(RETINA)["metadata"]["annotations"][annotation] = text
    zoo.succeed(RPN, ar1000=57.0)
    zoo.settle()
    assert zoo.phases()[RPN] == "Succeeded"


def test_what_a_worker_says_of_its_hardware_fits_the_row() -> None:
    zoo = settled()
    zoo.succeed(RETINA, boxAP=35.9, hardware={"worldSize": True, "globalBatch": 2**70, "precision": "x" * 99})
    zoo.settle()
    results = zoo.row(RETINA)["runs"][0]["results"]
    assert "worldSize" not in results
    assert (results["globalBatch"], len(results["precision"])) == (2**53, 32)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2016-12-31T23:59:60Z"])
def test_a_condition_with_an_impossible_time_still_holds(time: str) -> None:
    complete = world.decide_on(world.pod(exit_code=0, message=world.RESULTS))
    status = json.loads(json.dumps(complete.status))
    for condition in status["conditions"]:
        condition["lastTransitionTime"] = time
    plan = world.decide_on(status={**status, "completionTime": time}, ttlSecondsAfterFinished=60)
    assert world.condition(plan, "Complete")[0] == "True"
    assert plan.actions == ()
