"""Parts of a network that training leaves as they are, for a while or to the end."""

from __future__ import annotations

from torch import nn

from aerial_seg.errors import SettingsError
from aerial_seg.mentions import setting
from aerial_seg.models.network import Network, encoder_of
from aerial_seg.recipe.batch_norm import BatchNormSettings
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.training import TrainingSettings
from aerial_seg.training.batch_norm.norms import batch_norm_notes, batch_norms
from aerial_seg.training.groups import group_notes


class Freezing:
    """Hold what a recipe freezes: its part for a while, statistics and affine of its batch norms to the end.

    No gradient reaches a frozen part, and its batch norms neither learn nor count. A function of the update's number
    alone, so that a resumed run holds what an uninterrupted one holds. The optimiser is made over all parameters; it
    skips those without a gradient, and begins their moments at their first one.
    """

    def __init__(
        self,
        network: Network,
        settings: TrainingSettings,
        norms: BatchNormSettings = BatchNormSettings(),  # noqa: B008 - frozen
    ) -> None:
        """network: with the batch norms that it is trained with. Raises SettingsError for what it cannot hold."""
        self._part: nn.Module | None = None
        if settings.freeze == "encoder":
            _, self._part = encoder_of(network)
        self._iterations = settings.iterations
        self._until = settings.freeze_iterations or settings.iterations
        self._of_norms = batch_norm_notes(network, norms)
        concerned = list(batch_norms(network, norms).values())
        self._counting = concerned if norms.statistics == "frozen" else []
        self._affine = [
            parameter
            for norm in (concerned if norms.affine == "frozen" else [])
            for parameter in norm.parameters(recurse=False)
        ]

    def before_update(self, number: int) -> None:
        """Update `number` (0 is the first) finds all of it held or free; the network is in training mode.

        Before each one: whatever puts the network into training mode puts every batch norm there too, and a part that
        is let go takes its batch norms along.
        """
        if self._part is not None:
            held = number < self._until
            self._part.requires_grad_(not held)
            self._part.train(not held)
        for norm in self._counting:
            norm.training = False  # alone: what timm's norms bring along goes on as in training
        for parameter in self._affine:
            parameter.requires_grad_(False)

    @property
    def held_to_the_end(self) -> tuple[nn.Parameter, ...]:
        """What is never learnt."""
        part = self._part if self._until >= self._iterations else None
        return (*self._affine, *(() if part is None else part.parameters()))

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell of it; nothing where nothing is frozen, nor said of batch norms."""
        if self._part is None:
            return self._of_norms
        count = sum(parameter.numel() for parameter in self._part.parameters())
        return (
            f"the encoder's {count} weights and its batch norms stay as they are for {self._until} iterations",
            *self._of_norms,
        )


def training_notes(network: Network, recipe: Recipe) -> tuple[str, ...]:
    """What is to tell of how the network will be trained: what stays as it came, what learns at a rate of its own.

    Raises SettingsError for settings that this network cannot be trained with.
    """
    held = Freezing(network, recipe.training, recipe.batch_norm)
    return (*held.notes, *group_notes(network, recipe.training))


def learnt_parameters(network: Network, recipe: Recipe) -> tuple[nn.Parameter, ...]:
    """The parameters that a whole run learns at some time: all but those that are frozen to its end."""
    held = {id(one) for one in Freezing(network, recipe.training, recipe.batch_norm).held_to_the_end}
    return tuple(one for one in network.parameters() if id(one) not in held)


def check_freezing(recipe: Recipe) -> None:
    """Raises SettingsError where nothing is there to be kept: the encoder is random."""
    training = recipe.training
    if training.freeze != "none" and recipe.model.weights == "none":
        raise SettingsError(
            f'training.freeze is "{training.freeze}", but the encoder begins at random, and would stay there; give '
            f'{setting("weights", "FILE")} or {setting("weights", "imagenet")}, or set training.freeze = "none"'
        )
