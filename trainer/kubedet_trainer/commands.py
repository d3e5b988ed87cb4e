"""The trainer's part of the command `kubedet`. What needs torch is imported by the command that needs it."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubedet_trainer import contract, options
from kubedet_trainer.contract import Environment
from kubedet_trainer.errors import UsageError
from kubedet_trainer.logs import configure_logging
from kubedet_trainer.recipes import RECIPES, read_recipe
from kubedet_trainer.settings import read_checkpoint_settings, read_dataset_settings

if TYPE_CHECKING:
    from kubedet_trainer import inference


@click.command(
    epilog="Credentials of an object store are read from KUBEDET_DATASET_* and KUBEDET_CHECKPOINT_*."
)
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")
@options.dataset_options
@click.option("--checkpoint", metavar="URI", help="Where state is kept.  [default: runs/RECIPE/checkpoints]")
@click.option(
    "--resume", default="Auto", show_default=True, help="Auto, Never, or the URI of one checkpoint."
)
@click.option("--pretrained", metavar="URI", help="Weights to start from.  [default: the recipe's]")
@click.option("--procs", type=click.IntRange(min=1), help="Processes.  [default: one a GPU, else 1]")
@click.option(
    "--gpus", type=click.IntRange(min=0), default=0, show_default=True, help="GPUs; 0 trains on the CPU."
)
@click.option(
    "--work-directory", type=click.Path(path_type=Path), help="Scratch.  [default: runs/RECIPE/work]"
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Port for /metrics and /progress; 0 takes any free one.",
)
@options.ends_with_contract_code
def train(recipe: str, overrides: tuple[str, ...], **given: Any) -> None:
    """Train RECIPE on this machine and print its row of the zoo.

    Ctrl-C saves the state and ends with 143; the same command continues from there.

    \b
    Examples:
      kubedet train smoke_faster_rcnn --dataset "synthetic://shapes?images=200"
      kubedet train faster_rcnn_r50_fpn_1x optimizer.lr=0.01 --dataset /data/coco --gpus 8
    """
    work_directory = (given["work_directory"] or Path("runs", recipe, "work")).resolve()
    environment = {**os.environ, **_run_environment(recipe, overrides, work_directory, given)}

    from rich.console import Console

    from kubedet_trainer import launch, terminal

    configure_logging()
    if sys.stderr.isatty():
        log = work_directory / contract.LOGS_DIRECTORY / "run.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        logging.info("the ranks write to %s", log)
        with log.open("a") as output, terminal.ProgressBar(Console(stderr=True)) as bar:
            code = launch.run(environment, options=launch.Options(output=output, observe=bar.update))
    else:
        code = launch.run(environment)
    if code == 0:
        results = json.loads((work_directory / contract.RESULTS_FILE).read_text())
        console = Console()
        published = results.get("reference")
        rows = [(recipe, results), *([("published", published)] if published else [])]
        console.print(terminal.zoo_table(rows))
        for name, uri in (("model", results.get("modelUri")), ("report", results.get("reportUri"))):
            if uri:
                console.print(f"{name}: {uri}", soft_wrap=True)
        console.print("Pictures of the curves and of detections lie beside the report.")
    sys.exit(code)


def _run_environment(
    recipe: str, overrides: tuple[str, ...], work_directory: Path, given: Mapping[str, Any]
) -> dict[str, str]:
    """The contract's variables for a run of one worker on this machine."""
    checkpoint = given["checkpoint"] or Path("runs", recipe, "checkpoints")
    variables: dict[str, object] = {
        Environment.JOB_NAME: recipe,
        Environment.RECIPE: recipe,
        Environment.OVERRIDES: json.dumps(dict(map(options.parse_override, overrides))),
        **options.dataset_variables(given),
        Environment.CHECKPOINT_URI: options.as_uri(checkpoint),
        Environment.CHECKPOINT_RESUME: given["resume"],
        Environment.PRETRAINED_URI: options.as_uri(given["pretrained"]) if given["pretrained"] else "",
        Environment.PROCS_PER_REPLICA: given["procs"] or given["gpus"] or 1,
        Environment.GPUS: given["gpus"],
        Environment.METRICS_PORT: given["metrics_port"],
        Environment.WORK_DIRECTORY: work_directory,
    }
    return {name: str(value) for name, value in variables.items()}


