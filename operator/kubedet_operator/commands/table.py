"""The commands of the operator's half of `kubedet`."""

COMMANDS: dict[str, tuple[str, str]] = {
    "run": (
        "kubedet_operator.commands.jobs:run",
        "Run a DetectionJob or a ModelZoo on this machine, without a cluster.",
    ),
    "render": (
        "kubedet_operator.commands.jobs:render",
        "Print what the operator would create for a job or a zoo.",
    ),
    "explain": (
        "kubedet_operator.commands.jobs:explain",
        "Describe a field of a job or a zoo and its rules.",
    ),
    "crds": ("kubedet_operator.commands.jobs:crds", "Print the CustomResourceDefinitions."),
}
"""Command -> its definition and its purpose. An entry point of the group ``kubedet.commands``."""
