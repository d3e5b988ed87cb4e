"""Plays cells of the chaos matrix, and writes a line of JSON for each:

    python tests/chaos_matrix.py --kit ../shared/cluster --folder FOLDER --name CLUSTER \\
        --cells CELLS.json

runs in `pod_network.ISOLATE`. `tests/integration/operator/test_chaos_matrix.py` starts it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import traceback
from pathlib import Path

import torch

from chaos_cells import Cell, Life, plan
from chaos_life import Verdict, play, train_undisturbed
from chaos_outcome import Outcome
from chaos_world import World, run_world

_TRIES = 3
"""A life that goes through a phase too fast to be hit in it says nothing, and is played again."""


async def _play(life: Life, world: World, *, name: str, undisturbed: Outcome) -> list[Verdict]:
    try:
        return await play(life, world, name=name, undisturbed=undisturbed)
    except Exception:
        why = traceback.format_exc()[-1500:]
        return [Verdict(cell=cell, faults=[why]) for cell in life.cells]


async def _run(kit: Path, folder: Path, cells: list[Cell], *, name: str) -> None:
    async with run_world(kit, folder, name=name) as world:
        undisturbed = await train_undisturbed(world)
        for number, life in enumerate(plan(cells)):
            for again in range(_TRIES):
                verdicts = await _play(life, world, name=f"life-{number}-{again}", undisturbed=undisturbed)
                if all(verdict.is_judged for verdict in verdicts):
                    break
            for verdict in verdicts:
                print(json.dumps(verdict.dump()), flush=True)


def main() -> None:
    """Play the cells that a file lists."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--name", required=True, help="of the cluster")
    parser.add_argument("--cells", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.folder.mkdir(parents=True, exist_ok=True)
    cells = [Cell(*cell) for cell in json.loads(asked.cells.read_text())]
    asyncio.run(_run(asked.kit, asked.folder, cells, name=asked.name))


if __name__ == "__main__":
    main()
