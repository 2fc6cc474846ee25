"""Fill the disk in the middle of a command: it says so in one line, nothing half-made is readable, and it goes on.

    python tests/campaigns/full_disk.py --command tile --times 4

Every run writes to a small tmpfs, which needs root, of which a part of what an uninterrupted run takes is free; with
--meanwhile the room goes while the command works, as predict, which foretells what it will need, needs it. Prints a
table; ends with 1 where something failed, and with 77 where nothing can be mounted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from arena import CASES, Case, damaged_models, forked, fresh, make_inputs, results, run, tree

SKIPPED = 77
_ROOM = 2_000_000_000


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A tmpfs at `folder`. Raises PermissionError where nothing may be mounted."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={_ROOM}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        raise PermissionError(mounted.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def resize(folder: Path, size: int) -> None:
    """The tmpfs holds so many bytes in all from now on."""
    subprocess.run(["mount", "-o", f"remount,size={max(size, 4096)}", str(folder)], check=True)


def used(folder: Path) -> int:
    """Bytes that lie on the tmpfs."""
    facts = os.statvfs(folder)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize


class Campaign:
    """Full disks under one command, and what came of them."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.inputs, self.disk = case, folder / "inputs", folder / "disk"
        self.out = self.disk / "out"
        self.inputs.mkdir()
        forked(lambda: make_inputs(self.inputs))
        self.problems: list[str] = []
        self.late = 0
        self.said: list[str] = []

    def calm(self) -> None:
        """What an uninterrupted run makes, and the most that it takes meanwhile."""
        for _ in range(2):
            peak, done = [0], threading.Event()

            def watch(pid: int, peak: list[int] = peak, done: threading.Event = done) -> None:
                while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    peak[0] = max(peak[0], used(self.disk))
                    done.wait(0.001)

            ended = run(self.case, self.inputs, fresh(self.out), watch=watch)
            if ended.code != 0:
                raise SystemExit(f"an uninterrupted run failed: {ended.said}")
        self.wanted, self.peak = tree(self.out), peak[0]

    def fill(self, share: float, *, meanwhile: bool = False) -> None:
        """A run for which only this share of what it needs is there, and the same command with room again.

        meanwhile: there is room until it has used so much.
        """
        fresh(self.out)
        size = int(self.peak * share)
        if not meanwhile:
            resize(self.disk, size)

        def watch(pid: int) -> None:
            while used(self.disk) < size:
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                    return
                time.sleep(0.0005)
            while True:
                # It may have grown since it was looked at: the system takes no size below what is used.
                with suppress(subprocess.CalledProcessError):
                    resize(self.disk, used(self.disk))
                    return

        ended = run(self.case, self.inputs, self.out, watch=watch if meanwhile else None)
        lines = [line for line in ended.said.splitlines() if line.startswith("Error")]
        self.said += lines
        where = f"{share:.0%} of the room{', then no more' if meanwhile else ''}"
        if meanwhile and ended.code == 0:
            self.late += 1
            resize(self.disk, _ROOM)
            return
        if ended.code not in (1, 3) or len(lines) != 1 or "Traceback" in ended.said:
            self.problems.append(f"{where}: code {ended.code}, said {ended.said.strip()[-600:]}")
        elif "no space left on the disk of" not in lines[0] and " free, wanted up to " not in lines[0]:
            self.problems.append(f"{where}: told as something else: {lines[0]}")
        if self.case.in_place:
            self.problems += [f"{where}: {line}" for line in damaged_models(self.out)]
        for name, content in ({} if self.case.in_place else results(tree(self.out))).items():
            if content and self.case.name != "demo" and content != self.wanted.get(name):
                self.problems.append(f"{where}: {name} is there and is not whole")
        resize(self.disk, _ROOM)
        again = run(self.case, self.inputs, self.out)
        if again.code != 0:
            self.problems.append(
                f"{where}: with room again, the same command said {again.said.strip()[-300:]}"
            )
        elif (now := tree(self.out)) != self.wanted:
            odd = sorted(name for name in {*now, *self.wanted} if now.get(name) != self.wanted.get(name))
            self.problems.append(f"{where}: other than an uninterrupted run in {', '.join(odd[:5])}")


def main() -> int:
    """The campaign of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--command", choices=[*CASES], required=True)
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument(
        "--meanwhile", action="store_true", help="the room goes while the command works, not before"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="full-") as folder:
        campaign = Campaign(CASES[asked.command], Path(folder))
        try:
            with small_disk(campaign.disk):
                campaign.calm()
                for number in range(asked.times):
                    campaign.fill((number + 0.5) / asked.times, meanwhile=asked.meanwhile)
        except PermissionError as error:
            print(f"SKIPPED: no tmpfs can be mounted here ({error}); run as root")
            return SKIPPED
    print(f"{'command':<18}{'needs':>10}{'times':>7}{'too late':>10}{'failed':>8}")
    print(
        f"{asked.command:<18}{campaign.peak / 1e6:>7.1f} MB{asked.times:>7}{campaign.late:>10}"
        f"{len(campaign.problems):>8}"
    )
    for line in dict.fromkeys(campaign.said):
        print("  " + line)
    for problem in campaign.problems:
        print(problem)
    return 1 if campaign.problems else 0


if __name__ == "__main__":
    sys.exit(main())
