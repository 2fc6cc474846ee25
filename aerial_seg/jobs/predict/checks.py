"""Whether a command can work: what goes together, where its maps go, what they may replace; before any tile runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from aerial_seg.choices import check_map_tiles
from aerial_seg.crf.dense import check_crf_installed
from aerial_seg.errors import InputError, OutputError, SettingsError
from aerial_seg.files.disk import nearest_folder
from aerial_seg.files.journal import NAME, finished_results
from aerial_seg.files.names import check_output, shown
from aerial_seg.files.operating_system import ignores_case
from aerial_seg.files.protect import Inputs
from aerial_seg.files.staging import check_places
from aerial_seg.files.work import was_placed, work_folder
from aerial_seg.geo.areas.area import area_file
from aerial_seg.geo.raster.present import require_file
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.raster.read_files import vector_files
from aerial_seg.geo.raster.remote import file_behind, output_stem
from aerial_seg.inference.definition import Definition
from aerial_seg.inference.results import result_names
from aerial_seg.jobs.predict.many_scenes import BATCH
from aerial_seg.jobs.predict.scene_list import LIST, Refusals, is_list
from aerial_seg.jobs.predict.scenes import Scene
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.mentions import setting
from aerial_seg.outputs.acquisition import parse_taken
from aerial_seg.outputs.mask import is_ours
from aerial_seg.outputs.stac import item_name
from aerial_seg.vectors.files import check_place, replaced_files
from aerial_seg.vectors.formats import check_layer_name, target_crs, vector_format
from aerial_seg.vectors.ground import Ground

_SIDECARS = (".aux.xml", ".vat.dbf", ".vat.cpg")
_STYLE = ".qml"


def scenes_of(paths: Sequence[Path], out: Path, many_scenes: bool) -> tuple[Scene, ...]:
    """List the maps to make. Raises SettingsError and OutputError for an `out` that does not go with the rasters."""
    if not many_scenes:
        if out.suffix.lower() not in (".tif", ".tiff"):
            raise OutputError(
                f"the mask {out} is a GeoTIFF, wanted a name that ends in .tif; rename the output"
            )
        check_output(out)
        if os.path.realpath(out) in map(_real, paths):
            raise OutputError(f"{out} is one of the rasters to predict; give the mask another name")
        return (Scene(tuple(paths), out),)
    if out.suffix.lower() in (".tif", ".tiff"):
        raise SettingsError(
            f"{len(paths)} rasters but one output {out}; pass {setting('mosaic', True)} to make one map of them, "
            f"or give {setting('output')} a folder for one mask each"
        )
    check_output(out)
    scenes = tuple(Scene((path,), out / f"{output_stem(path)}_mask.tif") for path in paths)
    names = [str(scene.target) for scene in scenes]
    if ignores_case(nearest_folder(out / "mask")):
        names = [name.casefold() for name in names]
    if len(set(names)) < len(scenes):
        raise SettingsError(
            f"two rasters have the same file name; pass {setting('mosaic', True)} to make one map of them, or predict "
            "them into different folders"
        )
    return scenes


def usable_scenes(scenes: Sequence[Scene], out: Path, refused: Refusals) -> tuple[Scene, ...]:
    """Keep the scenes whose names, and those of their masks, can be used; each other one is refused for itself."""
    usable = []
    for scene in scenes:
        with refused.of(scene.name):
            require_file(scene.paths[0])
            try:
                check_output(scene.target)
            except OutputError as error:
                raise InputError(f"the mask of {shown(scene.name)} is named after it: {error}") from error
            usable.append(scene)
    return tuple(usable)


def _real(name: Path | str) -> str:
    """The file that is read, links followed; of a raster in a file that file."""
    return os.path.realpath(file_behind(name) or name)


def check_outputs(
    scenes: Sequence[Scene], out: Path, settings: PredictSettings, *, many_scenes: bool
) -> None:
    """Refuse an output that exists, but for one that an interrupted run of this command had put there."""
    finished = finished_results(work_folder(out / BATCH) / NAME) if many_scenes else frozenset()
    definition = settings.definition
    for scene in scenes:
        files = [*_rasters(scene.target, definition, stac=settings.stac), *_sidecars(scene.target)]
        ours = str(scene.target) in finished
        check_places(files, overwrite=settings.overwrite or ours, maker=scene.target)


def require_own_masks(scenes: Sequence[Scene]) -> None:
    """Raise OutputError for a file that has the name of one of several masks, but is none that we made."""
    for scene in scenes:
        if scene.target.is_file() and not is_ours(scene.target):
            raise OutputError(
                f"{scene.target} is no mask that predict made, so it is not replaced; "
                "move it away, or choose another output"
            )


def protect(inputs: Inputs, scenes: Sequence[Scene], settings: PredictSettings) -> None:
    """Raise OutputError where a result would replace what it is made from, --overwrite or not."""
    definition = settings.definition
    for scene in scenes:
        rasters = _rasters(scene.target, definition, stac=settings.stac)
        styles = [f"{os.path.splitext(file)[0]}{_STYLE}" for file in rasters]  # noqa: PTH122 - of thousands of files
        inputs.refuse((*rasters, *_sidecars(scene.target), *styles))
    if settings.vectors is not None:
        check_output(settings.vectors)
        try:
            form = vector_format(settings.vectors)
        except (InputError, OutputError, SettingsError):
            inputs.refuse([settings.vectors])  # the wrong name is told later
        else:
            inputs.refuse(replaced_files(settings.vectors, form))


def placed_vectors(scene: Scene, vectors: Path) -> bool:
    """Tell whether all that lies at the polygons' place was put there by an interrupted run of this command."""
    there = [file for file in replaced_files(vectors, vector_format(vectors)) if file.exists()]
    return bool(there) and all(was_placed(scene.target, file) or was_placed(vectors, file) for file in there)


