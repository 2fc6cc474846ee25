"""Recipes: TOML → frozen, validated settings. An unknown key is an error that names the nearest one."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aerial_seg.documents import DocumentError, parse_toml, problem_of, read_text
from aerial_seg.errors import SettingsError, at_work, did_you_mean
from aerial_seg.paths import StrPath, as_name
from aerial_seg.printable import shortened
from aerial_seg.recipe_changes import Changes, apply_changes, read_changes

OWN_ARCHITECTURES = ("fcn", "deeplabv2", "deeplabv3", "deeplabv3-cascade", "deeplabv3+", "pspnet", "gcn")
"""The networks of the papers, built here; the others come from segmentation_models_pytorch."""

# Every number has an end: beyond it there is no sense, but memory that runs out while a network is built from a file.
Width = Annotated[int, Field(gt=0, le=4096)]
"""Channels of a layer."""
Rate = Annotated[int, Field(gt=0, le=1024)]
"""Dilation, a kernel's side, parts per side."""
Pixels = Annotated[int, Field(gt=0, le=65_536)]
Count = Annotated[int, Field(gt=0, le=1_000_000_000)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Zoom = Annotated[float, Field(ge=0.01, le=100)]
Number = Annotated[int, Field(ge=-65_536, le=65_536)]
Few = Field(max_length=64)


class Section(BaseModel):
    """A frozen table of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            kind = type(self)
            raise SettingsError(f"{kind.__name__}: {_first_problem(error, kind)}") from error

    # What is read from a document is told with its place there, so pydantic must not go through the above for it.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


class DataSettings(Section):
    """What the recipe trains on: chips that `tile` made (benchmark None) or a benchmark in its publishers' layout.

    train and val: the splits to learn from and to validate on. Chips have train, val and test; VOC also trainval and
    trainaug (with SBD's labels).
    """

    benchmark: Literal["voc", "cityscapes", "ade20k"] | None = None
    train: str = "train"
    val: str = "val"


class ModelSettings(Section):
    """Say which network. OWN_ARCHITECTURES are our own; other names are smp's (`Unet`, `Segformer`, …).

    All others but encoder and weights concern our own networks; `options` goes to smp's class.

    The backbone. output_stride: how far it shrinks the image; 64 to 256 are deeplabv3-cascade's, whose further blocks
    stride too. stem: one 7×7 convolution, or three 3×3 of widths 32, 32, 64 (deep32) or 64, 64, 128 (deep64).
    stride_placement: which convolution of a strided stage strides: the 3×3 of its first bottleneck, that one's first
    1×1 (the original Caffe models, DeepLabv2), or the last unit of the stage before (TensorFlow's `beta` models).
    dilation_placement: whether the first block of a stage that lost its stride gets the stage's rate (`full`) or keeps
    that of the stage before (`contracted`: torchvision, mmseg).
    multi_grid: unit rates of the last stage's blocks, one each, which multiply their 3×3 convolutions' rates; empty is
    all 1. DeepLabv3 has (1, 2, 4) over the three bottlenecks. multi_grid_rates: `absolute` takes them as the rates
    themselves, as mmseg does. ceil_mode: of the stem's max-pool. bn_eps: of all batch norms; None: as the encoder's
    library sets them. deformable: the last stage's 3×3 convolutions move their taps by learnt offsets.

    The head. head_channels: its width, by default the paper's (FCN 512, ASPP 256, PSP 512). head: `default`, or
    `torchvision` (fcn: one 3×3 convolution, a quarter of the features wide; deeplabv3: dropout after the projection,
    then another 3×3; its auxiliary head), `mmseg` (deeplabv3: 512 wide, fused by a 3×3), `no-concat` (fcn whose second
    convolution does not see its input again), `largefov` (deeplabv2: one 3×3 convolution instead of four).
    aspp_rates: atrous rates, scaled with the output stride; deeplabv3's and deeplabv3+'s are those at stride 16, by
    default (6, 12, 18), deeplabv2's those at 8, by default (6, 12, 18, 24), largefov's (12).
    last_block: of deeplabv3-cascade, block4 being the ResNet's last stage. bins, pooling, reduce_bins: of pspnet's
    pyramid: parts per side, their pooling, and whether a 1×1 convolution narrows each. kernel: side of gcn's large
    kernels. msc: deeplabv2 on the image at 1, 0.75 and 0.5 of its size, the largest logit of the three.
    align_corners: whether cells lie at pixel s·i, so that tiles are s·n + 1 wide (513, 713), or in the middle of s
    pixels; the head's own upsampling follows.
    auxiliary: a second head on the stage before the last, in training; auxiliary_channels: its width, by default a
    quarter of its input's.

    weights: what training starts from: `none`, `imagenet` or another name that the encoder's library knows, or a file
    (.safetensors, .pth, .pt, .ckpt) with a model of ours or an encoder's state dict.
    """

    architecture: str = "deeplabv3"
    encoder: str = "resnet18"
    output_stride: Literal[4, 8, 16, 32, 64, 128, 256] = 8
    stem: Literal["7x7", "deep32", "deep64"] = "7x7"
    stride_placement: Literal["3x3", "1x1", "last-unit"] = "3x3"
    dilation_placement: Literal["full", "contracted"] = "full"
    multi_grid: Annotated[tuple[Rate, ...], Few] = ()
    multi_grid_rates: Literal["unit", "absolute"] = "unit"
    ceil_mode: bool = False
    bn_eps: Annotated[float, Field(gt=0, le=1)] | None = None
    deformable: bool = False
    head: Literal["default", "torchvision", "mmseg", "no-concat", "largefov"] = "default"
    head_channels: Width | None = None
    aspp_rates: Annotated[tuple[Rate, ...], Few] | None = None
    last_block: Literal[4, 5, 6, 7] = 7
    bins: Annotated[tuple[Rate, ...], Few] = (1, 2, 3, 6)
    pooling: Literal["average", "max"] = "average"
    reduce_bins: bool = True
    kernel: Rate = 15
    msc: bool = False
    align_corners: bool = False
    dropout: Fraction = 0.1
    auxiliary: bool = True
    auxiliary_channels: Width | None = None
    weights: Annotated[str, Field(min_length=1)] = "none"
    options: dict[str, Number | float | bool | str | Annotated[list[Number], Few] | None] = {}


class TrainingSettings(Section):
    """The loop. Lengths are iterations, never wall-clock, so that a run can be repeated.

    crop: side of the training crop in pixels. learning_rate falls as lr·(1 − i/iterations)^power after `warmup`
    iterations of linear rise. adam_beta2: AdamW's memory of squared gradients; short runs want less than 0.999.
    auxiliary_weight: share of the auxiliary loss. dice_weight: share of the Dice loss (1 − F1 of the batch, mean over
    its classes) beside cross-entropy, in favour of the IoU. ema_decay: exponential moving average of the weights,
    validated and saved in their stead; 0 turns it off. gradient_clip: the largest norm of all gradients together,
    beyond which they are scaled down to it; 0 turns it off. class_weights: by class name, default 1; `median`: those by
    median frequency that `tile` found in the training chips.
    calibrate: for two classes, choose the decision threshold on the validation pixels; 0.5 stays, and a note says why,
    where these are fewer than 10,000 of a class or the network does not tell the classes apart.
    validate_on: `chips`: each chip whole, run once; `scenes`: the validation ground as `predict` maps it, in its tiles,
    blended: as dear as a prediction of that ground. monitor: what the best checkpoint has most of, at the threshold
    that ships: `miou`, `pixel_accuracy`, `mean_accuracy`, `frequency_weighted_iou`, `iou_CLASS`, `f1_CLASS`,
    `precision_CLASS`, `recall_CLASS`, or least of: `loss` (on chips only).
    patience: stop after so many validations in a row without a better one; None never stops early. The learning rate
    falls as it does over all `iterations`, so a run that stops early ends at a higher rate.
    freeze: `encoder` keeps the encoder's weights and batch norms as they came for the first freeze_iterations updates;
    0 is the whole run. It wants weights to start from.
    workers: processes that cut crops beside the network; "auto": as many as keep the device busy on the cores at hand.
    They change nothing in the results.
    """

    iterations: Count = 1000
    batch_size: Pixels = 8
    crop: Pixels = 256
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, le=1e3)] = 0.01
    momentum: Fraction = 0.9
    adam_beta2: Fraction = 0.999
    weight_decay: Annotated[float, Field(ge=0, le=1e3)] = 1e-4
    power: Annotated[float, Field(gt=0, le=100)] = 0.9
    warmup: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    auxiliary_weight: Weight = 0.4
    dice_weight: Weight = 0.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gradient_clip: Weight = 0.0
    class_weights: Literal["median"] | dict[str, Annotated[float, Field(gt=0, le=1e6)]] = {}
    validate_every: Count = 200
    validate_on: Literal["chips", "scenes"] = "chips"
    monitor: Annotated[str, Field(min_length=1)] = "miou"
    patience: Annotated[int, Field(gt=0, le=1_000_000_000)] | None = None
    calibrate: bool = False
    freeze: Literal["none", "encoder"] = "none"
    freeze_iterations: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    workers: Literal["auto"] | Annotated[int, Field(ge=0, le=1024)] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class AugmentationSettings(Section):
    """Changes of a training crop; validation sees none of them.

    flips: up-down and left-right, each by chance; "horizontal": left-right only, for photographs that have an up.
    scale: smallest and largest zoom, in between log-uniform. stay_inside: only zooms whose window fits into the chip,
    log-uniform from crop / chip (where `scale` begins below it) to the largest: a crop as large as its chip is never
    zoomed out, and nothing is padded but where even the largest zoom asks for more than there is. False, as in the
    papers' recipes: all of `scale`, and what lies beyond the image is padded with the training mean. brightness and
    contrast: largest change, in units of the training standard deviation, of all bands alike; band_noise: what each
    band adds to that on its own, as a part of it.
    """

    flips: Literal["horizontal"] | bool = True
    rot90: bool = True
    scale: tuple[Zoom, Zoom] = (0.5, 2.0)
    stay_inside: bool = True
    brightness: Annotated[float, Field(ge=0, le=100)] = 0.2
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.2
    band_noise: Annotated[float, Field(ge=0, le=100)] = 0.25


class SamplingSettings(Section):
    """Which training chips are taken how often; validation takes each once.

    repeat_threshold: a class that a smaller share of the training chips holds is rare, and chips that hold it come
    √(threshold / share) times as often as others (LVIS' repeat factor sampling); 0: every chip as often as any other.
    It raises no class's weight in the loss, see training.class_weights.
    """

    repeat_threshold: Fraction = 0.0


class PredictionSettings(Section):
    """How the trained model is tiled unless `predict` is told otherwise; None: derived from the network."""

    tile_size: Pixels = 512
    halo: Annotated[int, Field(ge=0, le=65_536)] | None = None
    overlap: Annotated[int, Field(ge=0, le=65_536)] | None = None
    batch_size: Pixels = 4


class Recipe(Section):
    """Hold everything that a training run needs to know besides where its data lie."""

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    sampling: SamplingSettings = SamplingSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    prediction: PredictionSettings = PredictionSettings()


DEFAULT = "default"
"""The shipped recipe for people who choose none."""
_NO_RECIPES = ("classes", "protocols", "published")
"""Folders of the shipped configs that hold other documents."""

Document = TypeVar("Document", bound=Section)


def recipe_names() -> tuple[str, ...]:
    """List the recipes that ship with the package, as `train --recipe` takes them."""
    root = resources.files("aerial_seg.configs")
    names = list(document_names(""))
    for entry in root.iterdir():
        if entry.is_dir() and not entry.name.startswith("_") and entry.name not in _NO_RECIPES:
            names += [f"{entry.name}/{name}" for name in document_names(entry.name)]
    return tuple(sorted(names))


def document_names(folder: str) -> tuple[str, ...]:
    """The TOML documents that ship in a folder of the configs, without their endings."""
    root = resources.files("aerial_seg.configs").joinpath(folder)
    names = [entry.name for entry in root.iterdir()] if root.is_dir() else []
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def shipped_text(folder: str, name: str) -> str:
    """The TOML text of the document `name` that ships in a folder of the configs."""
    root = resources.files("aerial_seg.configs").joinpath(folder)
    return root.joinpath(f"{name}.toml").read_text(encoding="utf-8")


def load_recipe(name: StrPath, changes: Changes = ()) -> Recipe:
    """Load the recipe called `name`: a TOML file if the name ends in .toml, else one that ships with the package.

    changes: what differs from it, as {"training.crop": 128} or ["training.crop=128"]; validated with the rest.
    Raises SettingsError for an unknown recipe, key or value, naming the nearest known one.
    """
    recipe = load_document(name, Recipe, what="recipe", known=recipe_names())
    return change_recipe(recipe, changes, name=as_name(name, "recipe"))


def change_recipe(recipe: Recipe, changes: Changes, *, name: str = "") -> Recipe:
    """Make the recipe that has these values instead of its own, validated anew. name: of the recipe, for messages.

    Raises SettingsError as load_recipe does.
    """
    read = read_changes(changes)
    if not read:
        return recipe
    known = {key: tuple(type(getattr(recipe, key)).model_fields) for key in Recipe.model_fields}
    what = " ".join(("recipe", *([name] if name else []), "with", ", ".join(one.key for one in read)))
    try:
        return Recipe.model_validate(apply_changes(recipe.model_dump(), read, known))
    except ValidationError as error:
        raise SettingsError(f"{what}: {_first_problem(error, Recipe)}") from error


def load_document(
    name: StrPath, kind: type[Document], *, what: str, known: Sequence[str], folder: str = ""
) -> Document:
    """The document called `name`: a TOML file if the name ends in .toml, else a shipped one, one of `known`.

    what: what messages call it. folder: where in the configs the shipped ones lie.
    Raises SettingsError for an unknown document, key or value, naming the nearest known one.
    """
    name = as_name(name, what)
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise SettingsError(f"{path} does not exist; shipped {what}s: {', '.join(known)}")
        with at_work(path):
            try:
                text = read_text(path)
            except DocumentError as error:
                raise SettingsError(f"{what} {name} cannot be read: {error}") from error
            return parse_document(text, kind, name, what=what)
    if name not in known:
        raise SettingsError(
            f"there is no {what} '{name}'{did_you_mean(name, known)}; shipped: {', '.join(known)}; "
            "or name a file that ends in .toml"
        )
    return parse_document(shipped_text(folder, name), kind, name, what=what)


def parse_recipe(text: str, name: str) -> Recipe:
    """The recipe in a TOML text; `name` is for messages."""
    return parse_document(text, Recipe, name, what="recipe")


def parse_document(text: str, kind: type[Document], name: str, *, what: str) -> Document:
    """The document in a TOML text; `name` and `what` are for messages."""
    try:
        return kind.model_validate(parse_toml(text))
    except DocumentError as error:
        raise SettingsError(f"{what} {name} cannot be read: {error}") from error
    except ValidationError as error:
        raise SettingsError(f"{what} {name}: {_first_problem(error, kind)}") from error


def _first_problem(error: ValidationError, kind: type[BaseModel]) -> str:
    problem = error.errors()[0]
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(problem["loc"], kind)
        place, hint = ".".join(map(str, problem["loc"])), did_you_mean(str(problem["loc"][-1]), known)
        return f"unknown key '{shortened(place)}'{hint}; known here: {', '.join(known)}"
    return problem_of(error) + ("; add it" if problem["type"] == "missing" else "")


def _keys_beside(place: tuple[Any, ...], kind: type[BaseModel]) -> list[str]:
    section = kind
    for key in place[:-1]:
        field = section.model_fields.get(str(key))
        if field is None:  # a list's index or a table's own key
            continue
        choices = (field.annotation, *get_args(field.annotation))  # a section, or one that may be None
        section = next(choice for choice in choices if _is_section(choice))
    return list(section.model_fields)


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
