"""What settings say of splits: a fraction of the chips, or the sources or groups whose name matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from aerial_seg.errors import SettingsError
from aerial_seg.mentions import setting


@dataclass(frozen=True, slots=True)
class Share:
    """Say what goes into one split: a fraction of the chips, or the sources (or groups) whose name matches a glob."""

    fraction: float = 0.0
    pattern: str | None = None


def parse_share(text: str, setting_name: str) -> Share:
    """Read `0.15` or `15%` as a fraction of the chips, anything else as a glob on source file names."""
    number = text.removesuffix("%")
    try:
        fraction = float(number) / (100 if text.endswith("%") else 1)
    except ValueError:
        return Share(pattern=text)
    if not 0 <= fraction < 1:
        raise SettingsError(
            f"{setting(setting_name)} {text} is not a fraction from 0 to below 1; try 0.15, or a glob on file names"
        )
    return Share(fraction=fraction)


def named_splits(
    names: Sequence[str],
    shares: Mapping[str, Share],
    *,
    what: str = "sources",
    meant: str = "file names",
    rest: bool = True,
) -> list[str | None]:
    """The split of each source or group by the globs alone; None where none matches.

    shares: of `val` and `test`, as far as they are wanted. what, meant: what has these names, for messages. rest:
    whether some must be left for training.
    Raises SettingsError for globs that match nothing, the same name or everything, and for fractions that leave
    nothing for training: all that can be said before any chip is cut.
    """
    splits: list[str | None] = [None] * len(names)
    for name, share in sorted(shares.items()):
        if share.pattern is None:
            continue
        matched = [i for i, one in enumerate(names) if fnmatchcase(one, share.pattern)]
        if not matched:
            raise SettingsError(
                f"{setting(name)} '{share.pattern}' matches none of the {len(set(names))} {what} "
                f"(first: {names[0]}); the glob is matched against {meant}"
            )
        for i in matched:
            if splits[i] is not None:
                raise SettingsError(
                    f"{setting('val')} '{shares['val'].pattern}' and {setting('test')} '{shares['test'].pattern}' both "
                    f"match {names[i]}; give each of the {what} to one of them"
                )
            splits[i] = name
    if rest and None not in splits:
        raise SettingsError(
            f"{setting('val')} and {setting('test')} match every one of the {what}; leave at least one for training"
        )
    if sum(share.fraction for share in shares.values()) >= 1:
        told = " and ".join(
            setting(name, share.fraction) for name, share in sorted(shares.items(), reverse=True)
        )
        raise SettingsError(f"{told} leave nothing for training; use fractions that sum to less than 1")
    return splits
