"""What a training will need and take, from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click
from rich.console import Console
from rich.table import Table

from kubedet_trainer import config
from kubedet_trainer.commands import options
from kubedet_trainer.recipes import estimate as estimates
from kubedet_trainer.recipes import gpus as kinds
from kubedet_trainer.recipes import read_recipe
from kubedet_trainer.recipes.cost import known_cost
from kubedet_trainer.recipes.estimate import ALLOCATOR_SHARE, Estimate

_GIB = 2**30
_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "momentum",
    "inputs": "images and targets",
    "activations": "activations for the backward pass",
    "working": "working space",
}


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--gpu", metavar="NAME", help=f"One of {', '.join(kinds.GPUS)}.  [default: all of them]")
@click.option(
    "--gpus", type=click.IntRange(min=1), default=8, show_default=True, help="Number of GPUs that train."
)
@click.option(
    "--images",
    type=click.IntRange(min=1),
    help="Number of training images.  [default: those of the zoo's data set]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@options.ends_with_contract_code
def estimate(
    recipe: str, overrides: tuple[str, ...], gpu: str | None, gpus: int, images: int | None, as_json: bool
) -> None:
    """Foretell what training RECIPE needs and takes: memory by part, work, time on paper, checkpoint size.

    Needs no GPU and no data. Memory is exact for the tensors of the largest images that the recipe makes;
    margins for the allocator and for CUDA are named. Times are the least that a GPU's arithmetic and memory
    allow: host, loading and the exchange of gradients come on top.

    \b
    Examples:
      kubedet estimate mask_rcnn_r50_fpn_1x
      kubedet estimate faster_rcnn_r50_fpn_1x data.images_per_process=auto --gpu v100 --gpus 1
    """
    changed = config.apply_overrides(read_recipe(recipe), dict(map(options.parse_override, overrides)))
    chosen = tuple(kinds.GPUS.values()) if gpu is None else (kinds.find_gpu(gpu),)
    cost = known_cost(changed)
    if cost is None:
        from kubedet_trainer.training.counting import count_step  # takes torch and some seconds

        cost = count_step(changed).cost
    found = estimates.estimate(changed, cost, gpus=gpus, kinds=chosen, training_images=images)
    if as_json:
        click.echo(json.dumps(found.as_document(), indent=2))
        return
    console = Console()
    console.print(_describe(found), highlight=False, soft_wrap=True)
    for table in (_memory_table(found), _work_table(found), _gpu_table(found)):
        console.print()
        console.print(table)
    if changed.compile:
        console.print("counted as without compile: graphs touch fewer bytes and keep other activations")
    console.print("c: bound by compute, b: by the bandwidth of memory", highlight=False)


def _describe(found: Estimate) -> str:
    cost, plan = found.cost, found.plan
    return (
        f"{found.recipe}, {found.precision}: {cost.parameters / 1e6:.1f} million parameters, checkpoint "
        f"{cost.checkpoint_bytes / _GIB:.2f} GiB\n"
        f"{found.gpus} x GPU, {plan.global_batch} images a step"
        + ("" if found.iterations is None else f", {found.iterations} steps")
    )


def _table(*headings: str) -> Table:
    table = Table(headings[0], box=None, pad_edge=False)
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    return table


def _memory_table(found: Estimate) -> Table:
    cost, need = found.cost, found.need
    images = "1 image" if cost.images == 1 else f"{cost.images} images"
    table = _table(f"memory of a GPU for {images} at a time", "GiB")
    rows = {title: getattr(cost.memory, name) for name, title in _PARTS.items()}
    rows |= {
        "tensors together": need.tensors,
        f"margin: allocator and workspaces, {ALLOCATOR_SHARE:.0%}": need.allocator,
        "margin: context of CUDA": need.context,
        "estimate": need.total,
    }
    for title, size in rows.items():
        table.add_row(title, f"{size / _GIB:.2f}")
    return table


def _work_table(found: Estimate) -> Table:
    table = _table("one pass", "operations", "TFLOP", "GB touched")
    for name, work in found.cost.parts.items():
        table.add_row(name, str(work.operations), f"{work.flops / 1e12:.2f}", f"{work.bytes / 1e9:.1f}")
    return table


def _gpu_table(found: Estimate) -> Table:
    table = _table("on paper, at least", *(item.gpu.name for item in found.on))
    for title, *cells in _gpu_rows(found):
        table.add_row(title, *cells)
    return table


def _gpu_rows(found: Estimate) -> Iterator[list[str]]:
    for parts in zip(*(item.parts for item in found.on), strict=True):
        yield [f"{parts[0].part}, ms", *(f"{1000 * part.seconds:.1f} {part.bound[0]}" for part in parts)]
    yield ["one step, ms", *(f"{1000 * item.seconds_per_iteration:.1f}  " for item in found.on)]
    if found.iterations is not None:
        yield ["all steps, hours", *(f"{item.hours:.1f}  " for item in found.on)]
        yield ["GPU hours", *(f"{item.gpu_hours:.1f}  " for item in found.on)]
    yield ["memory, GB", *(f"{item.gpu.memory_gb:g}  " for item in found.on)]
    yield ["images that fit", *(f"{item.most_images}  " for item in found.on)]
    yield [
        "images x passes",
        *(f"{item.images_per_pass} x {item.accumulation_steps}  " for item in found.on),
    ]
