"""Which paths are open to all, and what the others ask of a client.

What is not listed is protected, so that a new endpoint is closed until somebody decides otherwise. Each path is also
there under the version of the API.
"""

from __future__ import annotations

from readmit_inference.access.scopes import Scope

_VERSION = "/v1"

#: Probes and metrics are asked from inside the cluster, by who has no key. The documents are how a client's developer,
#: or an EHR, learns what there is and that a key is needed; they hold nothing that is not in the source.
_OPEN = (
    "/health", "/livez", "/readyz", "/metrics",
    "/docs", "/docs/es", "/docs-files/swagger-ui-bundle.js", "/docs-files/swagger-ui.css", "/docs-files/favicon.png",
    "/redoc", "/docs-files/redoc.standalone.js", "/openapi.json", "/openapi.es.json",
    "/cds-services", "/fhir/metadata",
)  # fmt: skip
_OPEN_ANYWHERE = frozenset((*_OPEN, *(_VERSION + path for path in _OPEN)))
_MODEL = ("/model", f"{_VERSION}/model")


def is_open(path: str) -> bool:
    """Whether everybody may ask it."""
    return path in _OPEN_ANYWHERE


def scope_for(path: str) -> Scope:
    """What a client must be allowed to do."""
    return "model" if path.startswith(_MODEL) else "predict"


def is_prediction(path: str) -> bool:
    """Whether this is one of those that `prediction_requests_total` counts."""
    path = path.removeprefix(_VERSION)
    return path == "/predict" or path.startswith(("/fhir/", "/cds-services/"))
