"""How the values of a feature fall into bins, and how a population is spread over them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping

from pydantic import BaseModel, ConfigDict

from readmit_contracts.encounter import FEATURE_COLUMNS, Column, Kind
from readmit_features import icd9

Value = str | int | float | bool | None
ValueCounts = Mapping[Value, int]

#: What a category needs for a bin of its own: a share of the reference (five rows of a window of 500), and so many rows
#: that the share is known.
MIN_SHARE = 0.01
MIN_ROWS = 20
_QUANTILES = 10


class Distribution(BaseModel):
    """Bins and how many rows of a reference lie in each.

    Numbers: `edges` are upper ends, included; above the last one lies one more bin. Categories: one bin per value of
    `values`, then one for all others. In both, the last bin is for what is missing.
    """

    model_config = ConfigDict(frozen=True)

    edges: tuple[float, ...] | None = None
    values: tuple[str, ...] | None = None
    counts: tuple[int, ...]

    @property
    def rows(self) -> int:
        """How many rows it was made from."""
        return sum(self.counts)

    def tally(self, observed: ValueCounts) -> tuple[int, ...]:
        """Counts of other values in the same bins. What is no number where numbers are binned counts as missing."""
        index = _by_edge(self.edges) if self.edges is not None else _by_value(self.values or ())
        missing = (len(self.edges) if self.edges is not None else len(self.values or ())) + 1
        counts = [0] * (missing + 1)
        for value, count in observed.items():
            place = None if value is None else index(value)
            counts[missing if place is None else place] += count
        return tuple(counts)


def numeric(observed: ValueCounts) -> Distribution:
    """Bins between the deciles of the values; deciles that coincide make one bin."""
    known = sorted((float(value), count) for value, count in observed.items() if isinstance(value, int | float))
    total, below, edges = sum(count for _, count in known), 0, []
    for value, count in known[:-1]:  # above the largest value lies nothing to tell apart
        crossed = below * _QUANTILES // total < (below + count) * _QUANTILES // total
        below += count
        if crossed:
            edges.append(value)
    bins = Distribution(edges=tuple(edges), counts=())
    return bins.model_copy(update={"counts": bins.tally(observed)})


def categorical(observed: ValueCounts) -> Distribution:
    """One bin for each value that is common enough; rare and unseen ones share one."""
    least = max(MIN_ROWS, MIN_SHARE * sum(observed.values()))
    common = {str(value) for value, count in observed.items() if value is not None and count >= least}
    bins = Distribution(values=tuple(sorted(common)), counts=())
    return bins.model_copy(update={"counts": bins.tally(observed)})


def distribution(column: Column, observed: ValueCounts) -> Distribution:
    """The reference of a feature, from how often each of its clean values occurs."""
    return numeric(observed) if column.kind is Kind.COUNT else categorical(coded(column, observed))


def coded(column: Column, observed: ValueCounts) -> ValueCounts:
    """Values as they are binned: a diagnosis by its ICD-9 group, since single codes are mostly rare."""
    if column.kind is not Kind.DIAGNOSIS:
        return observed
    groups: dict[Value, int] = {}
    for value, count in observed.items():
        group = None if value is None else icd9.group(str(value))
        groups[group] = groups.get(group, 0) + count
    return groups


def features_of(event_features: Mapping[str, Value]) -> dict[str, Value]:
    """What of a prediction's values is watched: what a model may use."""
    return {column.key: event_features.get(column.key) for column in FEATURE_COLUMNS}


def _by_edge(edges: tuple[float, ...]) -> Callable[[Value], int | None]:
    return lambda value: bisect_left(edges, value) if isinstance(value, int | float) else None


def _by_value(values: tuple[str, ...]) -> Callable[[Value], int | None]:
    places = {value: place for place, value in enumerate(values)}
    return lambda value: places.get(str(value), len(values))
