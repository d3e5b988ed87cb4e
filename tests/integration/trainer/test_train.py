"""The loop in real processes: resume bit by bit, world sizes, stops, lost peers, and how runs end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import s3
from trainer_ranks import ITERATIONS, Job

MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(tmp_path: Path) -> Iterator[MakeJob]:
    jobs: list[Job] = []

    def make(name: str = "job", **options: Any) -> Job:
        job = Job(folder=tmp_path / name, **options)
        jobs.append(job)
        return job

    yield make
    for job in jobs:
        job.stop_all()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run that nothing disturbed."""
    job = Job(folder=tmp_path_factory.mktemp("straight"))
    assert job.run() == [0], job.log()[-3000:]
    return job


def _assert_equal(found: Any, wanted: Any, *, path: str = "state") -> None:
    """Equal structure, and tensors equal in every bit."""
    assert type(found) is type(wanted), path
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), path
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), path
        for key, value in wanted.items():
            _assert_equal(found[key], value, path=f"{path}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), path
        for index, value in enumerate(wanted):
            _assert_equal(found[index], value, path=f"{path}[{index}]")
    else:
        assert found == wanted, path


def _assert_same_run(job: Job, straight: Job, *, history: tuple[str, ...]) -> None:
    found, wanted = job.state(ITERATIONS), straight.state(ITERATIONS)
    for part in ("model", "optimizer", "iteration"):
        _assert_equal(found[part], wanted[part], path=part)
    for part in history:
        _assert_equal(found["history"][part], wanted["history"][part], path=part)
    ours, theirs = _row(job), _row(straight)
    assert (ours["boxAP"], ours["metrics"]) == (theirs["boxAP"], theirs["metrics"])


def _row(job: Job) -> dict[str, Any]:
    row: dict[str, Any] = json.loads((job.work / "results.json").read_text())
    return row


def test_a_killed_run_resumes_bit_by_bit(make_job: MakeJob, straight: Job) -> None:
    job = make_job()
    (rank,) = job.start()
    job.wait_for(lambda: 20 in job.steps(), rank=rank)
    rank.send_signal(signal.SIGKILL)
    assert rank.wait() == -signal.SIGKILL
    assert ITERATIONS not in job.steps()
    assert job.run() == [0], job.log()[-3000:]
    assert "resumed from" in job.log()
    _assert_same_run(job, straight, history=("training", "evaluations"))
    report = json.loads((job.checkpoints / "results.json").read_text())
    assert [start["iteration"] for start in report["run"]["starts"]] == [0, 20]
    assert report["time"]["seconds"]["training"] > 0


def test_a_stopped_run_saves_where_it_is_and_resumes_bit_by_bit(make_job: MakeJob, straight: Job) -> None:
    job = make_job(environment={"KUBEDET_CHECKPOINT_INTERVAL_ITERATIONS": "1000"})
    (rank,) = job.start()
    job.wait_for(lambda: job.iteration() >= 3, rank=rank)
    rank.send_signal(signal.SIGTERM)
    assert rank.wait(timeout=60) == 143, job.log()[-3000:]
    assert job.failure()["reason"] == "TerminatedSaved"
    newest = job.steps()[-1]
    assert f"the state of iteration {newest} is saved" in job.failure()["message"]
    assert newest < ITERATIONS
    assert job.run() == [0], job.log()[-3000:]
    _assert_same_run(job, straight, history=("evaluations",))  # a log interval was cut in two


def test_a_finished_run_leaves_its_row_and_its_report(straight: Job) -> None:
    row = _row(straight)
    report = json.loads((straight.checkpoints / "results.json").read_text())
    assert row.items() <= report.items()
    assert row["hardware"] == {
        "accelerator": "cpu",
        "worldSize": 1,
        "precision": "fp32",
        "memoryKind": "process_peak_resident",
        "timedIterations": 20,
        "globalBatch": 4,
        "accumulationSteps": 2,
        "learningRateScale": 1.0,
    }
    assert 0 <= row["boxAP"] <= 100
    assert 0.1 < row["memoryGB"] < 8
    assert row["secondsPerIteration"] > 0
    assert row["inferenceFps"] > 0
    metrics = {item["name"]: item["value"] for item in row["metrics"]}
    assert metrics.keys() >= {"boxAP50", "boxAR100"}
    assert row["boxAP"] == round(metrics["boxAP"], 1)
    state = Path(row["modelUri"].removeprefix("file://"))
    assert state == straight.checkpoints / "step-00000040/state.pt"
    assert state.is_file()
    assert row["reportUri"] == (straight.checkpoints / "report.html").as_uri()
    assert report["analysis"]["objects"] == report["data"]["splits"][1]["objects"]
    assert report["best"]["value"] == max(point["metrics"]["boxAP"] for point in report["evaluations"])
    assert all(point["metrics"]["validationLoss"] > 0 for point in report["evaluations"])
    assert report["run"]["endTime"] >= report["run"]["startTime"]
    assert [start["iteration"] for start in report["run"]["starts"]] == [0]
    assert {"schedule.epochs", "optimizer.lr"} & {change["field"] for change in report["run"]["changes"]}
    assert b"data:image/jpeg" in (straight.checkpoints / "report.html").read_bytes()
    manifest = json.loads((straight.checkpoints / "step-00000040/manifest.json").read_text())
    assert manifest["metrics"] == metrics
    assert (manifest["epoch"], manifest["recipe"]["name"]) == (4, "smoke_faster_rcnn")
    progress = json.loads((straight.work / "progress.json").read_text())
    assert progress["progress"]["stage"] == "Done"
    assert progress["progress"]["percentage"] == 100
    assert progress["checkpoint"]["iteration"] == ITERATIONS
    spent = progress["progress"]["time"]
    assert spent["iterations"] == ITERATIONS
    assert spent["seconds"].keys() == {"starting", "training", "data_wait", "checkpoint_stall", "evaluating"}


def test_a_finished_run_that_is_started_again_only_measures_again(straight: Job) -> None:
    before = straight.state(ITERATIONS)
    row = _row(straight)
    assert straight.run() == [0]
    _assert_equal(straight.state(ITERATIONS)["model"], before["model"])
    assert _row(straight)["boxAP"] == row["boxAP"]


@pytest.fixture
def stalled(make_job: MakeJob) -> Job:
    """A run whose weights do not change, so that no evaluation is better than the first."""
    return make_job(
        overrides={"optimizer.lr": "1e-30"},
        environment={
            "KUBEDET_EVALUATE_EVERY_EPOCHS": "1",
            "KUBEDET_EVALUATION_STOP_AFTER": "2",
            "KUBEDET_EVALUATION_REPORT": "Best",
            "KUBEDET_CHECKPOINT_KEEP_LAST": "1",
        },
    )


def test_a_run_that_gets_no_better_ends_early_on_all_ranks_with_its_best_row(stalled: Job) -> None:
    assert stalled.run(world_size=2) == [0, 0], stalled.log()[-3000:]
    row = _row(stalled)
    assert row["iterations"] == 30
    assert row["endedEarly"].startswith("stopped after epoch 3 of 4: boxAP was not better than ")
    assert row["endedEarly"] in stalled.log()
    assert (row["checkpoint"], row["epoch"]) == ("Best", 1)
    assert row["modelUri"].endswith("step-00000010/state.pt")
    assert stalled.steps() == [10, 30]
    progress = json.loads((stalled.work / "progress.json").read_text())["progress"]
    assert (progress["stage"], progress["iteration"], progress["totalIterations"]) == ("Done", 30, 30)
    assert progress["percentage"] == 100


def test_a_killed_run_still_knows_how_long_it_got_no_better(stalled: Job) -> None:
    (rank,) = stalled.start()
    stalled.wait_for(lambda: 20 in stalled.steps(), rank=rank)
    rank.send_signal(signal.SIGKILL)
    assert rank.wait() == -signal.SIGKILL
    assert stalled.run() == [0], stalled.log()[-3000:]
    assert _row(stalled)["iterations"] == 30
    assert stalled.run() == [0], stalled.log()[-3000:]  # ends again where it ended, and measures again
    assert _row(stalled)["iterations"] == 30


def test_a_benchmark_ends_after_its_iterations_without_evaluation_or_checkpoint(make_job: MakeJob) -> None:
    job = make_job(
        environment={
            "KUBEDET_TASK": "Benchmark",
            "KUBEDET_BENCHMARK_ITERATIONS": "14",
            "KUBEDET_BENCHMARK_IMAGES": "6",
        }
    )
    assert job.run() == [0], job.log()[-3000:]
    row = _row(job)
    assert row["hardware"]["timedIterations"] == 7
    assert row["secondsPerIteration"] > 0
    assert row["inferenceFps"] > 0
    assert "boxAP" not in row
    assert "modelUri" not in row
    assert sorted(path.name for path in job.checkpoints.iterdir()) == [
        "history.csv",
        "report.html",
        "results.json",
        "tensorboard",
    ]
    assert json.loads((job.work / "progress.json").read_text())["progress"]["iteration"] == 14


def test_two_processes_learn_what_one_learns(make_job: MakeJob, straight: Job) -> None:
    job = make_job(environment={"KUBEDET_PROCS_PER_REPLICA": "2"})
    assert job.run(world_size=2) == [0, 0], job.log(0)[-3000:] + job.log(1)[-3000:]
    assert _row(job)["hardware"]["accumulationSteps"] == 1
    found, wanted = job.state(20), straight.state(20)
    for name, value in wanted["model"].items():
        # Only the order of summation differs; rounding grows slowly over the steps.
        torch.testing.assert_close(found["model"][name], value, rtol=2e-3, atol=2e-4, msg=name)
    assert {item["name"] for item in _row(job)["metrics"]} == {
        item["name"] for item in _row(straight)["metrics"]
    }


def test_a_lost_peer_ends_the_others_with_its_code(make_job: MakeJob) -> None:
    job = make_job()
    first, second = job.start(world_size=2)
    job.wait_for(lambda: job.iteration() >= 3, rank=first)
    second.send_signal(signal.SIGKILL)
    assert first.wait(timeout=60) == 151, job.log()[-3000:]
    assert job.failure()["reason"] == "PeerFailed"


def test_a_stop_of_one_worker_saves_and_sets_the_others_free(make_job: MakeJob) -> None:
    job = make_job()
    first, second = job.start(world_size=2)
    job.wait_for(lambda: job.iteration() >= 3, rank=first)
    second.send_signal(signal.SIGTERM)
    assert (first.wait(timeout=60), second.wait(timeout=60)) == (151, 143), job.log(1)[-3000:]
    assert f"the state of iteration {job.steps()[-1]} is saved" in job.failure(0)["message"]
    assert "another worker was asked to stop" in job.failure(0)["message"]


def test_a_rank_that_waits_for_a_peer_ends_at_once_when_it_is_stopped(make_job: MakeJob) -> None:
    job = make_job()
    first, second = job.start(world_size=2)
    second.kill()
    variables = Path(f"/proc/{first.pid}/environ").read_text().split("\0")
    (port,) = (
        value for name, _, value in (text.partition("=") for text in variables) if name == "MASTER_PORT"
    )
    job.wait_for(lambda: _is_open(int(port)), rank=first)
    first.terminate()
    assert first.wait(timeout=60) == -signal.SIGTERM


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_worker_whose_rank_is_killed_goes_on_in_its_pod(make_job: MakeJob) -> None:
    job = make_job(environment={"KUBEDET_PROCS_PER_REPLICA": "2", "KUBEDET_METRICS_PORT": "0"})
    launcher = job.launch()
    job.wait_for(lambda: 20 in job.steps(), rank=launcher)
    victim = job.find_rank(1, launcher=launcher)
    os.kill(victim, signal.SIGKILL)
    assert launcher.wait(timeout=120) == 0, job.log()[-3000:]
    progress = json.loads((job.work / "progress.json").read_text())
    assert (progress["progress"]["stage"], progress["worldSize"]) == ("Done", 2)
    assert progress["processRestarts"] == 1
    assert "resumed from" in job.log()
    message = json.loads((job.folder / "termination").read_text())
    assert message["results"]["boxAP"] == _row(job)["boxAP"]
    assert message["progress"] == progress
    spent = progress["progress"]["time"]
    assert spent["iterations"] >= ITERATIONS
    assert spent["seconds"].keys() >= {"starting", "training", "restarting", "restoring", "evaluating"}


_SLOW_SCORER = """
import pathlib
import sys
import time

if "kubedet_trainer.training.scorer" in sys.orig_argv:
    pathlib.Path(__file__).with_name("was slow").touch()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        busy = time.process_time() + 0.2
        while time.process_time() < busy:
            pass
        time.sleep(0.2)
"""


def test_no_rank_hangs_while_an_evaluation_is_scored_for_long(make_job: MakeJob, tmp_path: Path) -> None:
    seconds = float(os.environ.get("KUBEDET_SLOW_SCORER_SECONDS", "30"))
    (tmp_path / "sitecustomize.py").write_text(f"SECONDS = {seconds}\n{_SLOW_SCORER}")
    job = make_job(
        environment={
            "KUBEDET_PROCS_PER_REPLICA": "3",
            "KUBEDET_METRICS_PORT": "0",
            "KUBEDET_HANG_TIMEOUT_SECONDS": "20",
            "KUBEDET_HANG_MEDIAN_STEPS": "100",
            "KUBEDET_BENCHMARK_IMAGES": "0",
            "PYTHONPATH": str(tmp_path),
        },
        overrides={"schedule.epochs": "2", "schedule.decay_epochs": "1"},
    )
    launcher = job.launch()
    assert launcher.wait(timeout=80 + 4 * seconds) == 0, job.log()[-3000:]
    assert _row(job)["hardware"]["worldSize"] == 3
    assert (tmp_path / "was slow").exists()


def test_a_loss_that_is_not_finite_names_iteration_and_term(make_job: MakeJob) -> None:
    job = make_job(overrides={"optimizer.lr": "1e30", "optimizer.clip_norm": "none"})
    assert job.run() == [96], job.log()[-3000:]
    failure = job.failure()
    assert failure["reason"] == "LossNotFinite"
    assert "became NaN or infinite at iteration" in failure["message"]
    iteration = int(failure["message"].split("at iteration ")[1].split(";")[0])
    assert 1 <= iteration <= 4
    assert job.steps() == []


def test_checkpoints_in_an_object_store_serve_a_resume(make_job: MakeJob, s3_server: s3.S3Server) -> None:
    s3_server.make_bucket("training")
    environment = {
        "KUBEDET_CHECKPOINT_URI": "s3://training/job",
        "KUBEDET_CHECKPOINT_ENDPOINT": s3_server.endpoint,
        "KUBEDET_CHECKPOINT_ACCESS_KEY": s3.ACCESS_KEY,
        "KUBEDET_CHECKPOINT_SECRET_KEY": s3.SECRET_KEY,
    }
    overrides = {"schedule.epochs": "2", "schedule.decay_epochs": "1"}
    job = make_job(environment=environment, overrides=overrides)
    (rank,) = job.start()

    def names() -> set[str]:
        return {item.object_name for item in s3_server.client().list_objects("training", recursive=True)}

    job.wait_for(lambda: "job/step-00000010/manifest.json" in names(), rank=rank)
    rank.send_signal(signal.SIGKILL)
    rank.wait()
    assert job.run() == [0], job.log()[-3000:]
    assert "resumed from s3://training/job/step-" in job.log()
    assert names() >= {
        "job/history.csv",
        "job/report.html",
        "job/results.json",
        "job/tensorboard/events.out.tfevents.kubedet",
        "job/step-00000020/manifest.json",
        "job/step-00000020/state.pt",
    }

    before = s3_server.client().get_object("training", "job/report.html").read()
    s3_server.client().remove_object("training", "job/report.html")
    command = [sys.executable, "-m", "kubedet_trainer.commands.kubedet", "report", "s3://training/job"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "s3://training/job/report.html\n"), done.stderr
    assert s3_server.client().get_object("training", "job/report.html").read() == before

    refused = make_job("refused", environment={**environment, "KUBEDET_CHECKPOINT_SECRET_KEY": "wrong"})
    assert refused.run() == [77]
    assert "wrong" not in refused.failure()["message"]


def test_a_wrong_recipe_and_a_missing_data_set_end_with_their_codes(make_job: MakeJob) -> None:
    recipe = make_job("recipe", environment={"KUBEDET_RECIPE": "smoke_faster_rcn"})
    assert recipe.run() == [65]
    assert "Did you mean 'smoke_faster_rcnn'?" in recipe.failure()["message"]
    data = make_job("data", environment={"KUBEDET_DATASET_URI": "file:///nowhere/at/all"})
    assert data.run() == [66]
