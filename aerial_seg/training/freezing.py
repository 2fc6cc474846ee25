"""Parts of a network that training leaves as they are, for a while or to the end."""

from __future__ import annotations

from torch import nn

from aerial_seg.errors import SettingsError
from aerial_seg.mentions import setting
from aerial_seg.models.network import Network, encoder_of
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.training import TrainingSettings


class Freezing:
    """Hold a recipe's frozen part: no gradient reaches it, and its batch norms neither learn nor count.

    A function of the update's number alone, so that a resumed run holds what an uninterrupted one holds. The optimiser
    is made over all parameters; it skips those without a gradient, and begins their moments at their first one.
    """

    def __init__(self, network: Network, settings: TrainingSettings) -> None:
        self._part: nn.Module | None = None
        if settings.freeze == "encoder":
            _, self._part = encoder_of(network)
        self._until = settings.freeze_iterations or settings.iterations

    def before_update(self, number: int) -> None:
        """Update `number` (0 is the first) finds the part held or free; to be called with the network in training mode.

        Before each one: whatever puts the network into training mode puts the part's batch norms there too.
        """
        if self._part is None:
            return
        held = number < self._until
        self._part.requires_grad_(not held)
        self._part.train(not held)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell of it; nothing where nothing is frozen."""
        if self._part is None:
            return ()
        count = sum(parameter.numel() for parameter in self._part.parameters())
        return (
            f"the encoder's {count} weights and its batch norms stay as they are for {self._until} iterations",
        )


def check_freezing(recipe: Recipe) -> None:
    """Raises SettingsError where nothing is there to be kept: a random encoder, or a length without a part."""
    training = recipe.training
    if training.freeze_iterations and training.freeze == "none":
        raise SettingsError(
            f"training.freeze_iterations is {training.freeze_iterations}, but nothing is frozen; set "
            'training.freeze = "encoder", or leave freeze_iterations out'
        )
    if training.freeze != "none" and recipe.model.weights == "none":
        raise SettingsError(
            f'training.freeze is "{training.freeze}", but the encoder begins at random, and would stay there; give '
            f'{setting("weights", "FILE")} or {setting("weights", "imagenet")}, or set training.freeze = "none"'
        )
