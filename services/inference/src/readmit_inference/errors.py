"""Everything that can be answered instead of a prediction. No HTTP status here: `problems.py` maps them."""

from __future__ import annotations

from collections.abc import Sequence

from readmit_contracts.prediction import FieldError


class PredictionRefused(Exception):  # noqa: N818  named for what is the case, as its subclasses are
    """There is no prediction, and `detail` says why and what to do. `code` is the metric's label."""

    code: str

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class BodyTooLarge(PredictionRefused):
    code = "body_too_large"


class BodyTooSlow(PredictionRefused):
    code = "body_too_slow"


class WrongContentType(PredictionRefused):
    code = "wrong_content_type"


class InvalidJson(PredictionRefused):
    code = "invalid_json"


class NotAnObject(PredictionRefused):
    code = "not_an_object"


class InvalidBatch(PredictionRefused):
    """A batch, or one of its rows, is not written as its content type says."""

    code = "invalid_batch"


class NoModel(PredictionRefused):
    code = "no_model"


class NoCard(PredictionRefused):
    code = "no_card"


class NotExplainable(PredictionRefused):
    code = "not_explainable"


class Overloaded(PredictionRefused):
    code = "overloaded"


class Unauthorized(PredictionRefused):
    """Who asks has not proven who they are."""

    code = "unauthorized"


class Forbidden(PredictionRefused):
    """Who asks may not ask this: `scope` is what they lack."""

    code = "forbidden"

    def __init__(self, detail: str, scope: str) -> None:
        super().__init__(detail)
        self.scope = scope


class RateLimited(PredictionRefused):
    """The client asks more than it may: not before `wait_s` seconds again."""

    code = "rate_limited"

    def __init__(self, detail: str, wait_s: float) -> None:
        super().__init__(detail)
        self.wait_s = wait_s


class IssuerUnavailable(PredictionRefused):
    """A token can't be checked."""

    code = "issuer_unavailable"


class InvalidEncounter(PredictionRefused):
    """One or more fields can't be understood; `errors` lists them all."""

    code = "invalid_encounter"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        fields = ", ".join(error.field for error in errors[:5]) + (", …" if len(errors) > 5 else "")
        super().__init__(f"{len(errors)} field(s) can't be read: {fields}. See errors for what is allowed.")
        self.errors = list(errors)
