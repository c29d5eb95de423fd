"""The ledger as a chain of digests; what candidates, pods and trials leave.

What was decided before is taken over as judgements of format 0: read and shown, but not derived again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC
from typing import Any
from uuid import uuid4

from readmit_chassis.migrations import revision_execute, revision_rows, run_sql

revision = "0002_chain"
down_revision = "0001_ledger"

_ALL = "SELECT * FROM governance.decisions_unchained ORDER BY decided_at"
_INSERT = (
    "INSERT INTO governance.decisions (sequence, document, previous_sha256, sha256, at)"
    " VALUES (%(sequence)s, %(document)s, %(previous_sha256)s, %(sha256)s, %(at)s)"
)


def upgrade() -> None:
    """Run the file of SQL beside this one, and take over what was decided before."""
    run_sql(__file__)
    for row in _chained(revision_rows(_ALL)):
        revision_execute(_INSERT, row)
    revision_execute("DROP TABLE governance.decisions_unchained")


def _chained(decisions: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    previous, sequence = "0" * 64, 0
    champion: dict[str, Any] | None = None
    for decision in decisions:
        facts = [(str(decision["decision_id"]), "judgement", _judgement(decision, champion))]
        if decision["epoch"] is not None:
            champion = _promotion(decision)
            facts.append((str(uuid4()), "promotion", champion))
        for entry_id, kind, fact in facts:
            sequence += 1
            document = json.dumps(
                {
                    "sequence": sequence,
                    "entry_id": entry_id,
                    "kind": kind,
                    "at": decision["decided_at"].astimezone(UTC).isoformat(timespec="microseconds"),
                    "by": "promoter",
                    "reason": f"{decision['reason']}: {decision['detail']}",
                    "fact": fact,
                },
                sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False,
            )  # fmt: skip
            sha256 = hashlib.sha256(f"{previous}\n{document}".encode()).hexdigest()
            yield {
                "sequence": sequence, "document": document, "previous_sha256": previous, "sha256": sha256,
                "at": decision["decided_at"],
            }  # fmt: skip
            previous = sha256


def _judgement(decision: Mapping[str, Any], champion: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "champion": None if champion is None else {"epoch": champion["epoch"], "model": champion["model"]},
        "decision": {
            "format": 0,
            "case": {"event": decision["event"], "champion_evidence_sha256": decision["champion_evidence_sha256"]},
            "policy": decision["policy"],
            "verdict": {
                "outcome": "rejected" if decision["epoch"] is None else "accepted",
                "reason": decision["reason"],
                "detail": decision["detail"],
                "gates": [],
                "policy_version": "",
                "policy_sha256": "",
                "auroc": _interval(decision, "auroc"),
                "difference": _interval(decision, "difference"),
                "common_rows": decision["common_rows"],
            },
        },
    }


def _promotion(decision: Mapping[str, Any]) -> dict[str, Any]:
    event = decision["event"]
    return {
        "epoch": decision["epoch"],
        "model": event["model"],
        "bundle": event["bundle"],
        "evidence": event["evidence"],
        "synthetic": event["synthetic"],
        "previous": decision["champion_before"],
        "judgement_id": str(decision["decision_id"]),
    }


def _interval(decision: Mapping[str, Any], name: str) -> dict[str, float] | None:
    if decision[name] is None:
        return None
    return {"point": decision[name], "low": decision[f"{name}_low"], "high": decision[f"{name}_high"]}
