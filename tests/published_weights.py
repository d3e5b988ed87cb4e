"""Files of weights as the zoo published them, of small detectors that find something without a training."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch

from kubedet_trainer import config, recipes

CLASSES = ("circle", "square", "triangle")
"""Of ``synthetic://shapes``."""
FOLDER = "mmdetection/models"
PUBLISHER = f"https://download.openmmlab.com/{FOLDER}"


def write_weights(recipe_name: str, *, folder: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    """Write the weights of a detector that was never trained; its name ends with their hash."""
    recipe = recipes.read_recipe(recipe_name)
    torch.manual_seed(0)
    model = recipe.build(num_classes=len(classes) + 1)
    state = model.state_dict()
    for name, value in state.items():
        if name.endswith("retina_cls.bias"):
            value.zero_()  # its prior finds nothing before it is trained
    meta = {"recipe": config.recipe_to_dict(recipe), "CLASSES": list(classes)}
    content = io.BytesIO()
    torch.save({"meta": meta, "state_dict": state}, content)
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    file = folder / FOLDER / f"{recipe_name}_20190101-{digest[:8]}.pth"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.getbuffer())
    return file
