"""How far the loop is: what the services last said, what is new in it, and whether anything is left to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from readmit_local.client import Dataset, Decision, Ingestion, Job, Pod, Services


@dataclass(frozen=True, slots=True)
class Loop:
    """One look at the whole loop, for one dataset."""

    ingestion: Ingestion | None = None
    dataset: Dataset | None = None
    jobs: tuple[Job, ...] = ()
    decisions: tuple[Decision, ...] = ()
    pods: tuple[Pod, ...] = ()

    @property
    def fits_total(self) -> int:
        """Batches times model families, as far as they are known."""
        families = {job.family for job in self.jobs}
        return self.dataset.batches_total * len(families) if self.dataset else 0

    @property
    def fits_ended(self) -> int:
        """Batches and families whose fit has ended; one that was trained again on request counts once."""
        return len({(job.family, job.batch) for job in self.jobs if job.status in {"done", "failed"}})

    @property
    def failed_jobs(self) -> tuple[Job, ...]:
        """Fits that were given up."""
        return tuple(job for job in self.jobs if job.status == "failed")

    @property
    def trained(self) -> bool:
        """Every family has been fitted on every batch, and every model judged."""
        judged = {(decision.candidate.family, decision.candidate.version) for decision in self.decisions}
        return 0 < self.fits_total == self.fits_ended and all(
            (job.family, job.model_version) in judged for job in self.jobs if job.status == "done"
        )


async def look(services: Services, request_id: str | None, dataset_version: int | None, last: Loop) -> Loop:
    """Ask everybody. Follows one request or, without one, an existing dataset.

    Of a service that does not answer just now, the last look holds.
    """
    ingestion = (await services.ingestion(request_id) if request_id else None) or last.ingestion
    if ingestion is not None and ingestion.request_id != request_id:
        ingestion = None  # of the request before
    if ingestion is not None and ingestion.dataset_version is not None:
        dataset_version = ingestion.dataset_version
    if dataset_version is None:
        return Loop(ingestion)
    datasets = {dataset.version: dataset for dataset in await services.datasets()}
    jobs, decisions, pods = await services.jobs(dataset_version), await services.decisions(), await services.pods()
    return Loop(
        ingestion,
        datasets.get(dataset_version, last.dataset),
        last.jobs if jobs is None else tuple(jobs),
        last.decisions
        if decisions is None
        else tuple(each for each in reversed(decisions) if each.dataset_version == dataset_version),
        last.pods if pods is None else tuple(pods),
    )


def news(old: Loop, new: Loop) -> Iterator[str]:
    """What happened between two looks, a line each."""
    yield from _ingestion_news(old.ingestion, new.ingestion)
    ended = {(job.family, job.batch) for job in old.jobs if job.status in {"done", "failed"}}
    count = len(ended)
    for job in new.jobs:
        if job.status in {"done", "failed"} and (job.family, job.batch) not in ended:
            count += 1
            yield f"fit {count} of {new.fits_total}: {_described(job)}"
    known = {(decision.candidate.name, decision.candidate.version) for decision in old.decisions}
    for decision in new.decisions:
        if (decision.candidate.name, decision.candidate.version) not in known:
            epoch = f" as epoch {decision.epoch}" if decision.epoch else ""
            yield f"{_model(decision)}: {decision.outcome}{epoch} ({decision.reason})"
    serving = {(pod.pod_id, pod.epoch, pod.outcome) for pod in old.pods}
    for pod in new.pods:
        if (pod.pod_id, pod.epoch, pod.outcome) not in serving:
            fate = f"serves epoch {pod.epoch}, loaded in {pod.load_ms:.0f} ms"
            yield f"pod {pod.pod_id}: " + (fate if pod.outcome == "serving" else f"refused {pod.epoch}: {pod.reason}")


def why_no_champion(loop: Loop) -> str:
    """One line for a loop that has ended without a model to serve."""
    if loop.decisions:
        reasons = ", ".join(sorted({decision.reason for decision in loop.decisions}))
        return f"no model was good enough to serve ({reasons}); ingest more rows, e.g. `readmit ingest sample:20000`"
    return f"every fit failed, the first with: {loop.jobs[0].error}; see `readmit logs trainer`"


def _ingestion_news(old: Ingestion | None, new: Ingestion | None) -> Iterator[str]:
    if new is None:
        return
    if (old is None or old.stage != new.stage) and new.stage and not new.ended:
        yield f"ingestion: {new.stage}"
    for batch in range((old.batches_written if old else 0) or 0, new.batches_written or 0):
        yield f"batch {batch + 1} written"
    if new.ended and (old is None or not old.ended):
        if new.status == "failed":
            yield f"ingestion failed: {new.why_failed}"
        elif new.status == "unchanged":
            yield f"nothing new in the source: it is dataset {new.dataset_version}"
        else:
            yield (
                f"dataset {new.dataset_version} is complete: {new.rows_read or 0:,} rows, "
                f"{new.rows_quarantined or 0:,} quarantined, {new.rows_excluded or 0:,} excluded"
                + (" - SYNTHETIC, not real patients" if new.synthetic else "")
            )


def _described(job: Job) -> str:
    if job.status == "failed":
        return f"{job.family} on batches 1..{job.batch} FAILED: {job.error}"
    auroc = f"AUROC {job.auroc:.3f}" if job.auroc is not None else "no score"
    seconds = f" in {job.fit_seconds:.1f} s" if job.fit_seconds is not None else ""
    return f"{job.family} on batches 1..{job.batch}, {auroc}{seconds}"


def _model(decision: Decision) -> str:
    return f"candidate {decision.candidate.family} v{decision.candidate.version}"
