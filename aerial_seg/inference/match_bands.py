"""Whether a raster's bands are those that a model was trained on: how many, of which type, called what, how bright."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aerial_seg.band_names import RGB, out_of_order, role
from aerial_seg.bands import Band
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.geo.raster.band_choice import ALL_BANDS, BandChoice, bands_setting
from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.geo.raster.raster import Raster, raster_info
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.raster.statistics import (
    Readable,
    SceneRange,
    at_hand,
    find_collar,
    scene_range,
)
from aerial_seg.geo.raster.values.fill import FillerTally
from aerial_seg.geo.raster.values.scaling import refuse_shifted, require_scalings
from aerial_seg.mentions import setting

_BEYOND = 2.0
"""Training ranges that a scene's percentile may lie beyond the model's: other haze and sun stay well within."""
_PARTLY = 0.001
"""Share of the pixels: in imagery whose nodata is 0 or 255 a few dark or bright ones reach that value in one band."""
_SQUEEZED = 0.1
"""A scene whose pixels all lie within this share of the training range, at its end, is of other units."""


_EXPAND = "turn them into colours first (gdal_translate -expand rgb in.tif out.tif)"


def chosen_infos(paths: Sequence[Path], choice: BandChoice) -> list[RasterInfo]:
    """Return the facts of every raster, as far as the chosen bands go. Raises SettingsError as check_stack does."""
    check_stack(len(paths), choice)
    return [raster_info(path, choice) for path in paths]


def check_stack(rasters: int, choice: BandChoice) -> None:
    """Raise SettingsError for files that are to be stacked on several rasters."""
    if choice.stack and rasters > 1:
        raise SettingsError(
            f"{bands_setting(stack=choice.stack[:1])} goes with one raster, but {rasters} were given; "
            "run them one by one, or make one raster of them first (gdalbuildvrt)"
        )


def check_mosaic_bands(infos: Sequence[RasterInfo], choice: BandChoice) -> None:
    """Raise SettingsError where an alpha band is chosen as imagery of rasters that become one."""
    for info in infos if len(infos) > 1 and choice.numbers else ():
        if info.alpha_of_file is not None and info.alpha_of_file <= max(choice.numbers):
            raise SettingsError(
                f"{info.path} has alpha as band {info.alpha_of_file}, which is the mask in a mosaic; "
                f"wanted bands before it, or predict the rasters without {setting('mosaic', True)}"
            )


def check_bands(
    info: RasterInfo, bands: Sequence[Band], choice: BandChoice = ALL_BANDS, *, scale: str = "auto"
) -> tuple[bool, ...]:
    """Raise InputError, naming both sides and the remedy, unless the raster's bands are those of the model.

    Names are compared where both sides declare one that means something (`red`, not `gray` or `band 1`), and not
    when the bands were chosen by number: that is the user's word. Where the model's red, green and blue come in
    another order than this, a raster has to name its own. Numbers that a declared offset shifts are no longer those
    that a model of stored numbers knows. Returns of each band whether its scale and offset are to be
    applied (Raster.scale), as in training; none with scale "off".
    """
    model = ", ".join(f"{band.name} {band.dtype}" for band in bands)
    raster = ", ".join(f"{band} {info.dtype}" for band in info.names)
    if len(info.bands) != len(bands):
        raise InputError(
            f"{info.path} has {len(info.bands)} bands ({raster}), but the model was trained on {len(bands)} "
            f"({model}); {_count_remedy(info, bands, choice)}"
        )
    if not choice.numbers and _clashes(info.names, bands):
        raise InputError(
            f"{info.path} has the bands {', '.join(info.names)}, but the model was trained on "
            f"{', '.join(band.name for band in bands)}; {_order_remedy(info, bands)}"
        )
    if not choice.numbers and out_of_order([band.name for band in bands]):
        _require_said(info, bands)
    scaled = tuple(band.scaled for band in bands) if scale == "auto" and info.scalings else ()
    if any(scaled):
        require_scalings(info.path, info.scalings, [band.name for band in bands], scaled, info.tagged)
    elif info.dtype != bands[0].dtype:
        # Of a stack any file may be the one of another dtype.
        got = f"{info.path} with {', '.join(choice.stack)}" if choice.stack else info.path
        raise InputError(
            f"{got} holds {info.dtype}, but the model was trained on {bands[0].dtype} ({model}); convert what is not "
            f"{bands[0].dtype} to the same units (gdal_translate -ot … -scale …) or train a model on these"
        )
    elif scale == "auto":
        known = [band.stored_offsets for band in bands]
        refuse_shifted(info.path, info.scalings, [band.name for band in bands], known)
    return scaled if any(scaled) else ()


def check_mosaic_scalings(infos: Sequence[RasterInfo], bands: Sequence[Band], *, scale: str = "auto") -> None:
    """Raise InputError for rasters that become one whose stored numbers mean different things to such a model."""
    if scale == "off" or any(band.scaled for band in bands):
        return
    known = [band.stored_offsets for band in bands]
    for info in infos:
        if any(known):
            refuse_shifted(info.path, info.scalings, [band.name for band in bands], known)
        elif info.scalings != infos[0].scalings:
            declared = [", ".join(sorted({*map(str, one.scalings)})) for one in (info, infos[0])]
            raise InputError(
                f"{info.path} declares {declared[0]}, but {infos[0].path} {declared[1]}, and the model was trained on "
                "numbers as they are stored: equal ones would not mean the same in one mosaic; store all alike, or "
                f"pass {setting('scale', 'off')} if they do mean the same"
            )


def unnamed_notes(info: RasterInfo, bands: Sequence[Band], choice: BandChoice = ALL_BANDS) -> tuple[str, ...]:
    """Note which of the model's bands the raster does not name, so that they are what lies in their place."""
    if choice.numbers or len(info.names) != len(bands):
        return ()
    taken = [
        f"band {number} for {band.name}"
        for number, name, band in zip(info.bands, info.names, bands, strict=True)
        if role(name) is None and role(band.name) is not None
    ]
    if not taken:
        return ()
    return (
        f"{info.path} does not say which band is which: {', '.join(taken)} were taken by their place; if that is not "
        f"so, say it ({bands_setting(numbers=info.bands, names=[band.name for band in bands])})",
    )


