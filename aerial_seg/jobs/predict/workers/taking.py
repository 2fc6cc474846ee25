"""What comes home is looked at, written and recorded, each piece once."""

from __future__ import annotations

from aerial_seg.jobs.cluster.hand_out import Order
from aerial_seg.jobs.predict.pieces import PieceLedger, checked_record
from aerial_seg.jobs.predict.workers.outfit import Made, Parcel
from aerial_seg.progress import ProgressBar
from aerial_seg.stages import StageSeconds


class Taking:
    """Take the pieces of groups, as they come, into a map's ledger."""

    def __init__(self, ledger: PieceLedger, bar: ProgressBar) -> None:
        self._ledger, self._bar = ledger, bar
        self.stages = StageSeconds()

    def take(self, order: Order, made: Made) -> bool:
        """All pieces of the group are on the disk and recorded; False where one is damaged or missing.

        Those that came whole are kept even then; those that are there already are left as they are.
        """
        group = order.work
        with self.stages.at("writing"):
            for parcel in made.parcels:
                if not _fits(parcel, group.panel, group.rows):
                    return False
                panel, rows = parcel.record["panel"], range(*parcel.record["rows"])
                if self._ledger.has(panel, rows):
                    continue
                if not self._ledger.take(parcel.record, parcel.files):
                    return False
                self._bar.update()
        return not any(
            gap.start < group.rows.stop and group.rows.start < gap.stop
            for gap in self._ledger.gaps(group.panel)
        )


def _fits(parcel: Parcel, panel: int, rows: range) -> bool:
    """Whether the parcel is what was sent, and of these rows."""
    if not parcel.is_whole:
        return False
    try:
        start, stop = checked_record(parcel.record)["rows"]
    except (LookupError, TypeError, ValueError):
        return False
    return bool(parcel.record["panel"] == panel and rows.start <= start < stop <= rows.stop)
