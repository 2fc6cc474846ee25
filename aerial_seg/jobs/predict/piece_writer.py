"""Finished pieces go to the disk behind the work that makes the next ones."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Piece = TypeVar("Piece")


class PieceWriter(Generic[Piece]):
    """Keep pieces one after the other, in a thread of its own; while one is kept the next is made.

    So at most one waits, and their order is that in which they were put. What goes wrong with one is raised, as it was,
    where the next is put or the block ends. Use as a context manager: when it is left, by an error too, nothing is
    written any more; the piece that was being kept then is kept or not, as a whole.
    """

    def __init__(self, keep: Callable[[Piece], None]) -> None:
        """keep: called with every piece, by one thread; the piece is safe when it returns."""
        self._keep = keep
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="write")
        self._writing: Future[None] | None = None

    def __enter__(self) -> PieceWriter[Piece]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.settle()
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def put(self, piece: Piece) -> None:
        """The pieces before this one are kept, and this one will be. Raises what keeping the last one raised."""
        self.settle()
        self._writing = self._thread.submit(self._keep, piece)

    def settle(self) -> None:
        """All pieces are kept. Raises what keeping the last one raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
