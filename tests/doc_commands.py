"""How tests run the commands of the documentation: where a page is played, and what replaces a command.

A command without an entry in these tables is run word for word. A new command needs an entry only if that is
impossible.
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
    "docs/users/zoo.md": "operator",
    "docs/gpus/nodes.md": "operator",
    "docs/gpus/kueue.md": "operator",
    "operator/README.md": "nothing",
    "docs/administrators/upgrade.md": "release",
}
"""Pages that are played on an API server with fake GPU nodes, and what must exist before: nothing, a release
of the chart, or also a running operator. The last page deletes the CRD."""

LOCAL_PAGES = (
    ("README.md",),
    ("docs/users/own-data.md", "docs/users/own-recipe.md", "docs/users/fine-tune.md", "docs/users/report.md"),
    ("docs/users/memory.md",),
    ("docs/users/zoo-page.md",),
    ("trainer/README.md",),
    ("CONTRIBUTING.md",),
)
"""Pages that need no cluster. The pages of a group are played one after another in the same folder."""

PLAYED_ELSEWHERE = {
    "docs/trainer-image.md": ("tests/e2e/test_images.py", '"trainer-image.md").read_text()'),
    "manifests/monitoring/README.md": ("tests/monitoring/test_prometheus.py", "check_queries("),
}
"""Pages whose commands other tests run: the file of the test, and a text in it that shows this."""

HOME = "/home/ann/kubedet"
"""The checkout in the output that pages show."""

NOT_RUN = {
    "docker push ": "no registry exists; tests/e2e builds both images and loads them into nodes",
    "make demo TORCH=cpu": "PyTorch's own index is not reachable; tests/contract/test_makefile.py reads "
    "what make would install",
    "pip install ": "a test must not change its environment; `make install` runs the same",
    "mc ": "MinIO's client is not installed; the tests create buckets and objects through S3's API",
    "aws ": "AWS is not reachable",
    'echo "s3.bucket.create': "needs a SeaweedFS master; the tests create buckets through S3's API",
    "helm repo add nvidia": "NVIDIA's registry is not reachable",
    "helm install gpu-operator": "NVIDIA's registry is not reachable, and there is no GPU",
    "kubectl apply -f queue.yaml": "Kueue's CRDs are not installed",
    "KUBEDET_OPERATOR_NAMESPACES=default .venv/bin/python -m kubedet_operator": "runs until it is stopped; "
    "tests/integration/operator starts the operator like this",
    "KUBEDET_RENDEZVOUS_ENDPOINT=": "needs three machines; tests/integration/trainer runs both on one",
    "kubedet train faster_rcnn_r50_fpn_1x": "needs eight GPUs and COCO",
    "kubectl get zoo shapes -o json": "no row ends there; tests/unit/trainer/reports/test_zoo_page.py "
    "writes the page of such a file",
    "kubedet report --zoo": "the same",
    "kubedet publish --zoo": "the same; tests/unit/trainer/inference/test_publish_zoo.py publishes",
    "kubectl create configmap my-recipes": "needs a cluster; tests/e2e/test_own_recipe.py runs it on one",
}
"""Beginnings of commands that are not run, and the reason."""

SHORT = "schedule.epochs=1 data.scale=160,120 data.num_workers=0"
SMALL = {
    "overrides": {"schedule.epochs": "1"},
    "dataset": {"storageUri": "synthetic://shapes?images=8&val_images=2"},
}
"""What shortens a job: an epoch of eight images."""
TINY = {"overrides": {"schedule.epochs": "1", "data.scale": "160,120", "data.num_workers": "0"}}
"""The same for one with data of its own."""
_SMALL_JOB = """
sed 's|synthetic://shapes|"&?images=8\\&val_images=2"|' manifests/samples/smallest.yaml > smallest.yaml
echo '  overrides: {schedule.epochs: "1"}' >> smallest.yaml
"""
_SMALL_ZOO = """
sed 's|synthetic://shapes|"&?images=8\\&val_images=2"|' shapes.yaml > small.yaml
sed -i 's|recipes: .*|recipes: [smoke_ssd]|' small.yaml
echo '      overrides: {schedule.epochs: "1"}' >> small.yaml
"""
_MAKE = 'make VENV="$VENV" --old-file="$VENV/run.stamp" --old-file="$VENV/dev.stamp"'
"""The environment of the tests is taken as installed."""

INSTEAD = {
    "make demo": f"{_SMALL_JOB}{_MAKE} demo JOB=smallest.yaml",
    "make test": f"{_MAKE} test TESTS=tests/contract/test_packages.py",
    # tests/e2e runs this target with the builder of the test cluster.
    "make images": "make --dry-run IMAGE_BUILDER=docker images",
    "make image-trainer": "make --dry-run IMAGE_BUILDER=docker image-trainer",
    # It measures for many minutes.
    "make bench-operator": "make --dry-run bench-operator",
    # Fake nodes have no logs: the pods must exist.
    "kubectl logs -l kubedet.dev/job-name=first --tail=20": "kubectl get pods -l kubedet.dev/job-name=first "
    "-o name | grep .",
    "kubectl logs unlucky-worker-0": "kubectl get pod unlucky-worker-0",
    # The section without Helm starts like the page: without a release.
    "kubectl create namespace kubedet": "helm uninstall kubedet --namespace kubedet --wait; "
    "kubectl get namespace kubedet",
    "kubedet run manifests/samples/smallest.yaml": f"{_SMALL_JOB}kubedet run smallest.yaml",
    "kubedet run shapes.yaml": f"{_SMALL_ZOO}kubedet run small.yaml",
    # Addresses and keys that stand for yours.
    "export KUBEDET_DATASET_ENDPOINT=http://minio.storage.svc:9000": "export "
    "KUBEDET_DATASET_ENDPOINT=$S3_ENDPOINT",
    "export KUBEDET_DATASET_ACCESS_KEY=KEY KUBEDET_DATASET_SECRET_KEY=SECRET": "export "
    "KUBEDET_DATASET_ACCESS_KEY=$S3_ACCESS_KEY KUBEDET_DATASET_SECRET_KEY=$S3_SECRET_KEY",
}
"""Beginnings of commands, and what replaces the beginning."""

ADDED = {
    "kubedet train my_detectors.recipes:smoke_fcos": f"{SHORT} --dataset 'synthetic://shapes?images=8'",
    "kubedet train my_recipes:careful": f"{SHORT} --dataset 'synthetic://shapes?images=8'",
    "kubedet train smoke_faster_rcnn data.scale=640,480": SHORT,
}
"""Beginnings of commands, and what is appended to shorten them. The last value of an option counts."""

SAME = {
    "kubedet train smoke_faster_rcnn --dataset synthetic": "docs/users/own-data.md, shorter",
    "kubedet train smoke_faster_rcnn schedule.epochs=4": "docs/users/own-data.md, shorter",
    "kubedet benchmark smoke_faster_rcnn": "tests/e2e/test_images.py, shorter",
}
"""Beginnings of commands that take long, and the place where the same command runs shorter."""

RUN = {"first.yaml": SMALL, "unlucky.yaml": {}, "own.yaml": SMALL, "local.yaml": TINY}
"""Files of jobs whose workers really run, as processes, and the changes of the spec that shorten them."""

ENDINGS = {
    "one-gpu.yaml": {
        "fake.kubedet/complete-after": "1s",
        "fake.kubedet/message": contract.dump_termination_message(results=contract.Results()),
    }
}
"""Files of jobs that need GPUs, and the annotations by which fake nodes complete them with an empty row."""

BEGINNINGS = {"docs/users/row.md": ("docs/users/first-job.md", "first.yaml")}
"""Pages that continue another page: a file of that page. Its job is applied and awaited."""

ROWS = {"kubectl get dj first -o jsonpath='{.status.results}'": "first-worker-0"}
"""Beginnings of commands that must print the row of a worker that has run, as their block's last line."""

PRINTED = {
    "kubectl get dj unlucky -o jsonpath='{.status.lastFailure}'": "imags",
    "kubectl get dj mistyped -o jsonpath": "Did you mean 'faster_rcnn_r50_fpn_1x'?",
    "kubectl auth can-i create detectionjobs.kubedet.dev": "yes",
    "kubectl get dj queued -o wide": "retinanet_r50_fpn_1x",
}
"""Beginnings of commands, and what their block must print."""

NOT_VALIDATED = {
    "scrape_configs:": "a part of Prometheus's configuration; tests/monitoring runs a real Prometheus with it"
}
"""Beginnings of YAML blocks that are no job and that no command uses, and why nothing validates them here."""