def named_files(
    paths: Sequence[Path], rasters: Sequence[str], models: Sequence[Path], settings: PredictSettings
) -> Iterator[Path | str]:
    """List what the command names as its inputs; the files behind rasters come to light when they are opened."""
    # Of a raster in a file that file.
    yield from (file_behind(path) or path for path in paths)
    yield from (argument.removeprefix(LIST) for argument in rasters if is_list(argument))
    yield from (file_behind(path) or path for path in settings.bands.stack)
    yield from models
    if settings.aoi is not None:
        yield from vector_files(area_file(settings.aoi))


def check_vectors(vectors: Path, info: RasterInfo, scene: Scene, settings: PredictSettings) -> None:
    """Raise AerialSegError where no polygons of this map could be written to `vectors`."""
    form = vector_format(vectors)
    target_crs(form, info.grid.crs)
    Ground(info.grid)  # raises now what would else be raised after hours, where polygons have no size
    check_place(vectors, form, overwrite=settings.overwrite or placed_vectors(scene, vectors))
    check_layer_name(form, vectors.stem, vectors)


def check_extras(settings: PredictSettings) -> None:
    """Raise SettingsError for a CRF whose package is missing, a time that nothing would tell, places of no place."""
    check_map_tiles(settings.map_tiles, georeferenced=settings.georeferenced)
    if settings.crf is not None:
        check_crf_installed()
    if settings.taken is None:
        return
    parse_taken(settings.taken)
    if not settings.stac:
        raise SettingsError(
            f"{setting('taken', settings.taken)} is for the STAC item, and none is asked for; add "
            f"{setting('stac', True)}, or leave it out"
        )


def check_area_settings(settings: PredictSettings) -> None:
    """Raise SettingsError for two areas, and for what says how to read a file of areas that is not named."""
    if settings.aoi is not None and settings.bounds is not None:
        raise SettingsError(
            f"{setting('aoi')} and {setting('bounds')} both say what to predict; pass one of them"
        )
    for name, value in (("aoi_layer", settings.aoi_layer), ("aoi_crs", settings.aoi_crs)):
        if settings.aoi is None and value is not None:
            raise SettingsError(
                f"{setting(name, value)} says how to read an {setting('aoi')} file, but there is none; leave it out"
            )


def _rasters(target: Path, definition: Definition, *, stac: bool) -> list[str]:
    """The mask and what is written beside it under names of its own; texts, as making Paths of thousands takes long."""
    names = [*result_names(target.name, definition), *([item_name(target.name)] if stac else ())]
    folder = os.path.dirname(target)  # noqa: PTH120
    return [os.path.join(folder, name) for name in names]  # noqa: PTH118


def _sidecars(target: Path) -> list[str]:
    return [f"{target}{suffix}" for suffix in _SIDECARS]