def scene_notes(raster: Raster | ArrayRaster, bands: Sequence[Band]) -> tuple[str, ...]:
    """Note what looks wrong in the pixels: a range far outside of the training's, nodata in some bands only, a collar.

    Nothing where they cannot be read: whoever reads the raster next says so, with what is kept of the work. But raises
    InputError for a VRT, because GDAL gives zeros for a member that it could not open, from the second read on.
    """
    with _left_to_the_next_reader(raster):
        pixels, tally = at_hand(raster.stored), FillerTally(raster.declared)
        scene = scene_range(pixels, tally) if bands or _may_hold_fillers(raster) else None
        scales = _scale_notes(raster, bands)
        if scene is None:
            return (*_collar_notes(pixels), *filler_notes(tally, raster), *scales)
        ranges = (
            _range_notes(scene.scaled(raster.info.scalings, raster.scaled), raster, bands) if bands else ()
        )
        doubtful = (*_partly_notes(scene, raster), *filler_notes(tally, raster))
        return (*ranges, *doubtful, *_collar_notes(pixels), *scales)
    return ()


@dataclass(frozen=True, slots=True)
class NodataNotes:
    """What makes nodata of a raster doubtful: nodata in some bands only, a collar, fillers that nothing declares."""

    partly: tuple[str, ...] = ()
    collars: tuple[str, ...] = ()
    fillers: tuple[str, ...] = ()


