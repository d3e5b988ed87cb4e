"""The commands of the trainer's half of `kubedet`."""

COMMANDS: dict[str, tuple[str, str]] = {
    "train": (
        "kubedet_trainer.commands.train:train",
        "Train a recipe on this machine and print its row of the zoo.",
    ),
    "evaluate": (
        "kubedet_trainer.commands.inference:evaluate",
        "Measure the precision of a checkpoint on a data set.",
    ),
    "predict": (
        "kubedet_trainer.commands.inference:predict",
        "Detect objects in pictures; draws them, writes COCO JSON.",
    ),
    "propose": (
        "kubedet_trainer.commands.inference:propose",
        "Write a proposal network's proposals, for Fast R-CNN.",
    ),
    "benchmark": (
        "kubedet_trainer.commands.benchmark:benchmark",
        "Measure a recipe's speed and memory on this machine.",
    ),
    "publish": (
        "kubedet_trainer.commands.publish:publish",
        "Write a checkpoint's weights as the zoo publishes them.",
    ),
    "check-data": (
        "kubedet_trainer.commands.data:check_data",
        "List everything that is wrong with a data set.",
    ),
    "recipes": ("kubedet_trainer.commands.zoo:recipes", "List the recipes, or print one completely."),
}
"""Command -> where it is defined, and what it is for. An entry point of the group ``kubedet.commands``."""
