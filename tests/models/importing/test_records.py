"""Checkpoints with objects beside the weights are read, and no pickle runs anything: what it names is a Record."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aerial_seg.errors import InputError
from aerial_seg.models.importing.checkpoint import read_checkpoint
from aerial_seg.models.importing.records import Record, load_records, named_in, plain

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(4)}
sprung: list[object] = []
"""What has run; the traps below append to it when a pickle runs them."""


def spring(*facts: object) -> str:
    sprung.append(facts)
    return "run"


class Reduced:
    """Unpickling it calls what it was made with."""

    def __init__(self, call: Callable[..., object], *facts: object) -> None:
        self.call, self.facts = call, facts

    def __reduce__(self) -> tuple[object, ...]:
        return self.call, self.facts


class Restored:
    """Unpickling it runs its own __new__, __init__ and __setstate__."""

    def __new__(cls, *facts: object) -> Restored:
        sprung.append("new")
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        sprung.append(state)

    def __getstate__(self) -> object:
        return {"x": 1}


class Items(dict):
    """A mapping of a class of its own, as Lightning's AttributeDict."""

    def __setitem__(self, key: object, value: object) -> None:
        sprung.append(key)
        super().__setitem__(key, value)


class Sequence(list):
    """A list of a class of its own, whose append would run."""

    def append(self, value: object) -> None:
        sprung.append(value)

    def extend(self, values: object) -> None:
        sprung.append(values)


@pytest.fixture(autouse=True)
def nothing_sprung() -> Iterator[None]:
    sprung.clear()
    yield
    sprung.clear()


def saved(path: Path, held: object, *, legacy: bool = False) -> Path:
    torch.save(held, path, _use_new_zipfile_serialization=not legacy)
    sprung.clear()
    return path


@pytest.mark.parametrize("legacy", [False, True])
def test_what_trainings_write_beside_the_weights_is_no_obstacle(tmp_path: Path, legacy: bool) -> None:
    history = types.new_class("HistoryBuffer")
    history.__module__ = "module_of_a_training"
    module = types.ModuleType(history.__module__)
    module.HistoryBuffer = history  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        buffer = history()
        buffer.values = np.arange(3)
        buffer.methods = {"mean": getattr}
        held = {
            "state_dict": WEIGHTS,
            "message_hub": {"log_scalars": collections.OrderedDict(loss=buffer)},
            "args": argparse.Namespace(model="fcn_resnet50", lr=np.float64(0.02), epochs=30),
            "meta": {
                "iter": np.int64(80_000),
                "CLASSES": ("road", "roof"),
                "PALETTE": [[1, 2, 3], [4, 5, 6]],
            },
            "hyper_parameters": Items(lr=0.1),
            "callbacks": collections.defaultdict(list, best=[1]),
        }
        path = saved(tmp_path / "trained.pth", held, legacy=legacy)
    finally:
        del sys.modules[module.__name__]
    read = read_checkpoint(path)
    assert {name: tensor.tolist() for name, tensor in read.tensors.items()} == {
        name: tensor.tolist() for name, tensor in WEIGHTS.items()
    }
    assert sprung == []
    assert named_in(read.told["args"]) == {"model": "fcn_resnet50", "lr": 0.02, "epochs": 30}
    assert plain(read.told["meta"])["iter"] == 80_000  # type: ignore[index]
    assert named_in(read.told["hyper_parameters"]) == {"lr": 0.1}
    assert (read.classes, read.palette) == (("road", "roof"), ((1, 2, 3), (4, 5, 6)))
    (note,) = [note for note in read.notes if "kinds" in note]
    assert "argparse.Namespace" in note
    assert "no code of theirs ran" in note


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "trap",
    [
        Reduced(spring, 1),
        [Reduced(spring, Reduced(spring, 2))],
        {"nested": {"deeper": (Reduced(spring),)}},
        Restored(),
        collections.OrderedDict(hook=Reduced(spring)),
        Items({"key": 1}),
        argparse.Namespace(call=Reduced(spring, 1)),
    ],
    ids=["reduce", "reduce-in-reduce", "nested", "setstate", "ordered", "mapping", "namespace"],
)
def test_code_beside_the_weights_never_runs(tmp_path: Path, trap: object, legacy: bool) -> None:
    path = saved(tmp_path / "trap.pth", {"state_dict": WEIGHTS, "extra": trap}, legacy=legacy)
    assert list(read_checkpoint(path).tensors) == ["a", "b"]
    assert sprung == []
    torch.load(path, weights_only=False)
    assert sprung, "it would not have run at all"


