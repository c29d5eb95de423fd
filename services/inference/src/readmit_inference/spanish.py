"""What the OpenAPI document says, in Spanish. Fields are called what the page of `services/ui` calls them."""

from __future__ import annotations

import re

_CODES = re.compile(r"(?P<words>[^:]+): (?P<codes>\d+ .+; \d+ .+)")
_DOSE = re.compile(r"Whether (?P<drug>\S+) was prescribed and how its dose changed")


def spanish(text: str) -> str | None:
    """The text in Spanish, paragraph by paragraph; None where a translation is missing.

    Line breaks within a paragraph do not count.
    """
    paragraphs = [_paragraph(" ".join(paragraph.split())) for paragraph in text.split("\n\n")]
    known = [paragraph for paragraph in paragraphs if paragraph is not None]
    return "\n\n".join(known) if len(known) == len(paragraphs) else None


def _paragraph(text: str) -> str | None:
    if text in TEXTS:
        return TEXTS[text]
    if dose := _DOSE.fullmatch(text):
        drugs = [DRUGS.get(drug) for drug in dose["drug"].split("-")]
        names = [drug for drug in drugs if drug is not None]
        return f"Si se prescribió {'-'.join(names)} y cómo cambió su dosis" if len(names) == len(drugs) else None
    if coded := _CODES.fullmatch(text):
        # The codes keep the names that the data set gives them.
        words = TEXTS.get(coded["words"])
        return None if words is None else f"{words}: {coded['codes']}"
    # Several refusals may share a status.
    refusals = [TEXTS.get(refusal) for refusal in text.split("; ")]
    known = [refusal for refusal in refusals if refusal is not None]
    return ". ".join(known) if len(known) == len(refusals) else None


#: The international names of the drugs.
DRUGS = {
    "metformin": "metformina", "repaglinide": "repaglinida", "nateglinide": "nateglinida",
    "chlorpropamide": "clorpropamida", "glimepiride": "glimepirida", "acetohexamide": "acetohexamida",
    "glipizide": "glipizida", "glyburide": "glibenclamida", "tolbutamide": "tolbutamida",
    "pioglitazone": "pioglitazona", "rosiglitazone": "rosiglitazona", "acarbose": "acarbosa", "miglitol": "miglitol",
    "troglitazone": "troglitazona", "tolazamide": "tolazamida", "examide": "examida", "citoglipton": "citogliptón",
    "insulin": "insulina",
}  # fmt: skip

_API = {
    "Readmit inference": "Readmit: inferencia",
    "Risk of readmission within 30 days": "Riesgo de reingreso en los 30 días tras el alta",
    "Not for clinical use: a research system. This page [in Spanish](docs/es).":
        "No apto para uso clínico: es un sistema de investigación. Esta página [en inglés](../docs).",
    "the newest version": "la versión más reciente",
    "this version, for as long as it is offered": "esta versión, mientras se ofrezca",
    "The risk of one encounter or of many, and why": "El riesgo de uno o de muchos episodios, y sus motivos",
    "The model in service": "El modelo en servicio",
    "For those who run the service": "Para quienes operan el servicio",
    "FHIR R4 and CDS Hooks, for clinical systems": "FHIR R4 y CDS Hooks, para sistemas clínicos",
    "A key of this service.": "Una clave de este servicio.",
    "The same key, or a token (JWT) of the issuer that the service trusts.":
        "La misma clave, o un token (JWT) del emisor en que confía el servicio.",
}  # fmt: skip

