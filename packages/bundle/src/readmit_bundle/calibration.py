"""Calibration maps: from a scorer's margin (log-odds) to the risk that is told.

Data, and never decreasing in the margin.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from readmit_contracts.events import Probability


class _Map(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Identity(_Map):
    """The scorer's own probability."""

    method: Literal["identity"] = "identity"

    def risk(self, margin: float) -> float:
        """Calibrated probability of one margin."""
        return logistic(margin)


class Platt(_Map):
    """risk = logistic(a * margin + b) (Platt 1999)."""

    method: Literal["platt"] = "platt"
    a: Annotated[FiniteFloat, Field(gt=0)]
    b: FiniteFloat

    def risk(self, margin: float) -> float:
        """Calibrated probability of one margin."""
        return logistic(self.a * margin + self.b)


class Beta(_Map):
    """risk = logistic(a * ln p - b * ln(1 - p) + c), p = logistic(margin) (Kull, Silva Filho and Flach 2017)."""

    method: Literal["beta"] = "beta"
    a: Annotated[FiniteFloat, Field(ge=0)]
    b: Annotated[FiniteFloat, Field(ge=0)]
    c: FiniteFloat

    def risk(self, margin: float) -> float:
        """Calibrated probability of one margin."""
        return logistic(self.c - self.a * softplus(-margin) + self.b * softplus(margin))


class Isotonic(_Map):
    """risk = straight lines between knots, level beyond them (Zadrozny and Elkan 2002)."""

    method: Literal["isotonic"] = "isotonic"
    margins: Annotated[tuple[FiniteFloat, ...], Field(min_length=2)]
    risks: tuple[Probability, ...]

    @model_validator(mode="after")
    def _increases(self) -> Self:
        if len(self.margins) != len(self.risks):
            raise ValueError("as many risks as margins are needed")
        if any(a >= b for a, b in zip(self.margins, self.margins[1:], strict=False)):
            raise ValueError("margins must increase")
        if any(a > b for a, b in zip(self.risks, self.risks[1:], strict=False)):
            raise ValueError("risks must not decrease")
        return self

    def risk(self, margin: float) -> float:
        """Calibrated probability of one margin."""
        at = bisect_right(self.margins, margin)
        if at == 0:
            return self.risks[0]
        if at == len(self.margins):
            return self.risks[-1]
        left, low, high = self.margins[at - 1], self.risks[at - 1], self.risks[at]
        return low + (high - low) * ((margin - left) / (self.margins[at] - left))


Calibration = Annotated[Identity | Platt | Beta | Isotonic, Field(discriminator="method")]


def logistic(z: float) -> float:
    """1 / (1 + exp(-z)), without overflow."""
    if z >= 0:
        return 1.0 / (1.0 + math.exp(-z))
    odds = math.exp(z)
    return odds / (1.0 + odds)


def softplus(z: float) -> float:
    """ln(1 + exp(z)), without overflow: -ln(1 - logistic(z))."""
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))
