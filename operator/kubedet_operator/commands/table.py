"""The commands of the operator's half of `kubedet`."""

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("kubedet_operator.commands.jobs:run", "Run a DetectionJob on this machine, without a cluster."),
    "render": (
        "kubedet_operator.commands.jobs:render",
        "Print the pods and services that a job would become.",
    ),
    "explain": ("kubedet_operator.commands.jobs:explain", "Say what a field of a job is for, and its rules."),
    "crds": ("kubedet_operator.commands.jobs:crds", "Print the CustomResourceDefinitions."),
}
"""Command -> where it is defined, and what it is for. An entry point of the group ``kubedet.commands``."""
