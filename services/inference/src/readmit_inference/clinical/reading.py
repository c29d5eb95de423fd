"""What has been read of a record so far: values by column, and where each stood."""

from __future__ import annotations

from datetime import date

from readmit_inference.clinical.elements import Element
from readmit_inference.clinical.record import Record


class Reading:
    """Values by the name of the column. What is set first stays: the Encounter's extensions go before all else."""

    def __init__(self, record: Record, today: date) -> None:
        """`today` ends a stay whose period has no end."""
        self.record = record
        self.findings = record.findings
        self.start = record.start
        self.end = record.end or today
        self.values: dict[str, object] = {}
        self.places: dict[str, str] = {}
        self.basis: list[Element] = []

    def set(self, column: str, value: object, place: str) -> None:
        """Keep a value that was read at a FHIRPath, unless it is None or the column has one."""
        if value is not None and column not in self.values:
            self.values[column] = value
            self.places[column] = place
