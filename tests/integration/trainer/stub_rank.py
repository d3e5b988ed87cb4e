"""A rank that follows the plan of a test: ``python -m stub_rank`` below the real launcher and agent.

`STUB_STEPS` is the plan: a list with an entry for each start of the ranks. The last entry repeats. An entry
maps a rank (or ``*``) to a list of actions. `STUB_DIRECTORY` has the marks by which test and ranks wait for
each other.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

RANK = int(os.environ["RANK"])
WORK = Path(os.environ["KUBEDET_WORK_DIRECTORY"])
DIRECTORY = Path(os.environ["STUB_DIRECTORY"])


def fail(code: str) -> None:
    """Record a failure, then wait for the agent to stop this rank, as the trainer's ranks do."""
    record = {"exitCode": int(code), "reason": "Planned", "message": "as planned", "rank": RANK}
    record["time"] = "2026-01-01T00:00:00.000Z"
    partial = WORK / "failures" / f".rank-{RANK}.partial"
    partial.write_text(json.dumps(record))
    partial.rename(WORK / "failures" / f"rank-{RANK}.json")
    time.sleep(300)


def crash(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(60)


def on_sigterm(code: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(code)))


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def mark(name: str) -> None:
    (DIRECTORY / name).touch()


def await_mark(name: str) -> None:
    while not (DIRECTORY / name).exists():
        time.sleep(0.02)


def await_beat(rank: str) -> None:
    """Wait until a rank of this start has shown progress."""
    beats = WORK / "heartbeats" / "touched"
    while not any(Path(f"/proc/{beat.suffix[1:]}").exists() for beat in beats.glob(f"{rank}.*")):
        time.sleep(0.02)


def results() -> None:
    (WORK / "results.json").write_text(json.dumps({"boxAP": 12.5, "metrics": []}))


def count() -> None:
    from prometheus_client import Counter

    Counter("kubedet_trainer_images_total", "Images.").inc(5)


def say(text: str) -> None:
    print(json.dumps({"message": text, "rank": RANK}))


def reduce() -> None:
    """Sum a step counter over all ranks until rank 0 sees the mark ``finish``."""
    import torch
    import torch.distributed as dist

    try:
        dist.init_process_group("gloo")
        step = torch.zeros(2)
        while step[1] == 0:
            step[0] = 1
            step[1] = float(RANK == 0 and (DIRECTORY / "finish").exists())
            dist.all_reduce(step)
            with (WORK / "steps").open("a") as steps:
                steps.write(f"{os.getpid()}\n")
            time.sleep(0.05)
        dist.destroy_process_group()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        sys.exit(151)


def hang() -> None:
    """Show progress once. Then hang in native code and ignore SIGTERM."""
    from kubedet_trainer.telemetry.heartbeat import Heartbeat

    ignore_sigterm()
    Heartbeat(WORK, rank=RANK).beat()
    time.sleep(300)


def stop_early() -> None:
    """Stop as SIGSTOP does before any progress."""
    from kubedet_trainer.telemetry.heartbeat import announce

    announce(WORK, rank=RANK)
    os.kill(os.getpid(), signal.SIGSTOP)


def stop() -> None:
    """Show progress once, then stop as SIGSTOP does: no handler runs, and the process still lives."""
    from kubedet_trainer.telemetry.heartbeat import Heartbeat

    Heartbeat(WORK, rank=RANK).beat()
    os.kill(os.getpid(), signal.SIGSTOP)


ACTIONS = {
    action.__name__: action
    for action in (
        fail,
        crash,
        on_sigterm,
        ignore_sigterm,
        mark,
        await_mark,
        await_beat,
        results,
        count,
        say,
        reduce,
        hang,
        stop,
        stop_early,
    )
}


def main() -> None:
    plan = json.loads(os.environ["STUB_STEPS"])
    with (WORK / f"starts-{RANK}").open("a") as starts:
        starts.write("x")
    entry = plan[min(int(os.environ["TORCHELASTIC_RESTART_COUNT"]), len(plan) - 1)]
    for step in entry.get(str(RANK), entry.get("*", [])):
        name, *arguments = step.split(" ", 1)
        if name == "raise":
            raise RuntimeError(*arguments)
        ACTIONS[name](*arguments)


if __name__ == "__main__":
    main()
