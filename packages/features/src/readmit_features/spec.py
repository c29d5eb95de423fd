"""The feature spec: which numbers stand for an encounter, and in what order. Data, never code.

The trainer fits it on training rows (`frame.fit_spec`); it travels inside the model bundle; `row.RowEncoder` and
`frame.encode_frame` are two readers of it that agree bit for bit. Every feature is exact in float32: whole numbers,
halves, ones and zeros, and log-odds that were rounded to float32.
"""

from __future__ import annotations

import hashlib
import json
from struct import pack, unpack
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, FiniteFloat, model_validator

from readmit_contracts.history import HISTORY_KEYS, INPUTS_BY_KEY

OTHER = "(other)"
MISSING = "(missing)"

Reading = Literal["value", "icd9_group"]

#: Kept for audit; a feature only where the trainer was told so.
AUDITED = "race"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NumericFeature(_Frozen):
    """One number: the column's value, the middle of its band (`[50-60)` is 55), or whether it is known (1, else 0).

    `fill` stands for missing. Numbers beyond `low` and `high` are read as these: what training hardly saw must not
    carry a linear model away.
    """

    column: str
    reading: Literal["number", "band_middle", "is_known"]
    fill: FiniteFloat
    low: FiniteFloat = -1e9
    high: FiniteFloat = 1e9

    @property
    def name(self) -> str:
        return f"{self.column}.is_known" if self.reading == "is_known" else self.column


class DifferenceFeature(_Frozen):
    """One number: `column` minus `subtracted`, kept within `low` and `high`; 0 where either is missing."""

    column: str
    subtracted: str
    low: FiniteFloat = -1e9
    high: FiniteFloat = 1e9

    @property
    def name(self) -> str:
        return f"{self.column}-{self.subtracted}"


class TallyFeature(_Frozen):
    """One number: how many of `columns` hold one of `values`."""

    name: str
    columns: tuple[str, ...]
    values: tuple[str, ...]


class CategoricalFeature(_Frozen):
    """One 0/1 number per value that training saw often enough, then one for any other value, one for missing."""

    column: str
    reading: Reading
    values: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        label = self.column if self.reading == "value" else f"{self.column}.{self.reading}"
        return tuple(f"{label}={value}" for value in (*self.values, OTHER, MISSING))


class TargetTable(_Frozen):
    """Log-odds of readmission by diagnosis code, each shrunk towards its category, and that towards its group.

    A code that is not in `codes` has the log-odds of its category, or of its group, or `other`.
    """

    codes: dict[str, FiniteFloat]
    categories: dict[str, FiniteFloat]
    groups: dict[str, FiniteFloat]
    other: FiniteFloat
    missing: FiniteFloat

    @model_validator(mode="after")
    def _is_exact_in_float32(self) -> Self:
        for value in (*self.codes.values(), *self.categories.values(), *self.groups.values(), self.other, self.missing):
            if unpack("f", pack("f", value))[0] != value:
                raise ValueError(f"{value!r} is not exact in float32")
        return self


class TargetFeature(_Frozen):
    """One number: what the table of that name says of the column's code."""

    column: str
    table: str

    @property
    def name(self) -> str:
        return f"{self.column}.log_odds" if self.table == self.column else f"{self.column}.log_odds_{self.table}"


class FeatureSpec(_Frozen):
    """The ordered features: numbers, differences, tallies, target encodings, then blocks of the categorical ones."""

    numeric: tuple[NumericFeature, ...]
    differences: tuple[DifferenceFeature, ...] = ()
    tallies: tuple[TallyFeature, ...]
    targets: tuple[TargetFeature, ...] = ()
    categorical: tuple[CategoricalFeature, ...]
    tables: dict[str, TargetTable] = {}

    @model_validator(mode="after")
    def _reads_only_features(self) -> Self:
        for column in self.columns:
            known = INPUTS_BY_KEY.get(column)
            if known is None or not (known.is_feature or column == AUDITED):
                raise ValueError(f"{column} is not a feature of the encounter schema")
        for target in self.targets:
            if target.table not in self.tables:
                raise ValueError(f"{target.name} reads the table {target.table}, which is not there")
        return self

    @property
    def columns(self) -> frozenset[str]:
        """Keys of all columns that are read."""
        return frozenset(
            [
                *(feature.column for feature in self.numeric),
                *(column for feature in self.differences for column in (feature.column, feature.subtracted)),
                *(column for feature in self.tallies for column in feature.columns),
                *(feature.column for feature in self.targets),
                *(feature.column for feature in self.categorical),
            ]
        )

    @property
    def reads_history(self) -> bool:
        """Whether the patient's earlier encounters matter."""
        return not self.columns.isdisjoint(HISTORY_KEYS)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every encoded number, in order."""
        return (
            *(feature.name for feature in self.numeric),
            *(feature.name for feature in self.differences),
            *(feature.name for feature in self.tallies),
            *(feature.name for feature in self.targets),
            *(name for feature in self.categorical for name in feature.names),
        )

    def sha256(self) -> str:
        """Digest of the canonical JSON form."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def band_middle(band: str) -> float:
    """Middle of an age band: `[50-60)` is 55.0."""
    low, _, high = band.strip("[)").partition("-")
    return (int(low) + int(high)) / 2
