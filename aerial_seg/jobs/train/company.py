"""A run in several processes: what each is told, and what those do that do not write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from aerial_seg.errors import SettingsError
from aerial_seg.jobs.train.data import open_dataset
from aerial_seg.jobs.train.run_folder import Run
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.mentions import setting
from aerial_seg.models.build import build_network
from aerial_seg.models.device import check_devices, has_own_memory, pick_training_precision, to_device
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import Recipe
from aerial_seg.training.companions import companions, started_by_others
from aerial_seg.training.fabric import Computing, check_shares, hear, open_fabric
from aerial_seg.training.loop import run_training
from aerial_seg.training.processes import told_count
from aerial_seg.training.state import NothingKept, Packed, TrainingState


@dataclass(frozen=True, slots=True)
class Plan:
    """Say what computes a run, before it does. precision: fp32, bf16 or fp16. notes: what is to say of it."""

    device: torch.device
    precision: str
    processes: int
    accumulate: int
    compiled: bool
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: TrainSettings, recipe: Recipe, device: torch.device, before: Run | None) -> Plan:
        """The plan for these settings; precision auto goes on as the run began.

        Raises SettingsError for what the machine cannot do, and for a batch that cannot be shared equally.
        """
        world = told_count() if started_by_others() else settings.processes
        if settings.processes not in (1, world):
            raise SettingsError(
                f"torchrun started {world} processes, but {setting('processes', settings.processes)} is asked for; "
                "leave it out"
            )
        if settings.overfit is not None and world > 1:
            raise SettingsError(
                f"{setting('overfit')} looks at a few chips in one process, but torchrun started {world}; start it "
                "without torchrun"
            )
        check_devices(device, settings.processes)
        for one in recipe.by_stage():
            check_shares(one.training.batch_size, processes=world, accumulate=settings.accumulate)
        wanted: str = settings.precision
        if wanted == "auto" and before is not None:
            wanted = str(before.document.get("precision") or "fp32")
        precision, notes = pick_training_precision(wanted, device)
        return cls(device, precision, world, settings.accumulate, settings.compile == "on", notes)

    def facts(self) -> dict[str, object]:
        """What run.json tells of it."""
        return {"precision": self.precision, "processes": self.processes, "accumulate": self.accumulate}

    def alone(self) -> Computing:
        """What computes as much in this process without the others, to be timed."""
        return Computing(open_fabric(self.device, self.precision, alone=True), self.accumulate, self.compiled)

    def timed(self, recipe: Recipe) -> Recipe:
        """The recipe whose updates take one process alone as long as that of all: on GPUs each has its own share."""
        if not has_own_memory(self.device):
            return recipe
        share = {"batch_size": recipe.training.batch_size // self.processes}
        return recipe.model_copy(update={"training": recipe.training.model_copy(update=share)})

    def computing(self) -> Computing:
        """What computes the run in this process, which has met the others."""
        return Computing(open_fabric(self.device, self.precision), self.accumulate, self.compiled)


@contextmanager
def in_company(
    plan: Plan, state: TrainingState, recipe: Recipe, given: tuple[Path, Network | None]
) -> Iterator[Computing]:
    """Inside, the other processes train along: by this recipe, from where this process's state stands.

    given: the dataset that they open, and a network of one's own. Only this process knows which stage it is, and how
    many iterations it has: it timed them, or read them in the run's folder.
    """
    count = 1 if started_by_others() else plan.processes
    with companions(count, train_along, plan, *given):
        computing = plan.computing()
        if plan.processes > 1:
            hear(computing.fabric, (recipe, state.packed()))
        yield computing


def train_along(plan: Plan, dataset: Path, own: Network | None = None) -> Computing:
    """Train as one of several processes: the first one, which writes, says what, from where and how long."""
    computing = plan.computing()
    told: tuple[Recipe, Packed] = hear(computing.fabric, None)
    recipe, packed = told
    opened = open_dataset(dataset, recipe)
    network = own
    if network is None:
        settings = recipe.model.model_copy(update={"weights": "none"})
        network = build_network(settings, bands=len(opened.bands), classes=len(opened.legend))
    to_device(network, computing.device)
    state = TrainingState.begin(network, recipe)
    state.unpack(packed)
    run_training(state, opened.data, recipe, computing=computing, keeper=NothingKept())
    return computing
