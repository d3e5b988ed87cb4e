"""What a recipe consists of: frozen dataclasses, their checks, strict overrides. Never imports torch."""

from kubedet_trainer.config.batch import (
    BatchPlan,
    plan_batch,
)
from kubedet_trainer.config.detector import (
    DetectorOptions,
)
from kubedet_trainer.config.documents import (
    recipe_changes,
    recipe_to_dict,
    restore_recipe,
)
from kubedet_trainer.config.overrides import (
    apply_overrides,
)
from kubedet_trainer.config.recipe import (
    ColourConfig,
    DataConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    detection_limit,
)

__all__ = [
    "BatchPlan",
    "ColourConfig",
    "DataConfig",
    "DetectorOptions",
    "OptimizerConfig",
    "Recipe",
    "ScheduleConfig",
    "apply_overrides",
    "detection_limit",
    "plan_batch",
    "recipe_changes",
    "recipe_to_dict",
    "restore_recipe",
]
