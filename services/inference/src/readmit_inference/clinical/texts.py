"""Every word that a person reads in a card or a RiskAssessment, one `Texts` per language."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """One language. Placeholders in braces are filled in by `percent` and the writers."""

    language: str
    decimal_point: str
    outcome: str
    summary: str  #: of a card: shorter than 140 characters when filled in
    above: str
    below: str
    unknown_history: str
    look: str
    answered_by: str
    synthetic: str
    not_clinical: str
    source: str

    def percent(self, share: float) -> str:
        """0.2345 as `23.5` or `23,5`."""
        return f"{share * 100:.1f}".replace(".", self.decimal_point)


ENGLISH = Texts(
    language="en",
    decimal_point=".",
    outcome="Readmission within 30 days of discharge",
    summary="Risk of readmission within 30 days: {risk} % (threshold {threshold} %). Not for clinical use.",
    above="The risk is at or above the threshold of {threshold} %.",
    below="The risk is below the threshold of {threshold} %.",
    unknown_history="No earlier stay was given: this is the risk of a patient of unknown history.",
    look="Read with reservations:",
    answered_by="Answered by {name} version {version}.",
    synthetic="SYNTHETIC MODEL: trained on generated data. Its figures say nothing about real patients.",
    not_clinical="Not for clinical use: a research system on data of 1999-2008, and no medical device. "
    "It must not replace clinical judgement.",
    source="Readmit (research, not for clinical use)",
)

SPANISH = Texts(
    language="es",
    decimal_point=",",
    outcome="Reingreso en los 30 días tras el alta",
    summary="Riesgo de reingreso en 30 días: {risk} % (umbral {threshold} %). No apto para uso clínico.",
    above="El riesgo iguala o supera el umbral del {threshold} %.",
    below="El riesgo está por debajo del umbral del {threshold} %.",
    unknown_history="No se indicó ningún ingreso anterior: es el riesgo de un paciente de historial desconocido.",
    look="Leído con reservas:",
    answered_by="Responde {name}, versión {version}.",
    synthetic="MODELO SINTÉTICO: entrenado con datos generados. Sus cifras no dicen nada de pacientes reales.",
    not_clinical="No apto para uso clínico: sistema de investigación con datos de 1999-2008; no es un producto "
    "sanitario. No debe sustituir el juicio clínico.",
    source="Readmit (investigación, no apto para uso clínico)",
)


def preferred(accept_language: str | None) -> Texts:
    """The texts that an Accept-Language header (RFC 9110) prefers: Spanish where `es` is above `en`, else English."""
    weights = {"en": 0.0, "es": 0.0}
    for part in (accept_language or "").split(","):
        tag, _, parameter = part.partition(";")
        try:
            weight = float(parameter.strip().removeprefix("q=")) if parameter.strip() else 1.0
        except ValueError:
            continue
        primary = tag.strip().lower().partition("-")[0]
        if primary in weights:
            weights[primary] = max(weights[primary], weight)
    return SPANISH if weights["es"] > weights["en"] else ENGLISH
