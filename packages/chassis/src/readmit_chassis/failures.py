"""The four kinds of failure. A handler raises one of the first two; everything else stops the process.

- `BadMessage`: it can never work. Kept in the dead-letter topic with the reason, then committed.
- `Transient`: it may work in a moment. Retried in place with growing, jittered pauses, then the process stops.
  `Refused` is one of its kind: everything is there, and this one event is not wanted.
- overload is not an exception: consumers are bounded and simply poll later.
- any other exception is a bug or a broken machine: the process stops with nothing committed.
"""

from __future__ import annotations


class BadMessage(Exception):  # noqa: N818  named for what it is, not for being an error
    """This message can never be handled; the text says why."""


class Transient(Exception):  # noqa: N818
    """A dependency is away; the same call may succeed later."""


class Refused(Transient):
    """Kafka answers and refuses this event: it is too large, its topic is missing, it may not be written there."""
