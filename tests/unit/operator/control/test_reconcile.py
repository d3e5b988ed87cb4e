"""The order and the conditions of what a reconciliation does, against an API server that misbehaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import builders
from kubedet_operator.cluster import errors
from kubedet_operator.control.reconcile import COMPANY_SECONDS, MINOR_SECONDS
from kubedet_trainer import contract
from reconciling import KEY, World, make_job


@pytest.fixture
async def world() -> World:
    return World()


async def test_the_status_is_written_before_anything_is_done_and_only_when_it_changes(world: World) -> None:
    world.cache.store_job(make_job())
    await world.settle()
    assert world.cluster.asked[0] == ("status", "demo")
    assert ("ensure", "demo-worker-0") in world.cluster.asked
    writes = world.cluster.asked.count(("status", "demo"))
    world.queue.add(KEY)
    await world.settle()
    assert world.cluster.asked.count(("status", "demo")) == writes


async def test_a_status_that_cannot_be_written_leaves_the_pod_that_shows_the_failure(world: World) -> None:
    world.cluster.failures["status"] = errors.ApiUnreachable("down")
    world.cache.store_pod(builders.make_pod(phase="Failed", exit_code=137))
    world.cache.store_job(make_job())
    with pytest.raises(errors.ApiUnreachable):
        await world.settle()
    assert world.cluster.asked == [("status", "demo")]


async def test_a_conflict_reads_the_job_again_and_decides_anew(world: World) -> None:
    world.cluster.failures["status"] = errors.Conflict("changed")
    world.cache.store_job(make_job())
    await world.reconciler.reconcile(KEY)
    assert world.cluster.asked == [("status", "demo"), ("read", "demo")]
    assert len(world.queue) == 1
    job = world.cache.job(KEY)
    assert job is not None
    assert job["metadata"]["resourceVersion"] == "500"


async def test_the_end_of_a_job_starts_the_one_that_takes_its_proposals(world: World) -> None:
    fast = make_job()
    fast["spec"]["dataset"]["proposals"] = {"fromJob": "rpn"}
    world.cache.store_job(fast)
    await world.settle()
    assert world.cluster.asked == [("status", "demo")]
    rpn = builders.make_manifest(name="rpn", managedBy="example.com/other")
    rpn["metadata"] |= {"uid": "rpn", "generation": 1, "resourceVersion": "200"}
    rpn["status"] = {
        "conditions": [{"type": "Complete", "status": "True"}],
        "results": {"proposalsUri": "s3://state/rpn/proposals"},
    }
    world.cache.store_job(rpn)
    await world.settle()
    assert ("ensure", "demo-worker-0") in world.cluster.asked
    status = (world.cache.job(KEY) or {})["status"]
    assert status["proposals"] == {"storageUri": "s3://state/rpn/proposals"}


async def test_a_job_that_is_gone_is_forgotten(world: World) -> None:
    world.cluster.failures["status"] = errors.NotFound("gone")
    world.cache.store_job(make_job())
    await world.reconciler.reconcile(KEY)
    assert world.cache.job(KEY) is None


async def test_a_job_that_is_being_deleted_gets_no_new_pods(world: World) -> None:
    job = make_job()
    job["metadata"]["deletionTimestamp"] = "2026-01-01T00:59:30Z"
    world.cache.store_job(job)
    await world.settle()
    assert world.cluster.asked == []


async def test_a_refused_pod_is_told_of_in_the_status_until_it_is_accepted(world: World) -> None:
    world.cluster.failures["ensure"] = errors.Rejected("exceeded quota")
    world.cache.store_job(make_job())
    for _ in range(2):
        with pytest.raises(errors.Rejected):
            await world.reconciler.reconcile(KEY)
    assert _reason(world) == "ChildRejected"
    del world.cluster.failures["ensure"]
    await world.reconciler.reconcile(KEY)
    await world.settle()
    assert _reason(world) == "WaitingForPods"


async def test_a_job_whose_workers_would_run_as_the_operator_fails_without_any_pod(world: World) -> None:
    job = make_job()
    job["spec"]["worker"]["template"] = {"spec": {"serviceAccountName": "kubedet-operator"}}
    world.cache.store_job(job)
    await world.settle()
    assert _reason(world, "Failed") == "InvalidSpec"
    assert [verb for verb, _ in world.cluster.asked] == ["status"]


async def test_a_bug_about_one_job_is_told_of_in_its_status_and_once_in_the_log(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise LookupError("a bug")

    world.cache.store_job(make_job())
    await world.settle()
    with monkeypatch.context() as broken:
        broken.setattr("kubedet_operator.control.reconcile.decide", fail)
        for _ in range(3):
            await world.reconciler._attempts._attempt(KEY)
    assert _reason(world, "Degraded") == "NotReconciled"
    assert _reason(world) == "WaitingForPods"
    assert len([line for line in caplog.messages if "this is a bug in the operator" in line]) == 1
    assert world.count("kubedet_operator_reconcile_errors_total", reason="Unexpected") == 3
    world.queue.add(KEY)
    await world.settle()
    assert _reason(world, "Degraded") == "AsExpected"


async def test_failures_are_counted_by_reason_and_tried_again(world: World) -> None:
    world.cluster.failures["status"] = errors.ApiBusy("busy", retry_after_seconds=30)
    world.cache.store_job(make_job())
    leading = asyncio.Event()
    leading.set()
    worker = asyncio.create_task(world.reconciler.work(leading))
    while not world.cluster.asked:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    worker.cancel()
    assert world.count("kubedet_operator_reconcile_errors_total", reason="ApiBusy") == 1
    assert len(world.queue) == 0


async def test_a_pause_that_the_api_server_asks_for_makes_no_later_delay_longer(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.cache.store_job(make_job())
    for _ in range(8):
        world.cluster.failures["status"] = errors.Paused("wait", retry_after_seconds=1)
        await world.reconciler._attempts._attempt(KEY)
    assert world.count("kubedet_operator_reconcile_errors_total", reason="ApiBusy") == 8
    assert not caplog.messages
    assert world.queue.retry(KEY, longest_seconds=60) == 0.25


@pytest.mark.parametrize(
    ("failure", "longest"),
    [(errors.ApiUnreachable("away"), 5), (errors.Conflict("changed"), 5), (errors.Rejected("quota"), 60)],
)
async def test_only_what_somebody_has_to_change_is_tried_at_long_intervals(
    world: World, failure: errors.OperatorError, longest: float, caplog: pytest.LogCaptureFixture
) -> None:
    world.cache.store_job(make_job())
    for _ in range(12):
        world.queue.retry(KEY, longest_seconds=60)
    world.cluster.failures["ensure"] = failure
    await world.reconciler._attempts._attempt(KEY)
    assert f"retrying in {longest}.0 s" in caplog.text


async def test_restarts_and_endings_are_counted_once(world: World) -> None:
    world.cache.store_pod(builders.make_pod(phase="Failed", exit_code=137))
    world.cache.store_job(make_job())
    await world.settle()
    world.queue.add(KEY)
    await world.settle()
    assert world.count("kubedet_operator_restarts_total", **{"class": "Application"}) == 1
    world.cache.drop_pod(KEY, "demo-worker-0", uid="pod-uid")
    world.cache.store_pod(builders.make_pod(phase="Failed", exit_code=66, uid="second"))
    await world.settle()
    assert world.count("kubedet_operator_finished_total", result="Failed") == 1


async def test_an_ending_is_counted_though_the_answer_to_its_write_was_lost(world: World) -> None:
    world.cache.store_job(make_job())
    world.cache.store_pod(builders.make_pod(phase="Failed", exit_code=66))
    job = world.cache.job(KEY)
    assert job is not None
    world.cluster.failures["status"] = errors.ApiUnreachable("no answer")
    with pytest.raises(errors.ApiUnreachable):
        await world.settle()
    world.queue.done(KEY)
    assert world.count("kubedet_operator_finished_total", result="Failed") == 0
    uncertain = world.reconciler._memories[KEY].uncertain
    assert uncertain is not None
    _, status = uncertain
    world.cache.store_job({**job, "metadata": {**job["metadata"], "resourceVersion": "9"}, "status": status})
    await world.settle()
    assert world.count("kubedet_operator_finished_total", result="Failed") == 1
    assert world.cluster.asked.count(("status", "demo")) == 1


async def test_counts_wait_for_others_but_a_turn_is_written_at_once(world: World) -> None:
    world.cache.store_job(make_job())
    await world.settle()
    writes = world.cluster.asked.count(("status", "demo"))
    world.cache.store_pod({**builders.make_pod(waiting="ContainerCreating", uid="other")})
    await world.settle()
    assert world.cluster.asked.count(("status", "demo")) == writes
    world.cache.drop_pod(KEY, "demo-worker-0", uid="other")
    running = builders.make_pod(uid="third")
    world.cache.store_pod(running)
    await world.settle()
    assert world.cluster.asked.count(("status", "demo")) == writes + 1
    assert world.events.reasons[-1] == "WorkersRunning"


async def test_workers_that_get_ready_one_by_one_are_told_of_together(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = asyncio.get_running_loop().time()
    monkeypatch.setattr(world.queue, "time", lambda: now)
    job = make_job()
    job["spec"]["worker"] = {"replicas": 2}
    world.cache.store_job(job)
    await world.settle()
    writes = world.cluster.asked.count(("status", "demo"))
    now += MINOR_SECONDS  # nothing was written for a while
    world.cache.store_pod(builders.make_pod(uid="first"))
    await world.settle()
    assert world.cluster.asked.count(("status", "demo")) == writes
    now += COMPANY_SECONDS
    world.queue.add(KEY)
    await world.settle()
    assert world.cluster.asked.count(("status", "demo")) == writes + 1
    job_written = world.cache.job(KEY)
    assert job_written is not None
    assert job_written["status"]["workers"]["ready"] == 1


async def test_a_straggler_is_written_at_once_and_how_slow_it_is_now_with_other_changes(world: World) -> None:
    def report(ratio: float) -> None:
        progress = contract.Progress(stage=contract.Stage.TRAINING, iteration=500)
        slow = contract.Straggler(rank=0, replica=0, ratio=ratio, since="2026-01-01T00:50:00Z")
        world.cache.progress[KEY] = contract.ProgressRecord(progress=progress, straggler=slow)
        world.queue.add(KEY)

    world.cache.store_job(make_job())
    world.cache.store_pod(builders.make_pod(node="gpu-7"))
    await world.settle()
    report(1.8)
    await world.settle()
    written = world.cache.job(KEY)
    assert written is not None
    assert (written["status"]["straggler"]["node"], written["status"]["straggler"]["ratio"]) == ("gpu-7", 1.8)
    assert world.events.reasons.count("StragglerFound") == 1
    writes = world.cluster.asked.count(("status", "demo"))
    report(1.9)
    await world.settle()
    assert world.cluster.asked.count(("status", "demo")) == writes


async def test_a_node_that_broke_three_jobs_is_in_the_status_of_a_job_that_creates_pods(world: World) -> None:
    hang = {"time": "2026-01-01T00:50:00Z", "class": "Application", "reason": "Hang", "exitCode": 152}
    for number in range(3):
        other = builders.make_manifest(name=f"other-{number}")
        other["metadata"] = {**make_job()["metadata"], "name": f"other-{number}", "uid": f"uid-{number}"}
        world.cache.store_job({**other, "status": {"failureHistory": [{**hang, "node": "gpu-7"}]}})
    world.cache.store_job(make_job())
    await world.settle()
    written = world.cache.job(KEY)
    assert written is not None
    (node,) = written["status"]["excludedNodes"]
    assert (node["name"], node["mode"]) == ("gpu-7", "Preferred")
    assert node["until"] == "2026-01-01T01:50:00Z"


async def test_a_job_that_comes_back_at_another_size_has_recovered_from_nothing(world: World) -> None:
    world.cache.store_job(make_job())
    await world.settle()
    world.cache.store_pod(builders.make_pod())
    await world.settle()
    known = world.cache.job(KEY)
    assert known is not None
    metadata = {**known["metadata"], "generation": 2, **world.cluster._next()}
    spec = {**known["spec"], "worker": {"gpus": 0, "replicas": 2}}
    world.cache.store_job({**known, "metadata": metadata, "spec": spec})
    await world.settle()
    assert _reason(world, "Restarting") == "Resized"
    world.cache.drop_pod(KEY, "demo-worker-0", uid="pod-uid")
    for index in (0, 1):
        world.cache.store_pod(builders.make_pod(index=index, attempt=1, uid=f"uid-{index}"))
    await world.settle()
    assert _reason(world, "Restarting") == "Recovered"
    families = world.metrics["recovery"].collect()
    assert not any(sample.value for family in families for sample in family.samples)


async def test_a_service_that_is_gone_is_applied_again(world: World) -> None:
    job = make_job()
    job["spec"]["worker"] = {"replicas": 2}
    world.cache.store_job(job)
    await world.settle()
    service = world.cluster.asked.count(("ensure", "demo-workers"))
    world.cache.drop_service(KEY, uid=world.service_uid())
    await world.settle()
    assert world.cluster.asked.count(("ensure", "demo-workers")) == service + 1


async def test_a_replica_that_does_not_lead_keeps_its_work_for_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.cache.store_job(make_job())
    leading = asyncio.Event()
    leading.set()

    def lose(verb: str, name: str) -> None:
        leading.clear()
        raise errors.NotLeading("another replica leads")

    monkeypatch.setattr(world.cluster, "_ask", lose)
    worker = asyncio.create_task(world.reconciler.work(leading))
    await asyncio.sleep(0.01)
    worker.cancel()
    assert not leading.is_set()
    assert len(world.queue) == 1
    assert world.count("kubedet_operator_reconcile_errors_total", reason="NotLeading") == 0


def _reason(world: World, kind: str = "Initialized") -> str:
    job = world.cache.job(KEY)
    assert job is not None
    reasons = {item["type"]: item["reason"] for item in job["status"]["conditions"]}
    return str(reasons[kind])
