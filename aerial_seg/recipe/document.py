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
from pydantic_core import InitErrorDetails, PydanticCustomError

from aerial_seg.recipe.crops import AugmentationSettings, SamplingSettings
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.recipe.section import Pixels, Section
from aerial_seg.recipe.training import TrainingSettings

STAGE = "stage"
"""The table of further stages."""
OF_THE_NETWORK = ("output_stride", "dropout")
"""Keys of [model] that a further stage may change: its network has the weights of the stage before."""


class DataSettings(Section):
    """What the recipe trains on: chips that `tile` made (benchmark None) or a benchmark in its publishers' layout.

    train and val: the splits to learn from and to validate on. Chips have train, val and test; VOC also trainval and
    trainaug (with SBD's labels).
    """

    benchmark: Literal["voc", "cityscapes", "ade20k"] | None = None
    train: str = "train"
    val: str = "val"


class PredictionSettings(Section):
    """How the trained model is tiled unless `predict` is told otherwise; None: derived from the network."""

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

    start: the weights that it begins with: the last ones of the stage before (Chen et al. 2017, Rethinking Atrous
    Convolution, section 4.1, goes on where its first stage ended), or those that validation found the best; their
    moving average where the stage before keeps one.
    """

    model_config = ConfigDict(
        extra="allow"
    )  # each table of a recipe: validated as the whole recipe of the stage

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
    start: Literal["last", "best"] = "last"

    @classmethod
    def annotations(cls) -> Mapping[str, Any]:
        """Its own keys, and the tables of a recipe."""
        return {**super().annotations(), **_tables()}

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
    def _has_whole_stages(self) -> Recipe:
        self.by_stage()
        names = [stage.name for stage in self.stage]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise _problem(
                    (STAGE, index, "name"), name, "a stage before it is called so; give it another name"
                )
        return self

    @model_serializer(mode="wrap")
    def _without_empty_stages(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Older versions know no stages, and read all that is of one stage."""
        document: dict[str, Any] = written(self)
        if not self.stage:
            document.pop(STAGE, None)
        return document


def stage_folder(number: int) -> str:
    """What the folder of a finished stage is called, in its run's folder; 1 is the first stage."""
    return f"{STAGE}-{number}"


def _tables() -> dict[str, Any]:
    return {name: kind for name, kind in Recipe.annotations().items() if name != STAGE}


def _after(before: Recipe, stage: StageSettings, index: int) -> Recipe:
    """The recipe of a stage. Raises ValidationError with the places of its keys in the whole recipe."""
    document, tables = before.model_dump(), _tables()
    for table, keys in stage.changes.items():
        place = (STAGE, index, table)
        if table not in tables:
            details = InitErrorDetails(type="extra_forbidden", loc=place, input=keys)
            raise ValidationError.from_exception_data("Recipe", [details])
        if not isinstance(keys, Mapping):
            raise _problem(place, keys, f"wanted a table with some of the keys of [{table}]")
        document[table] = _changed(document[table], keys)
    for key in stage.changes.get("model", {}):
        if key in ModelSettings.model_fields and key not in OF_THE_NETWORK:
            raise _problem(
                (STAGE, index, "model", key), stage.changes["model"][key], _not_of_the_network(key)
            )
    stride, model = before.model.output_stride, document["model"]
    was = before.model.trained_stride or stride
    model["trained_stride"] = None if model["output_stride"] == was else was
    model["weights"] = f"{stage_folder(index + 1)}/{stage.start}.safetensors"
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        details_of_all = [_moved(one, (STAGE, index)) for one in error.errors(include_url=False)]
        raise ValidationError.from_exception_data("Recipe", details_of_all) from error


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


def _problem(place: tuple[str | int, ...], got: Any, message: str) -> ValidationError:
    details = InitErrorDetails(type=PydanticCustomError("stage", message), loc=place, input=got)  # type: ignore[arg-type]
    return ValidationError.from_exception_data("Recipe", [details])


def _moved(problem: Any, place: tuple[str | int, ...]) -> InitErrorDetails:
    """The problem with a value of a stage's recipe, at its place in the whole one."""
    kind: Any = problem["type"]
    if kind not in ("extra_forbidden", "missing", "value_error"):
        kind = PydanticCustomError(kind, problem["msg"])
    details = InitErrorDetails(type=kind, loc=(*place, *problem["loc"]), input=problem["input"])
    if problem["type"] == "value_error":
        details["ctx"] = problem["ctx"]
    return details