_OPERATIONS = {
    "Risk of one encounter": "Riesgo de un episodio",
    "Risk of readmission within 30 days of discharge for one encounter. Not for clinical use.":
        "Riesgo de reingreso en los 30 días tras el alta, para un episodio. No apto para uso clínico.",
    "Names may be written with hyphens or underscores and in any case, numbers as text, ages as `[50-60)` or `50-60`. "
    "Fields that the model does not use are allowed. What is known of the patient's earlier encounters goes into "
    "`history`; without it, the risk is that of a patient of unknown history.":
        "Los nombres admiten guiones o guiones bajos, mayúsculas o minúsculas; los números pueden ir como texto y la "
        "edad como `[50-60)` o `50-60`. Se admiten campos que el modelo no usa. Lo que se sepa de los episodios "
        "anteriores del paciente va en `history`; sin ese objeto, el riesgo es el de un paciente de historial "
        "desconocido.",
    "While a new model is tried, it may answer for a share of the patients, the same ones each time: `model` says "
    "which model it was. Without a patient's number the encounter's decides, and without either, chance.":
        "Mientras se prueba un modelo nuevo, puede responder para una parte de los pacientes, siempre los mismos: "
        "`model` dice qué modelo fue. Sin número de paciente decide el del episodio y, sin ambos, el azar.",
    "An encounter": "Un episodio",
    "An encounter of a patient who was here before": "Un episodio de un paciente que ya estuvo ingresado",
    "Risks of many encounters": "Riesgos de muchos episodios",
    "Risks of many encounters in one request, answered while they are still being sent. Not for clinical use.":
        "Riesgos de muchos episodios en una sola solicitud, con respuesta mientras aún se están enviando. No apto para "
        "uso clínico.",
    "Send an array (JSON), an object per line (NDJSON), or a file (CSV) whose first line names the columns as the data "
    "set does; a history stands in columns such as `history.previous_encounters`. The answer has the form of what was "
    "sent, or the one that `Accept` names. All rows are answered by the champion, also while another model is tried; "
    "the headers `Readmit-Model…` name it. A row that can't be read is told so in its place, and the next one is "
    "answered.":
        "Envíe una lista (JSON), un objeto por línea (NDJSON) o un archivo (CSV) cuya primera línea nombre las "
        "columnas como el conjunto de datos; los episodios anteriores van en columnas como "
        "`history.previous_encounters`. La respuesta tiene el formato de lo enviado o el que indique `Accept`. El "
        "modelo campeón responde a todas las filas, también mientras se prueba otro; las cabeceras `Readmit-Model…` lo "
        "nombran. Si una fila no se puede "
        "leer, se indica en su lugar y se sigue con la siguiente.",
    "Keep every answer in the prediction log.": "Guardar cada respuesta en el registro de predicciones.",
    "A risk or an error for each row": "Un riesgo o un error por cada fila",
    "Why one encounter has its risk": "Motivos del riesgo de un episodio",
    "What each field adds to the risk of one encounter, which is sent as to `/predict`. Not for clinical use.":
        "Lo que cada campo añade al riesgo de un episodio, que se envía como a `/predict`. No apto para uso clínico.",
    "Exact Shapley values in log-odds, summed by field: with `base` they give `margin`, and its calibrated form is the "
    "risk. They say what the model did, not what would help the patient. Nothing is kept in the prediction log. "
    "While a new model is tried, the one that answers `/predict` for this patient explains.":
        "Valores de Shapley exactos, en logaritmos de las posibilidades y sumados por campo: con `base` dan `margin`, "
        "que una vez calibrado es el riesgo. Dicen lo que hizo el modelo, no lo que ayudaría al paciente. Nada se "
        "guarda en el registro de predicciones. Mientras se prueba un modelo nuevo, explica el que responde a "
        "`/predict` para este paciente.",
    "State of this pod": "Estado de este pod",
    "Whether this pod can answer, and with which model. Always 200: `/readyz` is for routing.":
        "Si este pod puede responder, y con qué modelo. Siempre 200: para el enrutamiento está `/readyz`.",
    "Model in service": "Modelo en servicio",
    "What the model in service was made from, and how well it did on validation.":
        "Con qué se hizo el modelo en servicio y qué resultados obtuvo en la validación.",
    "`challenger` is the model that is tried beside it, if there is one: in which stage, and for what share of the "
    "patients it answers.":
        "`challenger` es el modelo que se prueba junto a él, si lo hay: en qué fase está y para qué parte de los "
        "pacientes responde.",
    "Model card": "Ficha del modelo",
    "The model card, as Markdown: what it was trained on, how good it is and for whom, and its limits.":
        "La ficha del modelo, en Markdown: con qué se entrenó, cuánto acierta y con quién, y sus límites.",
    "Liveness": "Vida del proceso",
    "Readiness": "Disponibilidad",
    "Not ready; `waiting_for` says what is missing": "No está listo; `waiting_for` dice qué falta",
    "Metrics, for Prometheus": "Métricas, para Prometheus",
    "Risk as a FHIR RiskAssessment": "Riesgo como RiskAssessment de FHIR",
    "FHIR R4 operation: a Bundle of one hospital stay in, a RiskAssessment out. Not for clinical use.":
        "Operación FHIR R4: recibe un Bundle de una estancia hospitalaria y devuelve un RiskAssessment. No apto para "
        "uso clínico.",
    "`probabilityDecimal` is a percentage, as R4 has it. The same prediction as `/predict`. Which elements are read "
    "stands in docs/clinical.md; what FHIR has no element for is an extension `urn:readmit:fhir:<field>` of the "
    "Encounter. Texts are Spanish where Accept-Language prefers it.":
        "`probabilityDecimal` es un porcentaje, como establece R4. La predicción es la misma que en `/predict`. Los "
        "elementos que se leen constan en docs/clinical.md; lo que no tiene elemento en FHIR es una extensión "
        "`urn:readmit:fhir:<field>` del Encounter. Los textos van en español si Accept-Language lo prefiere.",
    "A stay as a Bundle": "Una estancia como Bundle",
    "The risk": "El riesgo",
    "FHIR CapabilityStatement": "CapabilityStatement de FHIR",
    "FHIR R4 CapabilityStatement: the one operation that is here.":
        "CapabilityStatement de FHIR R4: la única operación disponible.",
    "CapabilityStatement": "CapabilityStatement",
    "CDS Hooks discovery": "Descubrimiento de CDS Hooks",
    "CDS Hooks discovery: the service for the hook `encounter-discharge`, and the data that it needs.":
        "Descubrimiento de CDS Hooks: el servicio para el hook `encounter-discharge` y los datos que necesita.",
    "The one service": "El único servicio",
    "CDS Hooks card at discharge": "Tarjeta de CDS Hooks al alta",
    "CDS Hooks call at discharge: one card with the risk, as information. Not for clinical use.":
        "Llamada de CDS Hooks al alta: una tarjeta con el riesgo, a título informativo. No apto para uso clínico.",
    "Needed prefetch data that did not come is a 412: the service fetches nothing itself.":
        "Si faltan datos de `prefetch` necesarios, la respuesta es 412: el servicio no los busca por su cuenta.",
    "A discharge, data prefetched": "Un alta, con los datos de `prefetch`",
    "One card": "Una tarjeta",
    "Successful Response": "Respuesta correcta",
}  # fmt: skip

