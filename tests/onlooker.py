"""What a client sees that chaos does not touch: how jobs end, and how far statuses lag behind the pods."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

Counts = tuple[int, int, int]
"""Workers that are ready, have succeeded and have failed."""


class Onlooker:
    """Watches jobs and pods; compares `status.workers` with the pods at every event of either."""

    def __init__(
        self, kubectl: list[str], namespace: str, *, excused: Callable[[float, float], float]
    ) -> None:
        """`excused` tells how many seconds of a span nobody could have written a status in."""
        self._excused = excused
        self.endings: dict[str, tuple[str, int]] = {}
        """Phase of every job that has ended, and how often it had restarted; jobs may be gone by now."""
        self._lock = threading.Lock()
        self._pods: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._told: dict[str, Counts] = {}
        self._late_since: dict[str, float] = {}
        self._worst = (0.0, "")
        self._history: defaultdict[str, list[str]] = defaultdict(list)
        self._began = time.monotonic()
        self._stopped = False
        self._watches: dict[str, subprocess.Popen[str]] = {}
        self._threads: list[threading.Thread] = []
        jobs = f"/apis/kubedet.dev/v1alpha1/namespaces/{namespace}/detectionjobs"
        for path, see, memory in (
            (f"/api/v1/namespaces/{namespace}/pods", self._see_pod, self._pods),
            (jobs, self._see_job, self._told),
        ):
            command = [*kubectl, "get", "--raw", f"{path}?watch=true&timeoutSeconds=3600"]
            thread = threading.Thread(target=self._follow, args=(command, see, memory), daemon=True)
            self._threads.append(thread)
            thread.start()

    def worst(self) -> tuple[float, str]:
        """The longest that a status was behind so far, in seconds, and whose, with all that was seen."""
        with self._lock:
            for job in self._late_since:
                self._note(job)
            return self._worst

    def stop(self) -> None:
        """Watch no more."""
        self._stopped = True
        for watch in self._watches.values():
            watch.kill()
        for thread in self._threads:
            thread.join()

    def _follow(
        self,
        command: list[str],
        see: Callable[[str, dict[str, Any]], str | None],
        memory: dict[str, Any],
    ) -> None:
        """Take in what a watch tells; one that ends is begun anew, and tells of everything again."""
        while not self._stopped:
            with self._lock:
                memory.clear()
                self._late_since.clear()
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
                self._watches[command[-1]] = watch
                assert watch.stdout is not None
                for line in watch.stdout:
                    event = json.loads(line)
                    with self._lock:
                        if event["type"] != "ERROR" and (job := see(event["type"], event["object"])):
                            self._compare(job)
            time.sleep(0.5)

    def _see_pod(self, change: str, pod: dict[str, Any]) -> str | None:
        metadata, status = pod["metadata"], pod["status"]
        labels = metadata["labels"]
        if labels["app.kubernetes.io/component"] != "worker":
            return None
        job = labels["kubedet.dev/job-name"]
        ready = any(container.get("ready") for container in status.get("containerStatuses", ()))
        state = status["phase"]
        if state not in ("Succeeded", "Failed"):
            state = "Ready" if ready and "deletionTimestamp" not in metadata else "Other"
        self._pods[job][metadata["name"]] = state
        self._tell(job, f"{change} {metadata['name']} {state}")
        if change == "DELETED":
            del self._pods[job][metadata["name"]]
        return str(job)

    def _see_job(self, change: str, job: dict[str, Any]) -> str | None:
        name = str(job["metadata"]["name"])
        self._tell(name, f"{change} {job.get('status')}")
        if change == "DELETED":
            for memory in (self._told, self._pods, self._late_since):
                memory.pop(name, None)
            return None
        status = job.get("status", {})
        if status.get("phase") in ("Succeeded", "Failed"):
            self.endings[name] = status["phase"], status["restarts"]["application"]
        workers = status.get("workers", {})
        self._told[name] = tuple(workers.get(field, 0) for field in ("ready", "succeeded", "failed"))
        return name

    def _compare(self, job: str) -> None:
        if job not in self._told:  # it is gone, and its pods go after it
            return
        states = Counter(self._pods[job].values())
        if (states["Ready"], states["Succeeded"], states["Failed"]) != self._told[job]:
            self._late_since.setdefault(job, time.monotonic())
        elif job in self._late_since:
            self._note(job)
            del self._late_since[job]

    def _note(self, job: str) -> None:
        since, now = self._late_since[job], time.monotonic()
        late = now - since - self._excused(since, now)
        if late > self._worst[0]:
            self._worst = late, f"{job} since {since - self._began:.1f}: " + "\n".join(self._history[job])

    def _tell(self, job: str, what: str) -> None:
        self._history[job].append(f"{time.monotonic() - self._began:.1f} {what}")
