"""The commands of the operator's half of `kubedet`."""

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("kubedet_operator.commands.jobs:run", "Run a DetectionJob on this machine, without a cluster."),
    "render": (
        "kubedet_operator.commands.jobs:render",
        "Print the pods that the operator would create for a job.",
    ),
    "explain": ("kubedet_operator.commands.jobs:explain", "Describe a field of a job and its rules."),
    "crds": ("kubedet_operator.commands.jobs:crds", "Print the CustomResourceDefinitions."),
}
"""Command -> its definition and its purpose. An entry point of the group ``kubedet.commands``."""
