"""What NVIDIA's DCGM exporter tells of two machines, in its own form: names, labels, kinds and units.

Labels are those of version 3 and 4 with ``DCGM_EXPORTER_KUBERNETES=true``: a GPU that a pod holds has
``container``, ``namespace`` and ``pod``, and a free one has them empty.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from http_servers import Handler

MODEL = "NVIDIA H200"
DRIVER = "570.86.15"
POD = "nvidia-dcgm-exporter-x7k2p"
"""The pod of the exporter itself."""
_MIB = 143_000


@dataclass(kw_only=True)
class Gpu:
    """One GPU of a machine, and what holds it."""

    host: str
    index: int
    namespace: str = ""
    pod: str = ""
    utilisation: int = 0
    xid: int = 0
    remapped: int = 0

    def labels(self) -> dict[str, str]:
        """As the exporter writes them, in its order."""
        identity = uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.host}-{self.index}")
        return {
            "gpu": str(self.index),
            "UUID": f"GPU-{identity}",
            "pci_bus_id": f"00000000:{self.index:02X}:00.0",
            "device": f"nvidia{self.index}",
            "modelName": MODEL,
            "Hostname": self.host,
            "DCGM_FI_DRIVER_VERSION": DRIVER,
            "container": "trainer" if self.pod else "",
            "namespace": self.namespace,
            "pod": self.pod,
        }

    def values(self) -> dict[str, tuple[str, float]]:
        """Kind and value of each metric of the default set that is looked at."""
        share = self.utilisation / 100
        return {
            "DCGM_FI_DEV_GPU_UTIL": ("gauge", self.utilisation),
            "DCGM_FI_DEV_FB_USED": ("gauge", 400 + 60_000 * bool(self.pod)),
            "DCGM_FI_DEV_FB_FREE": ("gauge", _MIB - 400 - 60_000 * bool(self.pod)),
            "DCGM_FI_DEV_POWER_USAGE": ("gauge", 75 + 520 * share + self.index),
            "DCGM_FI_DEV_GPU_TEMP": ("gauge", 31 + 40 * share + self.index),
            "DCGM_FI_DEV_XID_ERRORS": ("gauge", self.xid),
            "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": ("counter", self.remapped),
            # A rate that the exporter calls a counter.
            "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": ("counter", 150_000 * share),
        }


def expose(gpus: list[Gpu]) -> Iterator[str]:
    """The lines of one exporter's page."""
    for name, (kind, _) in gpus[0].values().items():
        yield f"# HELP {name} {name}"
        yield f"# TYPE {name} {kind}"
        for gpu in gpus:
            labels = ",".join(f'{label}="{value}"' for label, value in gpu.labels().items())
            yield f"{name}{{{labels}}} {gpu.values()[name][1]}"


def answers(gpus: list[Gpu]) -> type[Handler]:
    """A page with the GPUs as they are when Prometheus asks."""

    class Answers(Handler):
        def answer(self) -> None:
            body = "".join(f"{line}\n" for line in expose(gpus)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

    return Answers
