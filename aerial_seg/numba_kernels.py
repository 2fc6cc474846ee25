"""Loops that numba compiles, and what becomes of its cache when the code changes or nothing can be written."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from hashlib import sha256
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Floats64 = NDArray[np.float64]
Ints = NDArray[np.int64]


@cache
def _sources(file: Path) -> str:
    """Numba does not notice when a function or constant from another file changes: this makes it part of a name.

    All files of the floor count, or of the folder where `file` lies outside the package.
    """
    package = Path(__file__).parent
    floor = file.relative_to(package).parts[0] if file.is_relative_to(package) else ""
    folder = package / floor if floor and floor != file.name else file.parent
    sources = folder.rglob("*.py") if floor else folder.glob("*.py")
    return sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()[:8]


def inner(function: Callable[P, R]) -> Callable[P, R]:
    """Compiled into the kernels that call it."""
    return cast(Callable[P, R], njit(nogil=True, forceinline=True)(function))


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compiled at the first call and kept in numba's cache, if one can be written; runs without the GIL.

    Float arithmetic is done as written (no fast-math), on one thread: the bits do not depend on the machine's cores.
    """
    return _kernel(function, error_model="python")


def dividing_kernel(function: Callable[P, R]) -> Callable[P, R]:
    """As `kernel`, but what is divided by 0 is infinite, as in numpy: to look for it costs six times the division."""
    return _kernel(function, error_model="numpy")


def _kernel(function: Callable[P, R], *, error_model: Literal["python", "numpy"]) -> Callable[P, R]:
    function.__qualname__ += f"_{_sources(Path(function.__code__.co_filename))}"
    try:
        compiled = cast(Callable[P, R], njit(nogil=True, cache=True, error_model=error_model)(function))
    except RuntimeError:  # numba finds no folder for its cache
        return cast(Callable[P, R], njit(nogil=True, error_model=error_model)(function))

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return compiled(*args, **kwargs)
        except OSError:  # the cache's disk is full; the function has been compiled by now
            return compiled(*args, **kwargs)

    return call
