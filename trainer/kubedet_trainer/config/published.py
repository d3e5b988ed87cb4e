"""What was published of a recipe, as the recipe carries it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kubedet_trainer.models.options.backbones import Style

MemoryKind = Literal["reserved", "allocated"]


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """What the zoo's page reports of one recipe."""

    backbone: str
    """As recipes' names have it: r50, r101, x101_32x4d, x101_64x4d or vgg16."""
    style: Style
    """Whose weights the backbone starts from."""
    schedule: str
    """1x, 2x, 3x, 20e, 120e or 240e."""
    memory_gb: float
    """Peak memory of one GPU, the most over all."""
    seconds_per_iteration: float
    """Wall time of one step."""
    images_per_step: int = 16
    """Images of one step, over all GPUs."""
    inference_fps: float
    """Images per second of one GPU at batch 1."""
    fps_batch8: float | None = None
    """Images per second of one GPU at batch 8, for SSD."""
    box_ap: float | None = None
    """COCO box AP in percent; on VOC the 11-point mAP at IoU 0.5."""
    mask_ap: float | None = None
    """COCO mask AP in percent."""
    ar1000: float | None = None
    """Average recall of 1000 proposals in percent."""
    section: str = ""
    """Key of `recipes.published.SECTIONS`."""
    memory_kind: MemoryKind = "reserved"
    """Which of the caching allocator's peaks `memory_gb` is; they cannot be compared."""

    @property
    def dataset(self) -> Literal["coco", "voc"]:
        """What it was trained and measured on."""
        return "voc" if self.section == "ssd_voc" else "coco"

    def as_results(self) -> dict[str, float]:
        """The figures under the names of `contract.Results`, absent ones left out."""
        named = {
            "memoryGB": self.memory_gb,
            "secondsPerIteration": self.seconds_per_iteration,
            "inferenceFps": self.inference_fps,
            "inferenceFpsBatch8": self.fps_batch8,
            "boxAP": self.box_ap,
            "maskAP": self.mask_ap,
            "ar1000": self.ar1000,
        }
        return {name: value for name, value in named.items() if value is not None}

    @property
    def images_per_second(self) -> float:
        """Throughput of training, over all GPUs."""
        return self.images_per_step / self.seconds_per_iteration
