"""What a recipe consists of: frozen dataclasses, their checks, strict overrides. Never imports torch."""

from kubedet_trainer.config.backbones import (
    NeckConfig,
    ResNetConfig,
    VggConfig,
)
from kubedet_trainer.config.dense import (
    RetinaHeadConfig,
    SsdHeadConfig,
)
from kubedet_trainer.config.heads import (
    BoxHeadConfig,
    CascadeConfig,
    MaskHeadConfig,
    RoiConfig,
    RpnHeadConfig,
)
from kubedet_trainer.config.model import (
    CascadeMaskRcnnConfig,
    CascadeRcnnConfig,
    FasterRcnnConfig,
    FastMaskRcnnConfig,
    FastRcnnConfig,
    MaskRcnnConfig,
    ModelConfig,
    RetinaNetConfig,
    RpnConfig,
    SsdConfig,
    model_options,
)
from kubedet_trainer.config.overrides import (
    apply_overrides,
)
from kubedet_trainer.config.recipe import (
    DataConfig,
    NormalisationConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    recipe_to_dict,
)

__all__ = [
    "BoxHeadConfig",
    "CascadeConfig",
    "CascadeMaskRcnnConfig",
    "CascadeRcnnConfig",
    "DataConfig",
    "FastMaskRcnnConfig",
    "FastRcnnConfig",
    "FasterRcnnConfig",
    "MaskHeadConfig",
    "MaskRcnnConfig",
    "ModelConfig",
    "NeckConfig",
    "NormalisationConfig",
    "OptimizerConfig",
    "Recipe",
    "ResNetConfig",
    "RetinaHeadConfig",
    "RetinaNetConfig",
    "RoiConfig",
    "RpnConfig",
    "RpnHeadConfig",
    "ScheduleConfig",
    "SsdConfig",
    "SsdHeadConfig",
    "VggConfig",
    "apply_overrides",
    "model_options",
    "recipe_to_dict",
]
