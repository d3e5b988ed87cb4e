"""Whatever a worker says about itself is read within bounds, or not at all, and never raises."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import jsonschema
import orjson
import pytest

import world
from kubedet_operator.api.schema import build_schema
from kubedet_operator.decision import reports
from kubedet_trainer import contract

SCHEMA: dict[str, Any] = build_schema()["properties"]["status"]
PROGRESS: dict[str, Any] = {"stage": "Training", "iteration": 5, "totalIterations": 10, "percentage": 50}
CHECKPOINT: dict[str, Any] = {
    "latest": "s3://b/step-00000005",
    "iteration": 5,
    "time": "2026-01-01T00:00:00Z",
    "sizeBytes": 1,
    "saveSeconds": 0.1,
    "stallSeconds": 0.1,
}
BOMBS = {
    "deep list": "[" * 100_000,
    "deep in an object": '{"progress":' + "[" * 4000,
    "deep and complete": '{"progress":' + "[" * 500 + "]" * 500 + "}",
    "digits": '{"progress": ' + "9" * 20_000 + "}",
    "no object": "[1, 2]",
    "text": "Traceback (most recent call last):",
    "too long": '{"progress": "' + "x" * reports.MAX_BYTES + '"}',
    "empty": "",
    "half": '{"progress": {"stage": "Tra',
    "bytes": "\ufeff\x00",
}


@pytest.mark.parametrize("answer", BOMBS.values(), ids=list(BOMBS))
def test_an_answer_that_is_no_report_is_none(answer: str) -> None:
    assert reports.read_progress(answer.encode()) is None
    assert reports.read_termination(answer[: contract.TERMINATION_MESSAGE_BYTES]) == reports.Termination()


def test_bytes_of_no_encoding_are_no_report() -> None:
    assert reports.read_progress(b'\xff\xfe{"progress": 1}') is None


def read(**progress: Any) -> contract.Progress:
    record = reports.read_progress(json.dumps({"progress": PROGRESS | progress}).encode())
    assert record is not None
    return record.progress


@pytest.mark.parametrize(
    ("field", "told", "known"),
    [
        ("iteration", 10**30, reports.MAX_NUMBER),
        ("iteration", -5, 0),
        ("percentage", 250, 100),
        ("goodputPercent", -1, 0),
        ("estimatedRemainingSeconds", 10**12, 2**31 - 1),
        ("lastProgressTime", "garbage", None),
        ("lastProgressTime", "0001-01-01T00:00:00Z", None),
        ("lastProgressTime", "9999-12-31T23:59:59Z", None),
        ("epoch", float("nan"), None),
    ],
)
def test_a_number_or_time_out_of_its_range_is_clamped_or_absent(field: str, told: Any, known: Any) -> None:
    if field == "epoch":
        assert read(epoch=told).epoch == 0
    else:
        assert getattr(read(**{field: told}), field) == known


def test_a_checkpoint_that_cannot_be_read_costs_no_progress() -> None:
    for broken in ({"time": "soon"}, {"saveSeconds": float("nan")}, {"iteration": "many"}):
        document = {"progress": PROGRESS, "checkpoint": CHECKPOINT | broken}
        record = reports.read_progress(json.dumps(document).encode())
        assert record is not None
        assert record.progress.iteration == 5
        assert record.checkpoint is None


STRAGGLER: dict[str, Any] = {"rank": 5, "replica": 1, "ratio": 1.8, "since": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("told", "ratio"),
    [
        ({}, 1.8),
        ({"ratio": 1e300}, 1e6),
        ({"ratio": -1.0}, 0.0),
        ({"ratio": float("nan")}, None),
        ({"rank": -1}, None),
        ({"rank": 10**9}, None),
        ({"replica": -1}, None),
        ({"replica": "x"}, None),
        ({"since": "soon"}, None),
        ({"since": "9999-12-31T23:59:59Z"}, None),
        ({"since": "x" * 5000}, None),
    ],
)
def test_a_straggler_is_bounded_or_absent_and_costs_no_progress(
    told: dict[str, Any], ratio: float | None
) -> None:
    document = {"progress": PROGRESS, "straggler": STRAGGLER | told}
    record = reports.read_progress(json.dumps(document).encode())
    assert record is not None
    assert record.progress.iteration == 5
    assert (record.straggler.ratio if record.straggler else None) == ratio


def test_only_known_phases_with_possible_seconds_are_booked() -> None:
    spent = {"since": "2026-01-01T00:00:00Z", "seconds": {"training": 1e300, "lost": -1, "coffee": 9}}
    time = read(time=spent).time
    assert time is not None
    assert time.seconds == {"training": 2**31 - 1, "lost": 0}


def test_results_keep_the_figures_that_can_be_read() -> None:
    told = {
        "boxAP": 37.4,
        "maskAP": float("inf"),
        "memoryGB": "much",
        "metrics": [{"name": "x" * 5000, "value": 10**30}, *[{}] * 200],
        "reference": {f"figure{index}": 1.0 for index in range(200)},
        "hardware": {"accelerator": "\x1b[31mred\x00"},
    }
    results = reports.read_termination(json.dumps({"results": told}, ensure_ascii=False)).results
    assert results is not None
    assert (results.boxAP, results.maskAP, results.memoryGB) == (37.4, None, None)
    assert len(results.metrics) == len(results.reference) == 100
    assert results.metrics[0] == {"name": "x" * 1024, "value": reports.MAX_NUMBER}
    assert results.hardware == {"accelerator": "\ufffd[31mred\ufffd"}


def test_a_failure_keeps_what_can_be_read_of_it() -> None:
    told = {
        "reason": "no\nword",
        "message": {"a": 1},
        "rank": True,
        "time": "x",
        "lastLines": ["a", None, "b" * 4000],
    }
    failure = reports.read_termination(json.dumps({"failure": told})).failure
    assert failure == reports.FailureReport(message="{'a': 1}", last_lines=("a", "None", "b" * 1024))


def test_a_job_that_exits_with_0_completes_whatever_figures_it_names() -> None:
    message = json.dumps({"results": {"boxAP": 10**30, "recipe": "x" * 3000, "metrics": [[]] * 5}})
    plan = world.decide_on(world.pod(exit_code=0, message=message))
    assert world.condition(plan, "Complete")[0] == "True"
    jsonschema.validate(plan.status, SCHEMA)


_SECONDS = float(os.environ.get("KUBEDET_FUZZ_SECONDS", 0))
_INPUTS = 300
_ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**53, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), -float("inf"), "", "0", "training", "\0", "\ud800", "\x1b[2J", "x" * 3000),
    *("garbage", "2026-01-01T00:00:00", "2026-01-01", "9999-12-31T23:59:59+14:00", "0001-01-01T00:00:00Z"),
    *([], {}, [[]], [None], {"a": {"b": [1]}}, [{}] * 150, {str(index): index for index in range(150)}),
]
_RECORDS = {
    "progress": contract.Progress,
    "checkpoint": contract.CheckpointStatus,
    "results": contract.Results,
    "failure": contract.Failure,
    "time": contract.TimeSpent,
    "straggler": contract.Straggler,
}


def _value(random: Random, depth: int = 0) -> Any:
    if depth < 12 and random.random() < 0.3:
        inner = [_value(random, depth + 1) for _ in range(random.randrange(3))]
        return inner if random.random() < 0.5 else {random.choice("abcde\ud800"): item for item in inner}
    return random.choice(_ODD)


def _record(random: Random, name: str) -> dict[str, Any]:
    """A valid record with some fields replaced or left out: it gets past the first look."""
    valid = {"progress": PROGRESS, "checkpoint": CHECKPOINT, "straggler": STRAGGLER}
    base: dict[str, Any] = valid.get(name, {})
    record = dict(base)
    for field in dataclasses.fields(_RECORDS[name]):
        if random.random() < 0.3:
            record[field.name] = _value(random)
    if name == "progress" and random.random() < 0.5:
        record["time"] = {"since": "2026-01-01T00:00:00Z"} | _record(random, "time")
    return record


def _message(random: Random) -> str:
    """A termination message or an answer, mostly of the right shape; some are cut off or torn."""
    progress = {name: _record(random, name) for name in ("progress", "checkpoint", "straggler")}
    progress |= {name: _value(random) for name in ("worldSize", "processRestarts") if random.random() < 0.3}
    document = {
        "results": _record(random, "results"),
        "failure": _record(random, "failure"),
        "progress": random.choice([progress, progress, _value(random)]),
    }
    kept = {name: part for name, part in document.items() if random.random() < 0.7}
    text = json.dumps(random.choice([kept, progress]), ensure_ascii=random.random() < 0.5)
    if random.random() < 0.1:
        place = random.randrange(len(text))
        text = text[:place] + random.choice(["[", "9" * 5000, "\ud800", "", "}"]) + text[place + 1 :]
    return text


def _messages() -> Iterator[str]:
    seed = time.time_ns() if _SECONDS else 1
    print(f"seed {seed}")
    random, end = Random(seed), time.monotonic() + _SECONDS
    count = 0
    while count < _INPUTS or time.monotonic() < end:
        count += 1
        yield _message(random)
    print(f"{count} messages")


@pytest.mark.timeout(_SECONDS + 120)
def test_nothing_that_a_worker_says_breaks_a_decision_or_a_status() -> None:
    completed, failed, named = 0, 0, 0
    check = jsonschema.Draft7Validator(SCHEMA)
    for message in _messages():
        known = reports.read_progress(message.encode(errors="surrogatepass"))
        left = reports.read_termination(message)
        running = world.decide_on(world.pod(0), world.pod(1), progress=known, worker={"replicas": 2})
        check.validate(json.loads(orjson.dumps(running.status)))
        named += "straggler" in running.status
        for code in (0, 65, 137):
            # The API server's JSON has no lone surrogates, except as escapes within the message.
            ended = world.pod(exit_code=code, message=message.encode(errors="replace").decode())
            plan = world.decide_on(ended, progress=known or left.progress)
            check.validate(json.loads(orjson.dumps(plan.status)))
            again = world.decide_on(ended, status=plan.status, progress=left.progress)
            orjson.dumps(again.status)
            completed += world.condition(plan, "Complete")[0] == "True"
            failed += world.condition(plan, "Failed")[0] == "True"
    assert completed
    assert failed
    assert named
