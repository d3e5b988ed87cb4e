"""The commands of the trainer's half of `kubedet`."""

COMMANDS: dict[str, tuple[str, str]] = {
    "train": (
        "kubedet_trainer.commands.train:train",
        "Train a recipe on this machine and print its row.",
    ),
    "evaluate": (
        "kubedet_trainer.commands.inference:evaluate",
        "Measure the precision of a checkpoint on a data set.",
    ),
    "predict": (
        "kubedet_trainer.commands.inference:predict",
        "Detect objects in pictures, draw them and write COCO JSON.",
    ),
    "propose": (
        "kubedet_trainer.commands.inference:propose",
        "Write the proposals of an RPN, for Fast R-CNN.",
    ),
    "benchmark": (
        "kubedet_trainer.commands.benchmark:benchmark",
        "Measure a recipe's speed and memory on this machine.",
    ),
    "estimate": (
        "kubedet_trainer.commands.estimate:estimate",
        "Foretell the memory, time and size of a training.",
    ),
    "publish": (
        "kubedet_trainer.commands.publish:publish",
        "Write weights to files to share: of a checkpoint, or of a zoo.",
    ),
    "report": (
        "kubedet_trainer.commands.report:report",
        "Make the page of a run again, of several runs, or of a zoo.",
    ),
    "check-data": (
        "kubedet_trainer.commands.data:check_data",
        "List everything that is wrong with a data set.",
    ),
    "recipes": ("kubedet_trainer.commands.zoo:recipes", "List the recipes, or print one in full."),
}
"""Command -> its definition and its purpose. An entry point of the group ``kubedet.commands``."""
