"""How a bundle fails."""

from __future__ import annotations


class BundleRefused(Exception):  # noqa: N818  says what happened to the bundle, as the events do
    """The bundle must not serve; `reason` says why in one line. The same bytes will always be refused."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotExplained(Exception):  # noqa: N818  says what is the case
    """The model file lacks what an explanation takes: it was written before that was recorded."""

    def __init__(self, lacks: str) -> None:
        super().__init__(f"the model file lacks {lacks}")
