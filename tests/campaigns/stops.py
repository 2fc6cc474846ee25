"""Ask a run of training to end at many moments, and take chips away from it: the same command ends it all the same.

    python tests/campaigns/stops.py --times 12

In turn Ctrl-C, SIGTERM and SIGUSR1 to the whole group, as a terminal and a scheduler send them, with and without
loader workers; a chip deleted; a chip changed; a loss that is no number. Prints a table; ends with 1 where something
failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
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
    run,
    tree,
)

from aerial_seg.training.loss import SegmentationLoss

MOST = 30.0
"""Seconds that a scheduler gives."""
CASE = CASES["train"]
WITH_WORKERS = dataclasses.replace(
    CASE, arguments=tuple(part.replace("recipe.toml", "workers.toml") for part in CASE.arguments)
)


class Campaign:
    """Stops of one run, and what came of them."""

    def __init__(self, folder: Path) -> None:
        self.inputs, self.out = folder / "inputs", folder / "arena" / "out"
        self.inputs.mkdir(parents=True)
        self.out.parent.mkdir()
        forked(lambda: make_inputs(self.inputs))
        self.wanted = {case: self._calm(case) for case in (CASE, WITH_WORKERS)}
        self.counts: Counter[str] = Counter()
        self.slowest = 0.0
        self.problems: list[str] = []

    def _calm(self, case: Case) -> Tree:
        ended = run(case, self.inputs, fresh(self.out))
        if ended.code != 0:
            raise SystemExit(f"an uninterrupted run failed: {ended.said}")
        return tree(self.out)

    def ask(self, case: Case, number: signal.Signals, share: float) -> None:
        """Ask the run and its workers to end after so much of its updates."""
        asked = [0.0]

        def watch(pid: int) -> None:
            if self._wait(pid, share):
                asked[0] = time.monotonic()
                for one in (pid, *children(pid)):
                    os.kill(one, number)

        ended = run(case, self.inputs, fresh(self.out), watch=watch)
        seconds = time.monotonic() - asked[0]
        where = f"{number.name} at {share:.0%}"
        if ended.code == 0:
            self.counts["too late"] += 1
            return
        self.slowest = max(self.slowest, seconds)
        if seconds > MOST:
            self.problems.append(f"{where}: it took {seconds:.0f} s")
        self._check(where, ended, code=130, says="interrupted; the first")
        self._again(where, case)

    def spoil(self, share: float, *, deletes: bool, case: Case) -> None:
        """Delete a chip, or change it, after so much of the updates."""
        chip = min((self.inputs / "chips" / "images").glob("*.tif"))
        content, times = chip.read_bytes(), chip.stat()
        where = f"a chip {'deleted' if deletes else 'changed'} at {share:.0%}"

        def watch(pid: int) -> None:
            if self._wait(pid, share):
                chip.unlink() if deletes else chip.write_bytes(content + b"\0")

        ended = run(case, self.inputs, fresh(self.out), watch=watch)
        if ended.code == 0:
            self.counts["too late"] += 1
        else:
            self._check(where, ended, code=3, says=f"{chip.name} changed while it was read")
        chip.write_bytes(content)
        os.utime(chip, ns=(times.st_atime_ns, times.st_mtime_ns))
        if ended.code != 0:
            self._again(where, case)

    def break_loss(self, at: int) -> None:
        """Let the loss of one update be no number."""
        forward, calls = SegmentationLoss.forward, [0]

        def broken(self: SegmentationLoss, *given: torch.Tensor, **named: object) -> torch.Tensor:
            calls[0] += 1
            found = forward(self, *given, **named)
            return found * float("nan") if calls[0] == at else found

        SegmentationLoss.forward = broken
        try:
            ended = run(CASE, self.inputs, fresh(self.out))
        finally:
            SegmentationLoss.forward = forward
        self._check(f"NaN at {at}", ended, code=1, says=f"the loss became nan at iteration {at},")
        self._again(f"NaN at {at}", CASE)

    def _wait(self, pid: int, share: float) -> bool:
        """Until the log has so many rows, of 60; whether the run has not ended."""
        log = self.out / "run" / "log.csv"
        while not log.is_file() or log.read_bytes().count(b"\n") <= 1 + share * 60:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return False
            time.sleep(0.001)
        return True

    def _check(self, where: str, ended: Ended, *, code: int, says: str) -> None:
        """One line, this exit code, best and last that load."""
        lines = [line for line in ended.said.splitlines() if line.startswith(("Error", "Interrupted"))]
        self.counts["stopped"] += 1
        if ended.code != code or len(lines) != 1 or says not in lines[0] or "Traceback" in ended.said:
            self.problems.append(f"{where}: code {ended.code}, said {ended.said.strip()[-400:]}")
        if " iterations are kept in " not in ended.said:
            self.problems.append(f"{where}: nothing was kept: {ended.said.strip()[-300:]}")
        self.problems += [f"{where}: {line}" for line in damaged_models(self.out)]

    def _again(self, where: str, case: Case) -> None:
        ended = run(case, self.inputs, self.out)
        self.problems += [f"{where}: {line}" for line in other_than_calm(ended, self.out, self.wanted[case])]


def children(pid: int) -> list[int]:
    """The processes that this one has begun."""
    told = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in told.read_text().split()] if told.is_file() else []


def main() -> int:
    """The campaign of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=12)
    asked = parser.parse_args()
    chance = random.Random(11)
    with tempfile.TemporaryDirectory(prefix="stops-") as folder:
        campaign = Campaign(Path(folder))
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        deeds: list[Callable[[float], None]] = [
            *(
                lambda share, number=number, case=case: campaign.ask(case, number, share)
                for number in signals
                for case in (CASE, WITH_WORKERS)
            ),
            lambda share: campaign.spoil(share, deletes=True, case=CASE),
            lambda share: campaign.spoil(share, deletes=True, case=WITH_WORKERS),
            lambda share: campaign.spoil(share, deletes=False, case=CASE),
            lambda share: campaign.break_loss(11 + int(share * 45)),
        ]
        for number in range(asked.times):
            # After the first checkpoint, and before the last update.
            deeds[number % len(deeds)](chance.uniform(0.2, 0.9))
    print(f"{'times':>5}{'stopped':>9}{'too late':>10}{'slowest':>9}{'failed':>8}")
    counts = campaign.counts
    print(
        f"{asked.times:>5}{counts['stopped']:>9}{counts['too late']:>10}{campaign.slowest:>8.1f}s"
        f"{len(campaign.problems):>8}"
    )
    for problem in campaign.problems:
        print(problem)
    return 1 if campaign.problems or not counts["stopped"] else 0


if __name__ == "__main__":
    sys.exit(main())
