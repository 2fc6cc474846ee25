"""In which order a training run takes its chips: every one once before any is used again, found without a list."""

from __future__ import annotations

from dataclasses import dataclass

from aerial_seg.errors import SettingsError
from aerial_seg.training.samples.numbers import key_of, mix, uniforms
from aerial_seg.training.samples.repeats import Repeats

_ROUNDS, _ROUNDS_OF_FEW = 8, 16
"""Luby and Rackoff prove 4 rounds good for large halves; all 120 orders of 5 chips were equally frequent from 16 on."""
_FEW_BITS = 10
_ORDER, _START = 1, 3
"""Keep the numbers of the order, and of where a turn of repeated chips starts, apart from others of the same seed."""


@dataclass(frozen=True, slots=True)
class ChipOrder:
    """Which of `chips` chips sample i of the run with this seed is cut from; a new order in each turn through them.

    A Feistel network over the bits of a chip's number, keyed by seed and turn, is a permutation of the numbers below a
    power of two; from a number that is no chip's it goes on until it meets one, in less than two steps on average.
    Source: Black and Rogaway 2002, Ciphers with Arbitrary Finite Domains, method 3 (cycle walking); Luby and Rackoff
    1988, How to Construct Pseudorandom Permutations. Time and memory are the same for 10 chips and for 10^9.
    repeats: which chips come more than once in a turn, which is longer then; None: each comes once.
    """

    chips: int
    seed: int
    repeats: Repeats | None = None

    def __post_init__(self) -> None:
        if self.chips < 1:
            raise SettingsError(f"there are {self.chips} chips to train on, wanted at least 1")
        if self.repeats is not None and len(self.repeats.ends) != self.chips:
            raise SettingsError(f"{len(self.repeats.ends)} chips are repeated, but there are {self.chips}")

    @property
    def turn(self) -> int:
        """Samples until every chip was taken."""
        return self.chips if self.repeats is None else self.repeats.turn

    def chip_of(self, index: int) -> int:
        """The number of the chip that sample `index` (from 0) is cut from."""
        turn, place = divmod(index, self.turn)
        key = key_of(self.seed, _ORDER, turn)
        bits = max(2, (self.turn - 1).bit_length())
        while True:
            place = _permuted(place, key, bits)
            if place < self.turn:
                break
        if self.repeats is None:
            return place
        return self.repeats.chip_at(place, uniforms(key_of(self.seed, _START, turn), 1)[0])


def _permuted(value: int, key: int, bits: int) -> int:
    low_bits = bits // 2
    low_mask, high_mask = (1 << low_bits) - 1, (1 << bits - low_bits) - 1
    low, high = value & low_mask, value >> low_bits
    for step in range(0, _ROUNDS_OF_FEW if bits < _FEW_BITS else _ROUNDS, 2):
        high ^= mix(key ^ (low << 4 | step)) & high_mask
        low ^= mix(key ^ (high << 4 | step + 1)) & low_mask
    return high << low_bits | low
