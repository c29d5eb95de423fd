"""Parcels that can be looked into."""

from __future__ import annotations

from collections.abc import Sequence

from readmit_inference.batch_publisher import Parcel
from readmit_inference.prediction_event import Record


class Remembered(Parcel):
    """Keeps what it packs, too."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        super().__init__()

    def add(self, record: Record) -> bool:
        is_packed = super().add(record)
        if is_packed:
            self.records.append(record)
        return is_packed


def records_in(parcels: Sequence[Parcel]) -> list[Record]:
    """In their order."""
    return [record for parcel in parcels if isinstance(parcel, Remembered) for record in parcel.records]
