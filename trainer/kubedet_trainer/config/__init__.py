"""What a recipe consists of: frozen dataclasses, their checks, strict overrides. Never imports torch."""

from kubedet_trainer.config.model import (
    BackboneConfig,
    BoxHeadConfig,
    FasterRcnnConfig,
    ModelConfig,
    NeckConfig,
    RpnConfig,
    RpnHeadConfig,
    model_options,
)
from kubedet_trainer.config.overrides import apply_overrides
from kubedet_trainer.config.recipe import (
    DataConfig,
    NormalisationConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    recipe_to_dict,
)

__all__ = [
    "BackboneConfig",
    "BoxHeadConfig",
    "DataConfig",
    "FasterRcnnConfig",
    "ModelConfig",
    "NeckConfig",
    "NormalisationConfig",
    "OptimizerConfig",
    "Recipe",
    "RpnConfig",
    "RpnHeadConfig",
    "ScheduleConfig",
    "apply_overrides",
    "model_options",
    "recipe_to_dict",
]