def test_a_list_of_a_class_of_its_own_is_refused_and_not_appended_to(tmp_path: Path) -> None:
    path = saved(tmp_path / "trap.pth", {"state_dict": WEIGHTS, "extra": Sequence([1])})
    with pytest.raises(
        InputError, match=r"trap\.pth is no checkpoint of torch\.save or is damaged \(Can only append"
    ):
        read_checkpoint(path)
    assert sprung == []


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("call", "facts", "name"),
    [
        (os.system, ("touch {0}",), "system"),
        (eval, ("__import__('os').mkdir('{0}')",), "eval"),
        (exec, ("import os; os.mkdir('{0}')",), "exec"),
        (subprocess.check_output, (["mkdir", "{0}"],), "check_output"),
        (torch.hub.load, ("{0}", "model"), "torch.hub.load"),
    ],
)
def test_names_by_which_programs_run_are_refused(
    tmp_path: Path, call: Callable[..., object], facts: tuple[Any, ...], name: str, legacy: bool
) -> None:
    target = tmp_path / "sprung"
    filled = tuple(
        fact.format(target) if isinstance(fact, str) else [part.format(target) for part in fact]
        for fact in facts
    )
    trap = {"state_dict": WEIGHTS, "args": argparse.Namespace(deep=[Reduced(call, *filled)])}
    path = saved(tmp_path / "trap.pth", trap, legacy=legacy)
    with pytest.raises(
        InputError, match=rf"is refused: its pickle asks to run or build \S*{name}, wanted tensors only"
    ):
        read_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize("key", [None, "model", "ema_state_dict"])
def test_a_whole_network_is_refused_by_its_class(tmp_path: Path, key: str | None) -> None:
    network = torch.nn.Conv2d(1, 1, 1)
    torch.save(network if key is None else {key: network, "epoch": 1}, tmp_path / "whole.pt")
    with pytest.raises(
        InputError, match=r"build torch\.nn\.modules\.conv\.Conv2d, wanted.*state_dict\(\), FILE"
    ):
        read_checkpoint(tmp_path / "whole.pt")


def test_torchscript_is_told_and_its_remedy_works(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 1)), tmp_path / "program.pt")
    with pytest.raises(
        InputError, match=r"is a TorchScript program.*torch\.jit\.load\(FILE\)\.state_dict\(\)"
    ):
        read_checkpoint(tmp_path / "program.pt")
    torch.save(torch.jit.load(tmp_path / "program.pt").state_dict(), tmp_path / "weights.pt")
    assert sorted(read_checkpoint(tmp_path / "weights.pt").tensors) == ["bias", "weight"]


def test_a_record_keeps_what_it_is_given_and_forgets_none_for_others(tmp_path: Path) -> None:
    """torch's list of safe names is as it was, whatever came of the reading."""
    before = torch.serialization.get_safe_globals()
    path = saved(tmp_path / "held.pth", {"extra": Reduced(spring, 1, "two"), "state": Restored()})
    held, names = load_records(path)
    assert isinstance(held, dict)
    assert isinstance(held["extra"], Record)
    assert (held["extra"].name.rpartition(".")[2], held["extra"].given) == ("spring", (1, "two"))
    assert (held["state"].name.rpartition(".")[2], held["state"].state) == ("Restored", {"x": 1})
    assert sorted(name.rpartition(".")[2] for name in names) == ["Restored", "spring"]
    assert torch.serialization.get_safe_globals() == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("kind", ["f1", "b2", "b8", "O8", "V4"])