_REFUSALS = {
    "The request carries no valid key or token": "La solicitud no trae una clave o un token válidos",
    "The key or token does not reach that far": "La clave o el token no da acceso a este recurso",
    "The client asks too often": "El cliente envía demasiadas solicitudes",
    "The body is not JSON": "El cuerpo no es JSON",
    "The batch can't be read": "El lote no se puede leer",
    "The body did not come": "El cuerpo no ha llegado",
    "The body is too large": "El cuerpo es demasiado grande",
    "The content type is another one": "El tipo de contenido no es el esperado",
    "The body is not one encounter": "El cuerpo no es un único episodio",
    "The encounter can't be understood": "El episodio no se entiende",
    "No model is in service yet": "Todavía no hay un modelo en servicio",
    "The model has no card": "El modelo no tiene ficha",
    "The model can't be explained": "El modelo no se puede explicar",
    "The service is overloaded": "El servicio está sobrecargado",
    "Tokens can't be checked yet": "Todavía no se pueden comprobar los tokens",
    "Prefetch data is missing": "Faltan datos de `prefetch`",
}

_ENCOUNTER = {
    "Unique identifier of the encounter": "Identificador único del episodio",
    "Unique identifier of the patient": "Identificador único del paciente",
    "Race as recorded; kept for audit, not a feature by default":
        "Raza según consta; se guarda para auditoría, por defecto no es una variable del modelo",
    "Sex as recorded": "Sexo según consta",
    "Age band [years]": "Tramo de edad [años]",
    "Weight band (missing in 97 % of the data) [pounds]": "Tramo de peso (falta en el 97 % de los datos) [libras]",
    "Type of admission": "Tipo de ingreso",
    "Where the patient went at discharge": "Destino al alta",
    "Where the patient came from": "Procedencia",
    "Length of the stay [days]": "Duración de la estancia [días]",
    "Payer": "Pagador",
    "Specialty of the admitting physician": "Especialidad del médico responsable del ingreso",
    "Laboratory tests during the stay [tests]": "Pruebas de laboratorio durante la estancia [pruebas]",
    "Procedures other than laboratory tests during the stay [procedures]":
        "Procedimientos durante la estancia, sin contar las pruebas de laboratorio [procedimientos]",
    "Distinct generic drugs given during the stay [drugs]":
        "Fármacos distintos, por nombre genérico, administrados durante la estancia [fármacos]",
    "Outpatient visits in the year before [visits]": "Visitas ambulatorias en el año previo [visitas]",
    "Emergency visits in the year before [visits]": "Visitas a urgencias en el año previo [visitas]",
    "Inpatient visits in the year before [visits]": "Hospitalizaciones en el año previo [hospitalizaciones]",
    "Primary diagnosis, ICD-9-CM code": "Diagnóstico principal, código CIE-9-MC",
    "Secondary diagnosis, ICD-9-CM code": "Diagnóstico secundario, código CIE-9-MC",
    "Additional secondary diagnosis, ICD-9-CM code": "Tercer diagnóstico, código CIE-9-MC",
    "Diagnoses entered [diagnoses]": "Diagnósticos registrados [diagnósticos]",
    "Glucose serum test; None: not measured [mg/dL]": "Glucosa en suero; None: no medida [mg/dL]",
    "HbA1c test; None: not measured [%]": "HbA1c; None: no medida [%]",
    "Whether diabetes medication changed": "Si cambió la medicación para la diabetes",
    "Whether diabetes medication was prescribed": "Si se prescribió medicación para la diabetes",
    "Earlier encounters of the patient, as known at this discharge. Leave out what is not known: without the object, "
    "the risk is that of a patient of unknown history.":
        "Episodios anteriores del paciente, según lo que se sabe en el momento de esta alta. Omita lo que no se sepa: "
        "sin este objeto, el riesgo es el de un paciente de historial desconocido.",
    "Earlier encounters of the patient that are known [encounters]":
        "Episodios anteriores del paciente de los que se tiene constancia [episodios]",
    "Whether this stay began within 30 days of the previous discharge":
        "Si esta estancia comenzó en los 30 días tras el alta anterior",
    "Stays that were 30-day readmissions, this one included [stays]":
        "Estancias que fueron reingresos en 30 días, esta incluida [estancias]",
    "Length of the previous stay [days]": "Duración de la estancia anterior [días]",
    "Inpatient visits in the year before the previous encounter [visits]":
        "Hospitalizaciones en el año previo al episodio anterior [hospitalizaciones]",
    "Where the patient went at the previous discharge": "Destino al alta anterior",
    "Primary diagnosis of the previous encounter, ICD-9-CM code":
        "Diagnóstico principal del episodio anterior, código CIE-9-MC",
}  # fmt: skip

