"""Whether every live pod serves what was promoted. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from readmit_contracts.events import ModelLoaded
from readmit_promoter.ledger import Convergence
from readmit_promoter.rollout_policy import ConvergencePolicy

PodState = Literal["serving", "behind", "refused"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A pod's first word on a promotion.

    `after_s`: since it was decided, by the pod's clock, but not before that, nor after we heard of it.
    """

    pod_id: str
    after_s: float
    refused: str | None


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a promotion stands."""

    epoch: int
    promoted_at: datetime
    status: Literal["converging", "converged", "failed"]
    arrivals: Sequence[Arrival]
    missing: Sequence[str]  #: live pods that have not said anything of it yet
    why: str

    def fact(self) -> Convergence:
        """For the ledger."""
        times = sorted(arrival.after_s for arrival in self.arrivals if arrival.refused is None)
        return Convergence(
            promotion_epoch=self.epoch,
            converged=self.status == "converged",
            pods=len(times),
            first_s=times[0] if times else None,
            median_s=statistics.median(times) if times else None,
            last_s=times[-1] if times else None,
            refused={arrival.pod_id: arrival.refused for arrival in self.arrivals if arrival.refused is not None},
            missing=tuple(self.missing),
        )


def pod_state(pod: ModelLoaded, epoch: int) -> PodState:
    """How a pod's last word compares with the newest promotion."""
    if pod.outcome == "refused":
        return "refused"
    return "serving" if pod.epoch >= epoch else "behind"


def progress(
    epoch: int,
    promoted_at: datetime,
    now: datetime,
    live: Sequence[ModelLoaded],
    arrivals: Mapping[str, Arrival],
    policy: ConvergencePolicy,
) -> Progress:
    """`live`: the last word of each pod that is heard of; `arrivals`: what pods have said of this promotion."""
    missing = sorted(pod.pod_id for pod in live if pod.pod_id not in arrivals)
    heard = sorted(arrivals.values(), key=lambda arrival: (arrival.after_s, arrival.pod_id))
    refused = [arrival for arrival in heard if arrival.refused is not None]
    age_s = (now - promoted_at).total_seconds()
    status: Literal["converging", "converged", "failed"] = "converging"
    why = f"{len(heard) - len(refused)} of {len(heard) + len(missing)} pods serve it"
    if len(refused) > policy.refusing_pods:
        status, why = "failed", f"{len(refused)} pods refuse it ({refused[0].refused}), {policy.refusing_pods} may"
    elif missing and age_s > policy.deadline_s:
        status, why = "failed", f"{len(missing)} pods do not serve it after {policy.deadline_s:g} s"
    elif heard and not missing and age_s - heard[-1].after_s >= policy.settle_s:
        status = "converged"
    return Progress(epoch, promoted_at, status, heard, missing, why)