def test_a_number_of_a_type_that_numpy_has_not_stays_a_record(kind: str, tmp_path: Path) -> None:
    """A pickle may claim what it likes; only numbers are made Python's."""
    make, (dtype, _) = np.float64(1).__reduce__()[:2]
    number = Reduced(make, Reduced(type(dtype).__mro__[-2], kind), bytes(int(kind[1:])))
    path = saved(tmp_path / "held.pth", {"meta": {"CLASSES": number}, "state_dict": WEIGHTS})
    assert read_checkpoint(path).classes == ()
    held, _ = load_records(path)
    assert isinstance(held, dict)
    assert isinstance(plain(held["meta"]["CLASSES"]), Record)


def test_a_checkpoint_that_contains_itself_has_an_end(tmp_path: Path) -> None:
    circle: dict[str, object] = {"n": np.int64(1)}
    circle["again"] = circle
    path = saved(tmp_path / "circle.pth", {"state_dict": WEIGHTS, "meta": circle})
    meta = plain(read_checkpoint(path).told["meta"])
    assert isinstance(meta, dict)
    assert meta["n"] == 1


AVERAGE = {"n_averaged": torch.tensor(3), "module.a": torch.zeros(2, 3), "module.b": torch.tensor(5)}

SWAPPED = {"state_dict": WEIGHTS, "ema_state_dict": AVERAGE, "message_hub": {}}


@pytest.mark.parametrize(
    ("held", "ema", "b", "note"),
    [
        (
            {"model": WEIGHTS, "model_ema": AVERAGE},
            False,
            4,
            "model was taken, the weights as trained; `ema=True`",
        ),
        (
            {"model": WEIGHTS, "model_ema": AVERAGE},
            True,
            5,
            "model_ema was taken, the moving average; `ema=False`",
        ),
        (
            {"model_ema": AVERAGE},
            False,
            5,
            "the weights are the moving average, model_ema: there are no others",
        ),
        ({"model_ema": AVERAGE}, True, 5, "there are no others"),
        # mmengine swaps the two when it saves.
        (
            SWAPPED,
            None,
            4,
            "state_dict was taken, the moving average; `ema=False` takes ema_state_dict, the weights as",
        ),
        (SWAPPED, True, 4, "state_dict was taken, the moving average"),
        (SWAPPED, False, 5, "ema_state_dict was taken, the weights as trained; `ema=True` takes state_dict"),
    ],
)
def test_which_of_two_sets_of_weights_is_told(
    tmp_path: Path, held: dict[str, object], ema: bool | None, b: int, note: str
) -> None:
    torch.save(held, tmp_path / "held.pth")
    read = read_checkpoint(tmp_path / "held.pth", ema=ema)
    assert sorted(read.tensors) == ["a", "b"]
    assert int(read.tensors["b"]) == b
    assert note in read.notes[0]


def test_an_average_that_is_not_there_is_told(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS}, tmp_path / "held.pth")
    with pytest.raises(InputError, match=r"holds no moving average of its weights .*; leave `ema` out"):
        read_checkpoint(tmp_path / "held.pth", ema=True)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_what_wrappers_put_before_names_is_taken_off(tmp_path: Path, prefix: str) -> None:
    torch.save({prefix + name: tensor for name, tensor in WEIGHTS.items()}, tmp_path / "held.pth")
    read = read_checkpoint(tmp_path / "held.pth")
    assert sorted(read.tensors) == ["a", "b"]
    assert read.notes == ("'_orig_mod.' of torch.compile was taken out of 2 names",)


def test_compiled_parts_are_found_within_names(tmp_path: Path) -> None:
    torch.save({"backbone._orig_mod.a": torch.zeros(1), "head.b": torch.zeros(1)}, tmp_path / "held.pth")
    read = read_checkpoint(tmp_path / "held.pth")
    assert sorted(read.tensors) == ["backbone.a", "head.b"]
    assert read.notes == ("'_orig_mod.' of torch.compile was taken out of 1 names",)