_ANSWERS = {
    "Answer of `POST /predict`.": "Respuesta de `POST /predict`.",
    "calibrated probability of readmission within 30 days": "probabilidad calibrada de reingreso en 30 días",
    "risk >= threshold": "riesgo >= umbral",
    "whether the patient's history was given and the model reads it":
        "si se indicaron los episodios anteriores del paciente y el modelo los tiene en cuenta",
    "Which model gave the answer.": "Qué modelo dio la respuesta.",
    "digest of the bundle that was loaded and verified": "huella del paquete del modelo, cargado y verificado",
    "number of the promotion that put it in service": "número de la promoción que lo puso en servicio",
    "trained on generated data: never use for patients": "entrenado con datos generados: no usar nunca con pacientes",
    "challenger: a candidate on trial answers for a share of the patients": (
        "challenger: un candidato a prueba responde para una parte de los pacientes"
    ),
    "Something in the request was understood, but deserves a look.":
        "Algo en la solicitud se entendió, pero conviene revisarlo.",
    "Answer of `POST /predict/batch` as JSON.": "Respuesta de `POST /predict/batch` en JSON.",
    "why the batch was not read to its end": "por qué no se leyó el lote hasta el final",
    "What a batch is answered for one row: either a risk or an error.":
        "Lo que se responde por cada fila de un lote: un riesgo o un error.",
    "number of the encounter in the batch; the first is 1": "número del episodio en el lote; el primero es el 1",
    "of an answer that is kept in the log": "de una respuesta que se guarda en el registro",
    "Why a row of a batch has no prediction, or why a batch was not read to its end.":
        "Por qué una fila de un lote no tiene predicción, o por qué no se leyó el lote hasta el final.",
    "Answer of `POST /explain`: `base` and all contributions sum to `margin`, whose calibrated form is `risk`.":
        "Respuesta de `POST /explain`: `base` y todas las contribuciones suman `margin`, que una vez calibrado es "
        "`risk`.",
    "as `POST /predict` gives it": "el mismo que da `POST /predict`",
    "log-odds of a patient of whom nothing is known":
        "logaritmo de las posibilidades de un paciente del que nada se sabe",
    "log-odds of this patient, before calibration":
        "logaritmo de las posibilidades de este paciente, antes de calibrar",
    "the largest first, whatever its sign": "primero la mayor, sea cual sea su signo",
    "method that makes a risk of the margin": "método que convierte el margen en riesgo",
    "What one field of the encounter adds to the log-odds of readmission.":
        "Lo que un campo del episodio añade al logaritmo de las posibilidades de reingreso.",
    "name of the field; `history.` before those of the history":
        "nombre del campo; con `history.` delante si es de los episodios anteriores",
    "as it was understood; null: missing": "tal como se entendió; null: falta",
    "Shapley value in log-odds, before calibration":
        "valor de Shapley en logaritmos de las posibilidades, antes de calibrar",
    "the fields that this one is counted from, where it is none of the encounter's":
        "los campos de los que se calcula este, si no es del episodio",
    "Problem details for HTTP APIs (RFC 9457), with the refused fields.":
        "Detalles de un problema en una API HTTP (RFC 9457), con los campos rechazados.",
    "One field that was refused: what stood there and what is allowed.":
        "Un campo rechazado: qué contenía y qué se admite.",
    "FHIR R4 RiskAssessment": "RiskAssessment de FHIR R4",
    "the prediction's id": "el identificador de la predicción",
    "the model, as a Device": "el modelo, como Device",
    "calibrated probability, in percent": "probabilidad calibrada, en porcentaje",
    "FHIR R4 OperationOutcome": "OperationOutcome de FHIR R4",
    "FHIRPath of the element": "FHIRPath del elemento",
}  # fmt: skip

#: English → Spanish, but for what the patterns above make: doses, and lists of codes or refusals.
TEXTS = _API | _OPERATIONS | _REFUSALS | _ENCOUNTER | _ANSWERS
