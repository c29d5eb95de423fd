"""The feature spec: which numbers stand for an encounter, and in what order. Data, never code.

The trainer fits it on training rows (`frame.fit_spec`); it travels inside the model bundle; `row.RowEncoder` and
`frame.encode_frame` are two readers of it that agree bit for bit. Every feature is exact in float32: whole numbers,
halves, ones and zeros.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, FiniteFloat, model_validator

from readmit_contracts.encounter import BY_KEY

OTHER = "(other)"
MISSING = "(missing)"

Reading = Literal["value", "icd9_group", "icd9_category"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NumericFeature(_Frozen):
    """One number: the column's value, or the middle of its band (`[50-60)` is 55). `fill` stands for missing."""

    column: str
    reading: Literal["number", "band_middle"]
    fill: FiniteFloat


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


class FeatureSpec(_Frozen):
    """The ordered features: numbers first, then tallies, then the blocks of the categorical ones."""

    numeric: tuple[NumericFeature, ...]
    tallies: tuple[TallyFeature, ...]
    categorical: tuple[CategoricalFeature, ...]

    @model_validator(mode="after")
    def _reads_only_features(self) -> Self:
        columns = [f.column for f in self.numeric] + [f.column for f in self.categorical]
        for column in {*columns, *(column for tally in self.tallies for column in tally.columns)}:
            if column not in BY_KEY or not BY_KEY[column].is_feature:
                raise ValueError(f"{column} is not a feature of the encounter schema")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every encoded number, in order."""
        heads = [f.column for f in self.numeric] + [f.name for f in self.tallies]
        return (*heads, *(name for feature in self.categorical for name in feature.names))

    def sha256(self) -> str:
        """Digest of the canonical JSON form."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def band_middle(band: str) -> float:
    """Middle of an age band: `[50-60)` is 55.0."""
    low, _, high = band.strip("[)").partition("-")
    return (int(low) + int(high)) / 2