@click.command()
@click.argument("source", metavar="CHECKPOINT|RECIPE")
@options.dataset_options
@click.option("--weights", metavar="URI", help="Weights of RECIPE, say a published file (file, s3 or https).")
@options.inference_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@options.ends_with_contract_code
def evaluate(
    source: str, weights: str | None, device: str, work_directory: Path, as_json: bool, **given: Any
) -> None:
    """Measure a detector on the validation split of a data set, with COCO's figures in percent.

    CHECKPOINT is one checkpoint or the place of several, of which the newest counts. With --weights it is the
    name of a RECIPE instead.

    \b
    Examples:
      kubedet evaluate runs/smoke_faster_rcnn/checkpoints --dataset "synthetic://shapes?images=200"
      kubedet evaluate faster_rcnn_r50_fpn_1x --weights published.pth --dataset /data/coco
    """
    from rich.console import Console

    from kubedet_trainer import inference, terminal

    dataset = read_dataset_settings({**os.environ, **options.dataset_variables(given)})
    if weights is None:
        detector = _load_checkpoint(source, work_directory, device)
    else:
        detector = inference.load_published(
            source,
            uri=options.as_uri(weights),
            classes=inference.read_classes(dataset, directory=work_directory),
            cache=work_directory / contract.CACHE_DIRECTORY,
            device=inference.choose_device(device),
        )
    figures = inference.measure(detector, dataset=dataset, directory=work_directory)
    if as_json:
        click.echo(json.dumps(figures, indent=2))
    else:
        Console().print(terminal.metrics_table(figures))


@click.command()
@click.argument("checkpoint")
@click.argument("images", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("predictions"),
    show_default=True,
    help="Folder for the pictures and the COCO file.",
)
@click.option(
    "--score", type=click.FloatRange(0, 1), default=0.3, show_default=True, help="Least score to keep."
)
@options.inference_options
@options.ends_with_contract_code
def predict(
    checkpoint: str, images: Path, output: Path, score: float, device: str, work_directory: Path
) -> None:
    """Detect objects in IMAGES, a picture or a folder of them; draw them and write them as COCO JSON.

    CHECKPOINT is one checkpoint or the place of several, of which the newest counts.

    \b
    Example:
      kubedet predict runs/smoke_faster_rcnn/checkpoints photographs --output found
    """
    from kubedet_trainer import predict as prediction

    detector = _load_checkpoint(checkpoint, work_directory, device)
    written = prediction.predict_folder(detector, source=images, output=output, score_threshold=score)
    click.echo(f"{written.num_detections} detections in {len(written.pictures)} pictures: {written.file}")


def _load_checkpoint(location: str, work_directory: Path, device: str) -> inference.Detector:
    from kubedet_trainer import inference

    if location in RECIPES:
        raise UsageError(f"'{location}' is a recipe, must be a checkpoint; a recipe needs --weights")
    variables = {**os.environ, Environment.CHECKPOINT_URI: options.as_uri(location)}
    return inference.load_checkpoint(
        read_checkpoint_settings(variables),
        scratch=work_directory / "checkpoint",
        device=inference.choose_device(device),
    )


@click.command("check-data")
@options.dataset_options
@click.option(
    "--work-directory",
    type=click.Path(path_type=Path),
    default=Path("runs", "check-data"),
    show_default=True,
    help="Where an s3:// data set is downloaded to.",
)
@options.ends_with_contract_code
def check_data(work_directory: Path, **given: str) -> None:
    """List everything that is wrong with a data set, file by file; ends with 65 where there is anything.

    Every annotation is held against the rules, and every image is decoded whole.

    \b
    Example:
      kubedet check-data --dataset /data/coco
    """
    from kubedet_trainer.data import coco, prepare

    settings = read_dataset_settings({**os.environ, **options.dataset_variables(given)})
    root = prepare.prepare_dataset(settings, work_directory / contract.DATASET_DIRECTORY)
    splits = {
        settings.train_annotations: settings.train_images,
        settings.val_annotations: settings.val_images,
    }
    found = 0
    for file, images in splits.items():
        problems = coco.check_dataset(root, images, file)
        found += len(problems)
        for problem in problems:
            click.echo(str(problem))
        click.echo(f"{file}: {len(problems)} problems", err=True)
    sys.exit(contract.ExitCode.INVALID_INPUT if found else contract.ExitCode.DONE)


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table or YAML.")
@options.ends_with_contract_code
def recipes(name: str | None, as_json: bool) -> None:
    """List the recipes with their published figures, or print the recipe NAME completely.

    \b
    Examples:
      kubedet recipes
      kubedet recipes faster_rcnn_r50_fpn_1x
    """
    import yaml

    from kubedet_trainer import config

    if name is not None:
        document = config.recipe_to_dict(read_recipe(name))
        click.echo(
            json.dumps(document, indent=2) if as_json else yaml.safe_dump(document, sort_keys=False),
            nl=as_json,
        )
    elif as_json:
        click.echo(json.dumps([config.recipe_to_dict(make()) for make in RECIPES.values()], indent=2))
    else:
        from rich.console import Console

        from kubedet_trainer import terminal

        Console().print(terminal.zoo_table([(recipe, make().reference) for recipe, make in RECIPES.items()]))
