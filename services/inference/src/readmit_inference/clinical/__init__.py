"""The clinical edge: FHIR R4 in and out, and a CDS Hooks service, over the same prediction as `/predict`.

Read in this order: `endpoints.py` (HTTP), `cds_hooks.py` and `risk_assessment.py` (what is asked and answered),
`mapping.py` (from FHIR resources to one encounter, in the steps of `stay.py`, `facts.py`, `medications.py` and
`earlier_encounters.py`), `record.py` and `elements.py` (reading what nobody has validated), `codes.py`. `texts.py`
holds what people read, `example.py` the documented examples, `openapi.py` the documented shapes.
"""