def nodata_notes(raster: Raster) -> NodataNotes:
    """Note what makes nodata doubtful, as scene_notes."""
    with _left_to_the_next_reader(raster):
        pixels, tally = at_hand(raster.stored), FillerTally(raster.declared)
        scene = scene_range(pixels, tally) if _may_hold_fillers(raster) else None
        partly = () if scene is None else _partly_notes(scene, raster)
        return NodataNotes(partly, _collar_notes(pixels), filler_notes(tally, raster))
    return NodataNotes()


def _may_hold_fillers(raster: Raster | ArrayRaster) -> bool:
    """Whether a look at its numbers can tell anything of what was measured."""
    return raster.stored_dtype[0] in "if" or any(value is not None for value in raster.declared)


def filler_notes(tally: FillerTally, raster: Raster | ArrayRaster) -> tuple[str, ...]:
    """Note what was counted in a raster's pixels that nothing measures."""
    return tuple(tally.notes(raster.info.path, raster.info.names, lambda value: setting("nodata", value)))


def _scale_notes(raster: Raster | ArrayRaster, bands: Sequence[Band]) -> tuple[str, ...]:
    """Note what a raster declares of its numbers, and whether the model is shown these or what they mean."""
    declared = list(dict.fromkeys(str(one) for one in raster.info.scalings if not one.says_nothing))
    if not declared or not bands:
        return ()
    told = " / ".join(declared)
    if any(raster.scaled):
        return (f"scale and offset of {raster.info.path} are applied, as in training: {told}",)
    return (
        f"{raster.info.path} declares {told}, but the model was trained on numbers as they are stored: so they are "
        "taken here, too",
    )


@contextmanager
def _left_to_the_next_reader(raster: Raster | ArrayRaster) -> Iterator[None]:
    """What cannot be read is told by whoever reads the raster next; see scene_notes."""
    try:
        yield
    except InputError:
        if raster.is_virtual:
            raise


def palette_notes(info: RasterInfo) -> tuple[str, ...]:
    """Note when the pixels are numbers of colours: neighbouring numbers need not look alike."""
    if not info.has_palette:
        return ()
    return (
        f"the pixels of {info.path} are the numbers of a palette's colours, which a network takes for brightness; "
        f"unless that is meant, {_EXPAND}",
    )


def _range_notes(scene: SceneRange, raster: Readable, bands: Sequence[Band]) -> tuple[str, ...]:
    """Note when p2 or p98 of a band lie far beyond the training's, or all bands at one end of it."""
    # In plain floats: numpy takes several times as long for a few bands, of each of thousands of scenes.
    pairs = list(zip(scene.p2.tolist(), scene.p98.tolist(), bands, strict=True))
    far = [_is_far(p2, p98, band) for p2, p98, band in pairs]
    if not any(far):
        low = [p98 < band.p2 + _SQUEEZED * (band.p98 - band.p2) for _, p98, band in pairs]
        high = [p2 > band.p98 - _SQUEEZED * (band.p98 - band.p2) for p2, _, band in pairs]
        if not (all(low) or all(high)):
            return ()
        far = [a or b for a, b in zip(low, high, strict=True)]
    told = ", ".join(
        f"{band.name} {scene.p2[k]:.4g}..{scene.p98[k]:.4g} (trained on {band.p2:.4g}..{band.p98:.4g})"
        for k, band in enumerate(bands)
        if far[k]
    )
    return (
        f"the values of {raster.info.path} lie far outside of what the model was trained on (2 % to 98 % of the "
        f"pixels): {told}; check its units and scaling",
    )


def _is_far(p2: float, p98: float, band: Band) -> bool:
    """Whether a scene's range of a band reaches far beyond that of the training."""
    beyond = _BEYOND * max(band.p98 - band.p2, band.std)
    return p98 > band.p98 + beyond or p2 < band.p2 - beyond


