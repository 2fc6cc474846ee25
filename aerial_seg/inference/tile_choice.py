"""Which tile a run takes: what the model's file says, what was asked for, or a halo that covers all a logit sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.models.file import TrainedModel
from aerial_seg.models.receptive_field.field import receptive_field
from aerial_seg.tiling.plan import TileShape, tile_shape

Halo = int | Literal["auto"] | None

_DEAREST_HALO = 1 / 4
"""Of a tile's side. Beyond it less than half of a side is kept, and the network runs four times over every pixel."""


def choose_tile(
    ensemble: Ensemble, *, tile_size: int | None, halo: Halo, overlap: int | None
) -> tuple[TileShape, tuple[str, ...]]:
    """The tile, and what to say of its halo. None takes what the first model's file says, for its own tile size only.

    halo "auto": the one with which tiles change no logit, where there is one of at most a quarter of the tile; else
    the one of None, and a note says why. Raises SettingsError for sides that the network does not take.
    """
    own = ensemble.models[0].card.prediction
    side, changed = tile_size or own.tile_size, tile_size is not None
    asked = halo if isinstance(halo, int) or changed else own.halo
    notes: tuple[str, ...] = ()

    def shape(pixels: int | None) -> TileShape:
        return tile_shape(
            ensemble.geometry,
            side,
            halo=pixels,
            overlap=overlap if overlap is not None or changed else own.overlap,
        )

    if halo != "auto":
        return shape(None if asked == "auto" else asked), notes
    ensemble.geometry.check_side(side)
    fallback = None if changed else own.halo
    found, why = _covering_halo(ensemble.models, ensemble.geometry.origin_step)
    if found is None:
        made = shape(fallback)
        return made, (
            f"halo auto: {made.halo} px, as without it, because no halo covers what a logit sees: {why}",
        )
    if found > _DEAREST_HALO * side:
        made = shape(fallback)
        enough = ensemble.geometry.nearest_valid_sides(int(found / _DEAREST_HALO))[1]
        return made, (
            f"halo auto: {made.halo} px, as without it, because the {found} px that cover what a logit sees are more "
            f"than a quarter of the tile's {side} px; a tile of {enough} px can have them",
        )
    return shape(found), (f"halo auto: {found} px cover all that a logit sees, so that tiles change none",)


def _covering_halo(models: Sequence[TrainedModel], step: int) -> tuple[int | None, str]:
    """The halo of the model that sees farthest, a multiple of the step; None and why, where one has none."""
    halos = []
    for model in models:
        field = receptive_field(model.network, len(model.card.bands))
        if field.halo is None:
            return None, field.reason or "it depends on the size of the tile"
        halos.append(field.halo)
    return -(-max(halos) // step) * step, ""
