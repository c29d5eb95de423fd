"""What every part of a policy file is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """Read once, never changed, and with nothing in it that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")