def _partly_notes(scene: SceneRange, raster: Readable) -> tuple[str, ...]:
    """Note when pixels have nodata in some bands, not in all: a value that the network takes for brightness."""
    if scene.partly < _PARTLY * scene.pixels:
        return ()
    values = ["none" if value is None else f"{value:.15g}" for value in raster.nodata_values]
    told = values[0] if len(set(values)) == 1 else '"' + " ".join(values) + '"'
    return (
        f"{scene.partly:,} of the {scene.pixels:,} pixels of {raster.info.path} that were looked at have the nodata "
        f"value {told} in some bands, not in all, and count as measured; if they are not, write it into all bands "
        "there, or give the raster a mask",
    )


def _collar_notes(raster: Readable) -> tuple[str, ...]:
    """Note when a border-connected constant covers more than 1 % and nothing says that it is nodata."""
    collar = find_collar(raster)
    if collar is None:
        return ()
    return (
        f"{collar.share:.0%} of {raster.info.path}, from its border inwards, are {collar.value:g} in all bands and "
        f"count as measured; if that is filler, pass {setting('nodata', float(collar.value))}",
    )


def _clashes(names: Sequence[str], bands: Sequence[Band]) -> bool:
    pairs = [(role(name), role(band.name)) for name, band in zip(names, bands, strict=True)]
    return any(have is not None and want is not None and have != want for have, want in pairs)


def _require_said(info: RasterInfo, bands: Sequence[Band]) -> None:
    """Raise InputError for bands without a name where the model's red, green and blue are in no usual order."""
    unsaid = [
        str(number)
        for number, name, band in zip(info.bands, info.names, bands, strict=True)
        if role(name) is None and role(band.name) in RGB
    ]
    if not unsaid:
        return
    names = [band.name for band in bands]
    usual = sorted(names, key=lambda name: RGB.index(str(role(name))) if role(name) in RGB else len(RGB))
    raise InputError(
        f"{info.path} does not say which of its bands are red, green and blue (band {', '.join(unsaid)}), and the "
        f"model was trained on {', '.join(names)} in this order; say which band is which "
        f"({bands_setting(numbers=info.bands, names=usual)})"
    )


def _found(info: RasterInfo, bands: Sequence[Band]) -> list[int] | None:
    """The raster's band number of each of the model's bands, when it declares them all, each once."""
    have, want = [role(name) for name in info.names], [role(band.name) for band in bands]
    if any(name is None or have.count(name) != 1 for name in want):
        return None
    return [info.bands[have.index(name)] for name in want]


def _count_remedy(info: RasterInfo, bands: Sequence[Band], choice: BandChoice) -> str:
    if info.has_palette:
        return f"its pixels are the numbers of a palette's colours: {_EXPAND}"
    if choice.numbers:
        return (
            f"choose {len(bands)} bands ({bands_setting(numbers=...)}, {bands_setting(names=...)}) or train a model on "
            "these"
        )
    found = _found(info, bands)
    if found is not None:
        return f"pass {bands_setting(numbers=found)} to read those that it was trained on"
    if info.alpha is not None and len(bands) == len(info.bands) + 1:
        numbers = sorted((*info.bands, info.alpha))
        return (
            f"band {info.alpha} is flagged alpha: if it is imagery, pass {bands_setting(numbers=numbers)}, "
            "else train a model on these"
        )
    if len(info.bands) > len(bands):
        by_number, by_name = (
            bands_setting(numbers=(1, 2, ...)),
            bands_setting(numbers=(1, ...), names=("NAME", ...)),
        )
        return f"pick the same bands ({by_number} or {by_name}) or train a model on these"
    return f"add what is missing ({bands_setting(stack=('FILE',))}) or train a model on these"


def _order_remedy(info: RasterInfo, bands: Sequence[Band]) -> str:
    found = _found(info, bands)
    if found is not None:
        return f"pass {bands_setting(numbers=found)} to read them in the model's order"
    example = bands_setting(numbers=range(1, len(bands) + 1), names=[band.name for band in bands])
    return f"say which band is which ({example}, or {bands_setting(numbers=...)} by number) or train a model on these"
