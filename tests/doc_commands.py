"""How tests run the commands of the documentation: where a page is played, and what is not run as it stands.

A command that is in none of these tables is run word for word: a new one needs an entry only if it cannot be.
"""

from __future__ import annotations

from kubedet_trainer import contract

CLUSTER_PAGES = {
    "charts/kubedet/README.md": "nothing",
    "docs/administrators/install.md": "nothing",
    "docs/administrators/security.md": "release",
    "docs/administrators/sizing.md": "release",
    "docs/administrators/s3.md": "release",
    "docs/users/first-job.md": "operator",
    "docs/users/row.md": "operator",
    "docs/users/elastic.md": "operator",
    "docs/users/failures.md": "operator",
    "docs/gpus/nodes.md": "operator",
    "docs/gpus/kueue.md": "operator",
    "operator/README.md": "nothing",
    "docs/administrators/upgrade.md": "release",
}
"""Pages that are played on an API server with fake GPU nodes, to what must be there before: nothing, a
release of the chart, or an operator that acts as well. The last one deletes the definition."""

LOCAL_PAGES = (
    ("README.md",),
    ("docs/users/own-data.md", "docs/users/own-recipe.md"),
    ("trainer/README.md",),
)
"""Pages that need no cluster; those of a group are played one after another in the same folder."""

PLAYED_ELSEWHERE = {
    "docs/trainer-image.md": ("tests/e2e/test_images.py", '"trainer-image.md").read_text()'),
    "manifests/monitoring/README.md": ("tests/monitoring/test_prometheus.py", "check_queries("),
}
"""Pages whose commands other tests run: which, and by what that can be seen."""

NOT_RUN = {
    "docker push ": "there is no registry; tests/e2e builds both images and loads them into nodes",
    "pip install ": "a test must not change its environment; `make install` does the same",
    "mc ": "MinIO's client is not here; the tests make buckets and objects by S3's own calls",
    "aws ": "AWS is not reached",
    'echo "s3.bucket.create': "needs the address of a SeaweedFS master; tests make buckets by S3's own calls",
    "helm repo add nvidia": "NVIDIA's registry is not reached",
    "helm install gpu-operator": "NVIDIA's registry is not reached, and there is no GPU",
    "kubectl apply -f queue.yaml": "Kueue's definitions are not here",
    "KUBEDET_OPERATOR_NAMESPACES=default .venv/bin/python -m kubedet_operator": "runs until it is stopped; "
    "tests/integration/operator starts it like this",
    "KUBEDET_RENDEZVOUS_ENDPOINT=": "takes three machines; tests/integration/trainer runs both on one",
    "kubedet train faster_rcnn_r50_fpn_1x": "takes eight GPUs and COCO",
}
"""How a command begins, and why it is not run."""

SHORT = "schedule.epochs=1 data.scale=160,120 data.num_workers=0"
INSTEAD = {
    # Recipes of make are only expanded: what they run has tests of its own, and takes minutes.
    "make ": "make --dry-run IMAGE_BUILDER=docker ",
    # Fake nodes run nothing, so there are no logs: the pods must exist.
    "kubectl logs -l kubedet.dev/job-name=first --tail=20": "kubectl get pods -l kubedet.dev/job-name=first "
    "-o name | grep .",
    "kubectl logs unlucky-worker-0": "kubectl get pod unlucky-worker-0",
    # The way without Helm begins where the page did: without a release.
    "kubectl create namespace kubedet": "helm uninstall kubedet --namespace kubedet --wait; "
    "kubectl get namespace kubedet",
    # The same job, which learns less.
    "kubedet run manifests/samples/smallest.yaml": """
sed 's|synthetic://shapes|"&?images=8\\&val_images=2"|' manifests/samples/smallest.yaml > smallest.yaml
echo '  overrides: {schedule.epochs: "1"}' >> smallest.yaml
kubedet run smallest.yaml --output runs/smallest""",
    # What stands for an address and keys of yours.
    "export KUBEDET_DATASET_ENDPOINT=http://minio.storage.svc:9000": "export "
    "KUBEDET_DATASET_ENDPOINT=$S3_ENDPOINT",
    "export KUBEDET_DATASET_ACCESS_KEY=KEY KUBEDET_DATASET_SECRET_KEY=SECRET": "export "
    "KUBEDET_DATASET_ACCESS_KEY=$S3_ACCESS_KEY KUBEDET_DATASET_SECRET_KEY=$S3_SECRET_KEY",
}
"""How a command begins, and what that beginning is replaced by."""

ADDED = {
    "kubedet train smoke_faster_rcnn data.scale=640,480": SHORT,
}
"""How a command begins, and what is added to have it done in seconds; what is given last counts."""

SAME = {
    "kubedet train smoke_faster_rcnn --dataset synthetic": "docs/users/own-data.md, shorter",
    "kubedet train smoke_faster_rcnn schedule.epochs=4": "docs/users/own-data.md, shorter",
    "kubedet benchmark smoke_faster_rcnn": "tests/e2e/test_images.py, shorter",
}
"""How commands begin that take long as they are, and who runs their like."""

_ROW = contract.Results(recipe="smoke_faster_rcnn", boxAP=74.0, hardware={"accelerator": "fake"})
_REFUSED = contract.Failure(
    exitCode=contract.ExitCode.INVALID_INPUT,
    reason="InvalidInput",
    message="recipe: got 'smoke_fastr_rcnn', must be one that `kubedet recipes` lists.",
)
_DONE = {
    "fake.kubedet/complete-after": "1s",
    "fake.kubedet/message": contract.dump_termination_message(results=_ROW),
}
_FAILED = {
    "fake.kubedet/fail-after": "1s",
    "fake.kubedet/exit-code": "65",
    "fake.kubedet/message": contract.dump_termination_message(failure=_REFUSED),
}
ENDINGS = {"first.yaml": _DONE, "one-gpu.yaml": _DONE, "unlucky.yaml": _FAILED}
"""Files of jobs, and the annotations by which the fake nodes end their workers as a trainer would."""

BEGINNINGS = {"docs/users/row.md": ("docs/users/first-job.md", "first.yaml")}
"""Pages that go on where another one ended: its file of a job is applied, and the job's end awaited."""

TOLD = {
    "kubectl get dj first -o jsonpath='{.status.results}'": '"boxAP":74',
    "kubectl get dj unlucky -o jsonpath='{.status.lastFailure}'": "smoke_fastr_rcnn",
    "kubectl auth can-i create detectionjobs.kubedet.dev": "yes",
    "kubectl get dj queued -o wide": "retinanet_r50_fpn_1x",
}
"""How a command begins, and what its page must have printed for it."""

NOT_VALIDATED = {
    "scrape_configs:": "a part of Prometheus's configuration; tests/monitoring has a real Prometheus"
}
"""How a block of YAML begins that is no job and that no command takes, and why nothing validates it here."""
