"""Kill a command at many moments: nothing half-made is readable, and the same command ends as if nothing had happened.

    python tests/campaigns/kills.py --command vectorize --kills 25

Two thirds of the kills are spread evenly over the processor's seconds of an uninterrupted run; the others wait until
the results are being placed. Every other run replaces an older result. Prints a table;
ends with 1 where something failed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Set
from contextlib import suppress
from pathlib import Path

from arena import (
    CASES,
    Case,
    Ended,
    Tree,
    damaged_models,
    forked,
    fresh,
    make_inputs,
    other_than_calm,
    results,
    run,
    tree,
)

Watch = Callable[[int], None]
_FINISHED = ("exist", "not empty", "is a finished run")
"""Words of what commands say of a result that is there."""


def after(seconds: float) -> Watch:
    """Kills when the process has used so many seconds of the processor."""

    def watch(pid: int) -> None:
        while _used(pid) < seconds:
            time.sleep(0.001)
            if _ended(pid):
                return
        os.kill(pid, signal.SIGKILL)

    return watch


def while_placing(out: Path, delay: float, *, nth: int) -> Watch:
    """Kills that long after the plan of the nth placing has come to lie on the disk."""

    def plans() -> set[tuple[str, int]]:
        found = (*out.glob("*.work/placing.json"), *out.glob("*/*.work/placing.json"))
        return {(str(plan), plan.stat().st_ino) for plan in found}

    return _behind(plans, delay, nth=nth)


def while_checkpointing(out: Path, delay: float, *, nth: int) -> Watch:
    """Kills that long after the nth checkpoint of a run of training has come to lie on the disk."""
    return _behind(lambda: {(out / "run" / "training.safetensors").stat().st_mtime_ns}, delay, nth=nth)


def _behind(look: Callable[[], Set[object]], delay: float, *, nth: int) -> Watch:
    """Kills that long after more than `nth` different things were seen."""

    def watch(pid: int) -> None:
        seen: set[object] = set()
        while not _ended(pid):
            # Work folders go while they are looked into.
            with suppress(FileNotFoundError):
                seen |= look()
            if len(seen) > nth:
                until = time.perf_counter() + delay
                while time.perf_counter() < until:
                    pass
                os.kill(pid, signal.SIGKILL)
                return

    return watch


def _used(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class Campaign:
    """Kills of one command, and what came of them."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.inputs, self.out = case, folder / "inputs", folder / "arena" / "out"
        self.inputs.mkdir(parents=True)
        self.out.parent.mkdir()
        forked(lambda: make_inputs(self.inputs))
        self.before = tree(self.inputs)
        self.wanted, self.length = self._calm()
        self.old = self._older() if case.older else {}
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []

    def _calm(self) -> tuple[Tree, float]:
        for _ in range(2):  # the first one also fills caches
            ended = run(self.case, self.inputs, fresh(self.out))
            _require_done(ended)
        return tree(self.out), ended.seconds

    def _older(self) -> Tree:
        _require_done(run(self.case, self.inputs, fresh(self.out), older=True))
        return tree(self.out)

    def kill(self, number: int, watch: Watch) -> None:
        """One run that is killed, and the same command again."""
        replaces = bool(self.old) and number % 2 == 1
        fresh(self.out)
        if replaces:
            _require_done(run(self.case, self.inputs, self.out, older=True))
        ended = run(self.case, self.inputs, self.out, overwrite=replaces, watch=watch)
        self.counts["killed" if ended.code is None else "too late"] += 1
        self._check_readable(number, self.old if replaces else {})
        whole = results(tree(self.out)) == self.wanted
        again = run(self.case, self.inputs, self.out, overwrite=replaces)
        if whole and again.code == 1 and any(words in again.said for words in _FINISHED):
            # It was killed behind its last deed, and the command says what it says of any finished result.
            self.counts["whole"] += 1
            again = run(self.case, self.inputs, self.out, overwrite=True)
        self.problems += [f"kill {number}: {line}" for line in other_than_calm(again, self.out, self.wanted)]
        if tree(self.inputs) != self.before:
            self.problems.append(f"kill {number}: the inputs were changed")

    def _check_readable(self, number: int, old: Tree) -> None:
        """Every file that bears a result's name is the old or the new one, whole."""
        found = results(tree(self.out))
        if self.case.in_place:
            self.problems += [f"kill {number}: {line}" for line in damaged_models(self.out)]
            self.counts["work kept"] += "run/training.safetensors" in found
            return
        ages = Counter()
        for name, content in found.items():
            if not content:
                continue
            if content == self.wanted.get(name) == old.get(name):
                continue
            age = "new" if content == self.wanted.get(name) else "old" if content == old.get(name) else "odd"
            ages[age] += 1
            # A demo's own parts are no results before its report is there.
            if age == "odd" and self.case.name != "demo":
                self.problems.append(f"kill {number}: {name} is neither the old nor the new one")
        if ages["old"] and ages["new"]:
            self.counts["of two ages"] += 1
        if any(Path(name).parts[0].endswith(".work") for name in tree(self.out)):
            self.counts["work kept"] += 1
        if old and not any(found.values()):
            self.problems.append(f"kill {number}: neither the old nor the new result is there")


def _require_done(ended: Ended) -> None:
    if ended.code != 0:
        raise SystemExit(f"an uninterrupted run failed: {ended.said}")


def main() -> int:
    """The campaign of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--command", choices=[*CASES], required=True)
    parser.add_argument("--kills", type=int, default=25)
    asked = parser.parse_args()
    chance = random.Random(7)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        campaign = Campaign(CASES[asked.command], Path(folder))
        late = asked.kills // 3
        for number in range(asked.kills - late):
            campaign.kill(number, after((number + 0.5) / (asked.kills - late) * campaign.length))
        for number in range(late):
            watch = (
                while_checkpointing(campaign.out, chance.uniform(0, 0.05), nth=number)
                if campaign.case.in_place
                else while_placing(campaign.out, chance.uniform(0, 0.002), nth=number % 2)
            )
            campaign.kill(asked.kills - late + number, watch)
    heads = (("length", 8), ("kills", 7), ("killed", 8), ("too late", 10), ("whole", 7), ("work kept", 11))
    print(
        "command".ljust(18) + "".join(head.rjust(n) for head, n in (*heads, ("two ages", 10), ("failed", 8)))
    )
    counts = campaign.counts
    print(
        f"{asked.command:<18}{campaign.length:>7.2f}s{asked.kills:>7}{counts['killed']:>8}{counts['too late']:>10}"
        f"{counts['whole']:>7}{counts['work kept']:>11}{counts['of two ages']:>10}{len(campaign.problems):>8}"
    )
    for problem in campaign.problems:
        print(problem)
    return 1 if campaign.problems or not counts["killed"] else 0


if __name__ == "__main__":
    sys.exit(main())
