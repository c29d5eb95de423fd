"""Good JSON with parts replaced by anything, for whoever has to answer whatever comes."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st


def json_values() -> st.SearchStrategy[Any]:
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    return st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3))


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where something can be replaced."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inside for place in places(one, (*path, key)))]


def replaced(value: Any, path: tuple[str | int, ...], by: Any) -> Any:
    if not path:
        return by
    copied = copy.copy(value)
    copied[path[0]] = replaced(value[path[0]], path[1:], by)
    return copied


ODD = st.sampled_from(
    [
        None, True, 0, -1, 1e15, 1e300, 2**70, "", " ", "\u0000", "9999-12-31", "0000-01-01", "2024-02-30", "x" * 5000,
        [], {}, [None], [[]], [{}], {"coding": [None]}, {"coding": {}}, {"reference": "#"}, {"reference": "/"},
        {"reference": 5}, {"value": 1e14, "code": "wk"}, {"start": "2200-12-31"}, {"start": "1800-01-01"},
        {"resourceType": "Bundle"}, {"resourceType": []},
    ]
)  # fmt: skip


@st.composite
def spoilt(draw: st.DrawFn, good: Any) -> Any:
    """A good body of which some parts have been replaced by anything."""
    body = good
    for _ in range(draw(st.integers(1, 4))):
        body = replaced(body, draw(st.sampled_from(places(body))), draw(ODD | json_values()))
    return body
