"""Stands in for the trainer in tests of local mode: counts iterations, and keeps the contract's promises.

``STUB_ITERATIONS`` of ``STUB_SECONDS`` each; ``STUB_CRASH_AT``: killed at that iteration, once;
``STUB_EXIT``: ends with that code at once. Without a recipe it is the rendezvous pod, and waits.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from kubedet_trainer import contract
from kubedet_trainer.contract.times import format_now
from kubedet_trainer.settings import RunSettings, read_settings


class _Stub:
    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.folder = Path(unquote(settings.checkpoint.uri.removeprefix("file://")))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.total = int(os.environ.get("STUB_ITERATIONS", "5"))
        self.state = self.folder / f"state-{settings.replica_index}"
        self.iteration = int(self.state.read_text()) if self.state.exists() else 0
        self.stopping = False

    def run(self) -> int:
        print(f"attempt {self.settings.attempt} starts at iteration {self.iteration}", flush=True)
        print(f"dataset {self.settings.dataset.uri}, pretrained {self.settings.pretrained_uri}", flush=True)
        signal.signal(signal.SIGTERM, self.stop)
        self.serve()
        if "STUB_EXIT" in os.environ:
            return self.fail(int(os.environ["STUB_EXIT"]))
        while self.iteration < self.total:
            if self.stopping:
                return contract.ExitCode.TERMINATED_SAVED
            time.sleep(float(os.environ.get("STUB_SECONDS", "0.02")))
            self.iteration += 1
            self.state.write_text(str(self.iteration))
            self.crash_once()
        return self.finish()

    def crash_once(self) -> None:
        marker = self.folder / "crashed"
        if str(self.iteration) == os.environ.get("STUB_CRASH_AT") and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def stop(self, *_: object) -> None:
        self.stopping = True

    def fail(self, code: int) -> int:
        failure = contract.Failure(
            exitCode=code,
            reason="InvalidInput",
            message="recipe: got 'x', must be 'y'",
            rank=0,
            lastLines=["Traceback", "boom"],
        )
        self.leave(contract.dump_termination_message(failure=failure))
        return code

    def finish(self) -> int:
        if self.settings.replica_index == 0:
            (self.folder / "report.html").touch()
            results = contract.Results(
                boxAP=41.5,
                secondsPerIteration=0.02,
                metrics=[{"name": "boxAP50", "value": 81.25}],
                hardware={"worldSize": self.settings.max_replicas},
                modelUri=f"{self.settings.checkpoint.uri}/step-5",
                proposalsUri=f"{self.settings.checkpoint.uri}/proposals"
                if self.settings.write_proposals
                else None,
            )
            self.leave(contract.dump_termination_message(results=results))
        return 0

    def leave(self, message: str) -> None:
        assert self.settings.termination_message_path is not None
        self.settings.termination_message_path.write_text(message)

    def serve(self) -> None:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if stub.settings.replica_index == 0 else 404)
                self.end_headers()
                self.wfile.write(json.dumps(contract.without_none(asdict(stub.record()))).encode())

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", self.settings.metrics_port), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def record(self) -> contract.ProgressRecord:
        progress = contract.Progress(
            stage=contract.Stage.TRAINING,
            iteration=self.iteration,
            totalIterations=self.total,
            percentage=100 * self.iteration // self.total,
            lastProgressTime=format_now(),
        )
        return contract.ProgressRecord(progress=progress, worldSize=self.settings.max_replicas)


if __name__ == "__main__":
    if contract.Environment.RECIPE not in os.environ:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.pause()
    sys.exit(_Stub(read_settings(os.environ)).run())
