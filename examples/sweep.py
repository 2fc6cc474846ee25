"""Search for the learning rate, weight decay and share of the Dice loss that suit your data, with Optuna.

    python -m pip install optuna
    python sweep.py chips unet sweep 20

`chips` is a dataset that `aerial-seg tile` made, `unet` the recipe to begin from, `sweep` a folder for one run per
trial, 20 the number of trials. Trials that fall behind are stopped early. The same command goes on with the sweep;
trials that were finished are kept. In the end, train the best settings again, with other seeds, before you believe
them: the best of many trials is partly the luckiest.
"""

from __future__ import annotations

import sys
from pathlib import Path

import optuna

import aerial_seg

NAME = "sweep"


class Prune(aerial_seg.Callback):
    """Tells Optuna the score of every validation, and stops a trial that is worse than most were by then."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def on_validation(self, checkpoint: aerial_seg.Checkpoint) -> None:
        """Stop the run by an exception if it falls behind; what it has written stays."""
        if checkpoint.scores is None:
            raise SystemExit("the dataset has no validation chips, so no trial is better than another")
        self._trial.report(checkpoint.scores.miou, checkpoint.iteration)
        if self._trial.should_prune():
            raise optuna.TrialPruned(f"mIoU {checkpoint.scores.miou:.3f} at iteration {checkpoint.iteration}")


def suggest(trial: optuna.Trial, recipe: aerial_seg.Recipe) -> aerial_seg.Recipe:
    """The recipe with this trial's settings; add your own here."""
    changes = {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True),
        "dice_weight": trial.suggest_categorical("dice_weight", [0.0, 0.5, 1.0]),
    }
    # Made anew, because a copy would not be validated.
    return type(recipe)(**{**recipe.model_dump(), "training": {**recipe.training.model_dump(), **changes}})


def sweep(dataset: Path, recipe: str, work: Path, trials: int) -> optuna.Study:
    """The study after so many trials, those of an earlier call among them; each run lies in work/trial-NUMBER."""
    beginning = aerial_seg.load_recipe(recipe)
    work.mkdir(parents=True, exist_ok=True)

    def objective(trial: optuna.Trial) -> float:
        run = work / f"trial-{trial.number:04}"
        report = aerial_seg.train(dataset, suggest(trial, beginning), run, callbacks=[Prune(trial)])
        assert report.scores is not None
        return report.scores.miou

    study = optuna.create_study(
        study_name=NAME,
        direction="maximize",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(work / "sweep.log"))
        ),
        # The first trials are never stopped.
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
        load_if_exists=True,
    )
    # Seeded, so that a sweep can be repeated, but a sweep that goes on does not draw the same numbers again.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    study.optimize(objective, n_trials=max(0, trials - len(study.get_trials(states=done))))
    return study


if __name__ == "__main__":
    study = sweep(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    print(f"best: trial {study.best_trial.number}, mIoU {study.best_value:.4f}")
    for name, value in study.best_params.items():
        print(f"  training.{name} = {value}")
