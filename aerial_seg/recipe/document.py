"""The recipe: everything that a training run needs to know besides where its data lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from aerial_seg.errors import SettingsError
from aerial_seg.printable import shortened
from aerial_seg.recipe.batch_norm import BatchNormSettings
from aerial_seg.recipe.crop_size import problem_of_turns
from aerial_seg.recipe.crops import AugmentationSettings, SamplingSettings
from aerial_seg.recipe.idle import check_idle, without_idle
from aerial_seg.recipe.lineage import read_unset
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.recipe.section import Few, Pixels, Section, first_problem, unknown_key
from aerial_seg.recipe.training import TrainingSettings

STAGE = "stage"
"""The table of further stages."""
OF_THE_NETWORK = ("output_stride", "dropout")
"""Keys of [model] that a further stage may change: its network has the weights of the stage before."""


class DataSettings(Section):
    """What the recipe trains on: chips that `tile` made (benchmark None) or a benchmark in its publishers' layout.

    train and val: the splits to learn from and to validate on. Chips have train, val and test; VOC also trainval and
    trainaug (with SBD's labels); Cityscapes also trainval, train_extra (20,000 further images, coarse labels), coarse
    (the coarse labels of trainval), train_coarse and trainval_coarse (fine labels, and the coarse ones of train_extra).
    COCO is read with VOC's classes, to pretrain networks for VOC: train and val are those of 2017, train2014 and
    val2014 the older ones; images to train on show more than 1,000 px of these classes.
    """

    benchmark: Literal["voc", "cityscapes", "ade20k", "coco"] | None = None
    train: str = "train"
    val: str = "val"


class PredictionSettings(Section):
    """How the trained model is tiled unless `predict` is told otherwise; None: derived from the network.

    tile_size: side of the tiles. They are squares even where the training crops are not: a map has no direction, and
    one halo and one overlap serve both axes. The recipes that ship take the shorter side of such crops then, as
    `import-weights` does: so no tile shows more than a crop did, neither down nor across.
    """

    tile_size: Pixels = 512
    halo: Annotated[int, Field(ge=0, le=65_536)] | None = None
    overlap: Annotated[int, Field(ge=0, le=65_536)] | None = None
    batch_size: Pixels = 4


class StageSettings(Section):
    """A further stage of the training, which begins when the one before is finished: `[[stage]]`.

    The tables at the top are stage 1. A further one has a name of its own, and beside it the keys that differ from the
    stage before, under the tables that they lie in, as `training.learning_rate = 0.001`; a mapping (class_weights)
    differs by its entries. Of the network only output_stride and dropout can differ: at another output stride all
    rates are scaled, so that every convolution looks as far in pixels as before (model.trained_stride). Optimiser,
    schedule, iterations and the moving average begin anew.

    unset: keys of the stage before that this one does not have, as "batch_norm.decay": they are as a recipe has them
    that does not name them. So is an entry of a mapping, "training.class_weights.road".
    start: the weights that it begins with: the last ones of the stage before (Chen et al. 2017, Rethinking Atrous
    Convolution, section 4.1, goes on where its first stage ended), or those that validation found the best; their
    moving average where the stage before keeps one.
    """

    model_config = ConfigDict(
        extra="allow"
    )  # each table of a recipe: validated as the whole recipe of the stage

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
    start: Literal["last", "best"] = "last"
    unset: Annotated[tuple[str, ...], Few] = ()

    @property
    def changes(self) -> Mapping[str, Any]:
        """What differs from the stage before: values by key, by table."""
        return self.model_extra or {}


class Recipe(Section):
    """Hold everything that a training run needs to know besides where its data lie.

    stage: further stages; see `by_stage`.
    """

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    batch_norm: BatchNormSettings = BatchNormSettings()
    sampling: SamplingSettings = SamplingSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    prediction: PredictionSettings = PredictionSettings()
    stage: Annotated[tuple[StageSettings, ...], Field(max_length=16)] = ()

    def by_stage(self) -> tuple[Recipe, ...]:
        """Return the whole recipe of each stage, without further ones; of a recipe of one stage that is itself.

        A later one's model.weights are the file in the run's folder that the stage before leaves for it.
        """
        found = [self.model_copy(update={STAGE: ()}) if self.stage else self]
        for index, stage in enumerate(self.stage):
            found.append(_after(found[-1], stage, index))
        return tuple(found)

    @model_validator(mode="after")
    def _has_no_idle_keys(self) -> Recipe:
        try:
            check_idle({name: getattr(self, name) for name in _tables()})
        except SettingsError as error:
            raise ValueError(str(error)) from error
        return self

    @model_validator(mode="after")
    def _turns_fit_the_crops(self) -> Recipe:
        problem = problem_of_turns(self.training.crop, rot90=self.augmentation.rot90)
        if problem is not None:
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _has_whole_stages(self) -> Recipe:
        try:
            self.by_stage()
        except SettingsError as error:
            raise ValueError(str(error)) from error
        names = [stage.name for stage in self.stage]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(
                    f"'{STAGE}.{index}.name' is '{name}': a stage before it is called so; give it another"
                )
        return self

    @model_serializer(mode="wrap")
    def _without_empty_stages(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Older versions know no stages, and read all that is of one stage."""
        document: dict[str, Any] = written(self)
        if not self.stage:
            document.pop(STAGE, None)
        return document


class StageOfRun(Section):
    """Say which stage of a run something is of. number: 1 is the first; of: all of them. name: a later one's."""

    number: Annotated[int, Field(ge=1, le=17)]
    of: Annotated[int, Field(ge=2, le=17)]
    name: str = ""

    @property
    def is_last(self) -> bool:
        """Whether none follows."""
        return self.number == self.of

    def __str__(self) -> str:
        called = f" ({self.name})" if self.name else ""
        return f"stage {self.number} of {self.of}{called}"


def as_meant(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's document with what older versions did without saying so, where today's default is another.

    Keys that did nothing are left out: today they are refused.
    """
    recipe = without_idle(recipe)
    changes = recipe.get("augmentation")
    if not isinstance(changes, Mapping):
        return dict(recipe)
    return {**recipe, "augmentation": {"stay_inside": False, **changes}}


def stage_folder(number: int) -> str:
    """What the folder of a finished stage is called, in its run's folder; 1 is the first stage."""
    return f"{STAGE}-{number}"


def _tables() -> tuple[str, ...]:
    return tuple(name for name in Recipe.model_fields if name != STAGE)


def _after(before: Recipe, stage: StageSettings, index: int) -> Recipe:
    """The recipe of a stage. Raises SettingsError with the places of its keys in the whole recipe."""
    document, tables, place = before.model_dump(), _tables(), f"{STAGE}.{index}."
    for table, keys in stage.changes.items():
        if table not in tables:
            known = (*StageSettings.model_fields, *tables)
            raise SettingsError(unknown_key(place + table, table, known))
        if not isinstance(keys, Mapping):
            raise _problem(place + table, keys, f"wanted a table with some of the keys of [{table}]")
        document[table] = _changed(document[table], keys)
    _unset(document, stage, before, place)
    for key in stage.changes.get("model", {}):
        if key in ModelSettings.model_fields and key not in OF_THE_NETWORK:
            raise _problem(f"{place}model.{key}", stage.changes["model"][key], _not_of_the_network(key))
    stride, model = before.model.output_stride, document["model"]
    was = before.model.trained_stride or stride
    model["trained_stride"] = None if model["output_stride"] == was else was
    model["weights"] = f"{stage_folder(index + 1)}/{stage.start}.safetensors"
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise SettingsError(first_problem(error, Recipe, before=place)) from error


def _unset(document: dict[str, Any], stage: StageSettings, before: Recipe, place: str) -> None:
    """The document has the defaults of the keys that the stage unsets. Raises SettingsError where none is set."""
    try:
        paths = read_unset(stage.unset, stage.changes)
    except SettingsError as error:
        raise SettingsError(f"{place}{error}") from error
    for path in paths:
        said, (table, *inside) = ".".join(path), path
        section = getattr(before, table, None) if table in _tables() else None
        field = None if section is None or not inside else type(section).model_fields.get(inside[0])
        if field is None or len(inside) > 2:
            raise SettingsError(
                f"'{place}unset' names {shortened(said)}, which is no key of a recipe; wanted one as batch_norm.decay"
            )
        if table == "model" and inside[0] not in OF_THE_NETWORK:
            raise _problem(f"{place}unset", said, _not_of_the_network(inside[0]))
        value = document[table][inside[0]]
        if len(inside) == 2:
            there = isinstance(value, Mapping) and inside[1] in value
            rest = {key: one for key, one in value.items() if key != inside[1]} if there else None
        else:
            rest = field.get_default(call_default_factory=True)
            there = value != rest
        if not there:
            raise SettingsError(
                f"'{place}unset' names {shortened(said)}, which the stage before does not set; leave it out"
            )
        document[table][inside[0]] = rest


def _problem(place: str, got: Any, message: str) -> SettingsError:
    return SettingsError(f"'{shortened(place)}' is {shortened(repr(got))}: {message}")


def _not_of_the_network(key: str) -> str:
    if key == "weights":
        return 'a stage begins with the weights of the one before; leave it out, or set start = "best"'
    return (
        f"a stage has the network of the one before, of which it can change {' and '.join(OF_THE_NETWORK)}; set it in "
        "[model], for all stages"
    )


def _changed(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The table with the changed keys; a mapping in it keeps its other entries."""
    changed = dict(table)
    for key, value in changes.items():
        there = changed.get(key)
        both = isinstance(there, Mapping) and isinstance(value, Mapping)
        changed[key] = {**there, **value} if both else value  # type: ignore[dict-item]
    return changed
