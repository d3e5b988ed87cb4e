"""The levels of a pyramid on two maps: a convolution that they share then runs twice, not once a level.

The finest level is a map of its own. The others lie on a sheet: the first at the left, the rest below each
other at its right. Between them are gaps of one cell. As long as gaps are zero, the edge of a level sees
there what padding would show it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kubedet_trainer.models.anchors import AnchorGrid


class Sheet:
    """Where levels of some shapes lie."""

    def __init__(self, shapes: Sequence[Sequence[int]]) -> None:
        """For levels of `shapes`, height and width, finest first."""
        places: list[tuple[slice, slice]] = []
        top = left = 0
        for height, width in shapes[1:]:
            places.append((slice(top, top + height), slice(left, left + width)))
            top, left = (top + height + 1, left) if left else (0, width + 1)
        self.places = places
        """Rows and columns of each level on the sheet."""
        self.size = tuple(max(ends.stop for ends in axis) for axis in zip(*places, strict=True))
        """Height and width of the sheet; empty if there is no coarser level."""

    def maps(self, levels: Sequence[Tensor], *, gap: float = 0) -> list[Tensor]:
        """(..., h, w) `levels` as (..., H, W) maps, one or two, with the value `gap` in gaps."""
        finest, *others = levels
        if len(others) < 2:
            return [finest, *others]
        left, *right = (
            F.pad(level, margins, value=gap) if any(margins) else level
            for level, margins in zip(others, self._margins(), strict=True)
        )
        return [finest, torch.cat([left, torch.cat(right, dim=-2)], dim=-1)]

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The (..., h, w) levels on (..., H, W) `maps`: views."""
        finest, *others = maps
        return [finest, *(sheet[..., rows, columns] for sheet in others for rows, columns in self.places)]

    def closed_gaps(self, like: Tensor) -> Tensor:
        """(H, W) of the kind of `like`: minus infinity in gaps, zero elsewhere.

        Added between a convolution and ReLU it makes gaps zero, and lets no gradient through them.
        """
        values = like.new_full(self.size, -math.inf)
        for rows, columns in self.places:
            values[rows, columns].zero_()
        return values

    def _margins(self) -> list[tuple[int, int, int, int]]:
        """Cells to add at the left, right, top and bottom of each level on the sheet, so that they fit."""
        height, width = self.size
        (first_rows, _), *right = self.places
        next_tops = [*(rows.start for rows, _ in right[1:]), height]
        return [
            (0, 0, 0, height - first_rows.stop),
            *(
                (1, width - columns.stop, 0, next_top - rows.stop)
                for (rows, columns), next_top in zip(right, next_tops, strict=True)
            ),
        ]


class SheetAnchorGrid(AnchorGrid):
    """Anchors in the order of the cells of the maps of a `Sheet`; those of gaps are infinite, in no image."""

    def _arrange(self, levels: Sequence[Tensor]) -> Tensor:
        sheet = Sheet([level.shape[:2] for level in levels])
        maps = sheet.maps([level.permute(2, 3, 0, 1) for level in levels], gap=math.inf)
        return super()._arrange([cells.permute(2, 3, 0, 1) for cells in maps])
