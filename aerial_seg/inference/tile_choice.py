"""Which tile a run takes: what the model's file says, what was asked for, or a halo that covers all a logit sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.mentions import setting
from aerial_seg.models.file import TrainedModel
from aerial_seg.models.receptive_field.field import receptive_field
from aerial_seg.recipe.document import PredictionSettings
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.plan import TileShape, stitched_side, tile_shape

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
    own, geometry = ensemble.models[0].card.prediction, ensemble.geometry
    wanted, changed = tile_size or own.tile_size, tile_size is not None
    overlap = overlap if overlap is not None or changed else own.overlap
    geometry.check_side(wanted)

    def shape(
        pixels: int | None, *, as_small_as_possible: bool = changed
    ) -> tuple[TileShape, tuple[str, ...]]:
        side = stitched_side(geometry, wanted, halo=pixels, overlap=overlap, asked=as_small_as_possible)
        grown = () if side == wanted else (_grown(wanted, side, geometry.origin_step),)
        return tile_shape(geometry, side, halo=pixels, overlap=overlap), grown

    if halo != "auto":
        return shape(halo if halo is not None or changed else own.halo)
    made, notes = shape(None if changed else own.halo)
    found, why = _covering_halo(ensemble.models, geometry.origin_step)
    if found is None:
        return made, (
            *notes,
            f"halo auto: {made.halo} px, as without it, because no halo covers what a logit sees: {why}",
        )
    if found > _DEAREST_HALO * made.side:
        enough = geometry.nearest_valid_sides(int(found / _DEAREST_HALO))[1]
        return made, (
            *notes,
            f"halo auto: {made.halo} px, as without it, because the {found} px that cover what a logit sees are more "
            f"than a quarter of the tile's {made.side} px; a tile of {enough} px can have them",
        )
    # With a halo that covers all, no seam can show: the tile need not grow for that.
    covering, notes = shape(found, as_small_as_possible=True)
    return covering, (*notes, f"halo auto: {found} px cover all that a logit sees, so that tiles change none")


def stitched_prediction(
    geometry: ModelGeometry, wanted: PredictionSettings
) -> tuple[PredictionSettings, tuple[str, ...]]:
    """The settings that a model file should tell, with a tile that its network stitches well, and what to say of it.

    Raises SettingsError for a side that the network does not take, or that its own halo and overlap leave no step of.
    """
    side = stitched_side(geometry, wanted.tile_size, halo=wanted.halo, overlap=wanted.overlap)
    tile_shape(geometry, side, halo=wanted.halo, overlap=wanted.overlap)
    if side == wanted.tile_size:
        return wanted, ()
    return wanted.model_copy(update={"tile_size": side}), (
        f"prediction.tile_size is {side} in the model file, not {wanted.tile_size}: tiles of {wanted.tile_size} px "
        f"have no room for a halo and an overlap of {geometry.origin_step} px each, the network's step, without which "
        "seams show",
    )


def _grown(wanted: int, side: int, step: int) -> str:
    as_before = f"{setting('tile_size', wanted)} {setting('halo', 0)} {setting('overlap', 0)}"
    return (
        f"tiles have {side} px instead of {wanted}: these have no room for a halo and an overlap of {step} px each, "
        f"the network's step, without which seams show ({as_before} takes them as they are)"
    )


def _covering_halo(models: Sequence[TrainedModel], step: int) -> tuple[int | None, str]:
    """The halo of the model that sees farthest, a multiple of the step; None and why, where one has none."""
    halos = []
    for model in models:
        if model.network.geometry.stretched_side is not None:
            return None, "where a cell lies depends on the edges of its tile, as it did in the training crops"
        field = receptive_field(model.network, len(model.card.bands))
        if field.halo is None:
            return None, field.reason or "it depends on the size of the tile"
        halos.append(field.halo)
    return -(-max(halos) // step) * step, ""
