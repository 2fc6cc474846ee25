"""Numbers that look random and follow from a seed and a count alone: the same on every machine, in any order.

No generator is kept, so a worker, a rank or a resumed run draws those of sample i without those of the samples before.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


def mix(value: int) -> int:
    """A bijection of the whole numbers below 2^64 that leaves no pattern of its input.

    Source: Steele, Lea, Flood 2014, Fast Splittable Pseudorandom Number Generators, the output function of SplitMix64.
    """
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def key_of(*parts: int) -> int:
    """One number below 2^64 for these numbers, each at least 0 and below 2^64, and their order."""
    key = len(parts)
    for part in parts:
        key = mix(((key + _STEP) & _MASK) ^ part)
    return key


def uniforms(key: int, count: int) -> list[float]:
    """So many numbers, each uniform in [0, 1) with 53 bits: SplitMix64's stream from this key."""
    return [(mix((key + k * _STEP) & _MASK) >> 11) * 2.0**-53 for k in range(1, count + 1)]
