"""What `tile` cut, as a torch Dataset for anybody's training loop."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Literal, get_args

from torch import Tensor
from torch.utils.data import Dataset

from aerial_seg.bands import Band
from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.legend import Legend
from aerial_seg.paths import as_path
from aerial_seg.recipe.crops import AugmentationSettings, SamplingSettings
from aerial_seg.training.crops import ChipReader, ChipStore, CropDataset, Sample
from aerial_seg.training.manifest import open_manifest
from aerial_seg.training.samples.repeats import counted_pixels, repeats_of

Split = Literal["train", "val", "test"]


class ChipDataset(Dataset[Sample]):
    """Give the chips of one split, whole and unchanged, in the order of the index; for torch's DataLoader.

    Item i is (image (C,H,W) float32, labels (H,W) int64). Images are in units of the training split's standard
    deviation, unmeasured pixels 0; labels are channels of the legend, 255 = unlabelled or unmeasured (the ignore_index
    of torch's losses). Every item is read from disk when it is asked for; workers of any start method get their own
    copy, of a few kilobytes.
    """

    def __init__(
        self,
        root: str | PathLike[str],
        split: Split = "train",
        *,
        transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        """root: the folder that `tile` wrote. transform: changes (image, labels) of every item, called in the worker.

        Raises InputError for a folder that is no chip dataset, or has no chip of that split; SettingsError for another
        split.
        """
        known = get_args(Split)
        if split not in known:
            raise SettingsError(
                f"split is '{split}', wanted one of {', '.join(known)}{did_you_mean(str(split), known)}"
            )
        self._root = as_path(root, "root")
        manifest = open_manifest(self._root)
        chips = manifest.split(split)
        if not chips:
            there = ", ".join(name for name in known if manifest.split(name))
            raise InputError(
                f"{root} has no chip of the split '{split}', only of {there}; choose one of these"
            )
        document = manifest.document
        self.names = tuple(chip.name for chip in chips)
        self.gsd = document.gsd
        self._reader = ChipReader(chips, document.bands, document.legend)
        self._transform = transform

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> Sample:
        """image (C,H,W) float32 and labels (H,W) int64 of chip `index`. Raises IndexError beyond the last."""
        image, labels = self._reader[index]
        sample = image, labels.long()
        return sample if self._transform is None else self._transform(*sample)

    @property
    def bands(self) -> tuple[Band, ...]:
        """The images' bands, with the statistics that they are normalised by."""
        return self._reader.bands

    @property
    def legend(self) -> Legend:
        """The classes; entry k is label k."""
        return self._reader.legend

    def crops(
        self,
        crop: int | tuple[int, int],
        *,
        length: int,
        augmentation: AugmentationSettings | None = None,
        seed: int = 0,
        keep: int | None = None,
        repeat_threshold: float = 0.0,
    ) -> CropDataset:
        """A Dataset of `length` random crops of these chips, changed as `train` changes its own.

        Item i depends on the seed and i alone, not on workers or batches. crop: side of a square in pixels, or (height,
        width). augmentation: None = the default of recipes, which turns crops by quarters and so wants squares.
        keep: bytes of decoded chips that are held in memory, once for all workers; None = a quarter of what is free.
        repeat_threshold: chips that hold a class which a smaller share of them holds come more often, as in recipes.
        `transform` has no part in it. Raises InputError where the index does not count classes.
        """
        sides = tuple(crop) if isinstance(crop, tuple | list) else (crop, crop)
        if len(sides) != 2 or min(sides) < 1 or length < 1:
            raise SettingsError(
                f"crop is {crop} and length {length}, wanted a side or (height, width) of at least 1 pixel, and at "
                "least 1 crop"
            )
        if not 0 <= repeat_threshold <= 1:
            raise SettingsError(
                f"repeat_threshold is {repeat_threshold}, wanted a share of the chips from 0 to 1"
            )
        repeats = None
        if repeat_threshold:
            sampling = SamplingSettings(repeat_threshold=repeat_threshold)
            pixels = counted_pixels([chip.pixels for chip in self._reader.chips], sampling, self._root)
            repeats = repeats_of(sampling, self.legend.names, pixels)
        return CropDataset(
            ChipStore(self._reader, budget=keep),
            length=length,
            crop=sides,
            augmentation=augmentation or AugmentationSettings(),
            seed=seed,
            repeats=repeats,
        )
