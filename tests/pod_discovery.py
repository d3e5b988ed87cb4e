"""Tells a Prometheus that was built without Kubernetes what its `role: pod` discovery would find.

Debian's is built so. Labels and their names are those of Prometheus's reference of `kubernetes_sd_config`, so
that a configuration relabels here what it relabels in a cluster.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from http_servers import Handler, serve

Pod = dict[str, Any]


@contextmanager
def serve_pods(list_pods: Callable[[], list[Pod]]) -> Iterator[str]:
    """The address for `http_sd_configs`."""

    class Answers(Handler):
        def answer(self) -> None:
            body = json.dumps([target for pod in list_pods() for target in _targets(pod)]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

    with serve(Answers) as port:
        yield f"http://127.0.0.1:{port}"


def _targets(pod: Pod) -> Iterator[dict[str, Any]]:
    """One for each port of each container of a pod that has an address."""
    metadata, status = pod["metadata"], pod["status"]
    if not status.get("podIP"):
        return
    of_pod = {
        "namespace": metadata["namespace"],
        "pod_name": metadata["name"],
        "pod_phase": status["phase"],
        **{f"pod_label_{_clean(name)}": value for name, value in metadata.get("labels", {}).items()},
    }
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", ()):
            labels = {**of_pod, "pod_container_port_name": port.get("name", "")}
            yield {
                "targets": [f"{status['podIP']}:{port['containerPort']}"],
                "labels": {f"__meta_kubernetes_{name}": value for name, value in labels.items()},
            }


def _clean(name: str) -> str:
    return re.sub(r"\W", "_", name)
