"""The loop that leases jobs and has them fitted, one at a time.

A job's result counts only while its lease does: whoever lost it (stalled, cut off) changes nothing any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import psycopg
import structlog

from readmit_chassis.process import end_if_cancelled
from readmit_trainer import metrics
from readmit_trainer.domain import FINAL, MAX_ATTEMPTS, FitDone, FitFailed, FitTask, Progress, retry_pause_s
from readmit_trainer.errors import AttemptFailed
from readmit_trainer.store import JobStore, Lease

log = structlog.get_logger()

_TRANSIENT_PAUSE_S = 5.0


class Fitting(Protocol):
    """Where fits happen. Raises AttemptFailed; a cancelled fit stops."""

    async def fit(self, task: FitTask, tell: Callable[[Progress], None]) -> FitDone | FitFailed: ...


class Runner:
    """Works until cancelled; outages of the database are waited out."""

    def __init__(
        self, store: JobStore, fitting: Fitting, *, heartbeat_s: float = 5.0, idle_poll_s: float = 1.0
    ) -> None:
        self._store = store
        self._fitting = fitting
        self._heartbeat_s = heartbeat_s
        self._idle_poll_s = idle_poll_s
        self._news = asyncio.Event()

    @property
    def wake(self) -> Callable[[], None]:
        """Call it when there are new jobs, so that they need not wait for the next poll."""
        return self._news.set

    async def run(self) -> None:
        """Lease, fit, finish, for ever."""
        while True:
            try:
                self._news.clear()
                if not await self.run_one():
                    await self._rest()
            except psycopg.OperationalError as error:
                log.warning("database_unreachable", error=str(error).strip())
                await asyncio.sleep(self._idle_poll_s)

    async def run_one(self) -> bool:
        """Work on one job, whatever becomes of it. False when there is none."""
        for family in await self._store.give_up_abandoned():
            metrics.ATTEMPTS.labels(family, "gave_up").inc()
            log.error("job_failed", family=family, reason="abandoned")
        for family, batch in await self._store.supersede():
            metrics.SUPERSEDED.inc()
            log.info("job_superseded", family=family, batch=batch)
        metrics.JOBS_WAITING.set(await self._store.count_waiting())
        lease = await self._store.lease()
        if lease is None:
            return False
        task = lease.task
        with structlog.contextvars.bound_contextvars(
            job_id=str(task.job_id), dataset_version=task.batch.dataset_version, batch=task.batch.batch,
            family=task.family, attempt=lease.attempts,
        ):  # fmt: skip
            log.info("fit_started")
            outcome = await self._settle(lease, await self._attempt(lease))
            metrics.ATTEMPTS.labels(task.family, outcome).inc()
        return True

    async def _attempt(self, lease: Lease) -> FitDone | FitFailed | None:
        """Fit while the heart beats. None: the lease was lost and the fit stopped."""
        telling: asyncio.Queue[Progress] = asyncio.Queue()
        fit = asyncio.create_task(self._fitting.fit(lease.task, telling.put_nowait))
        heart = asyncio.create_task(self._beat(lease))
        teller = asyncio.create_task(self._tell(lease, telling))
        try:
            await asyncio.wait({fit, heart}, return_when=asyncio.FIRST_COMPLETED)
            if not fit.done():
                await heart  # a broken heart is a bug and raises
                return None
            return await fit
        except AttemptFailed as failure:
            return FitFailed(transient=False, reason=str(failure), code=failure.code)
        finally:
            for part in (heart, fit, teller):
                part.cancel()
            await asyncio.gather(fit, heart, teller, return_exceptions=True)
            metrics.show_progress(lease.task.family, None)

    async def _tell(self, lease: Lease, telling: asyncio.Queue[Progress]) -> None:
        """Log, measure and keep how far the fit is; what the database does not take now is not missed."""
        while True:
            progress = await telling.get()
            log.info("fit_progress", stage=progress.stage, done=progress.done, total=progress.total)
            metrics.show_progress(lease.task.family, progress.stage, progress.done, progress.total)
            try:
                await self._store.progress(lease, progress)
            except psycopg.OperationalError as error:
                log.warning("progress_not_kept", error=str(error).strip())

    async def _beat(self, lease: Lease) -> None:
        """Extend the lease again and again; returns when it is lost."""
        while True:
            await asyncio.sleep(self._heartbeat_s)
            try:
                if not await self._store.extend(lease):
                    return
            except psycopg.OperationalError as error:  # the lease may outlive the outage; finishing is fenced
                log.warning("heartbeat_missed", error=str(error).strip())

    async def _settle(self, lease: Lease, result: FitDone | FitFailed | None) -> str:
        """Write down what became of the attempt. Returns the outcome, as the metric names it."""
        if isinstance(result, FitDone):
            if await self._store.finish(lease, result):
                model = result.registered.model
                metrics.STARTS.labels(lease.task.family, result.start).inc()
                metrics.FIT_SECONDS.labels(lease.task.family).observe(result.fit_seconds)
                metrics.VALIDATION_AUROC.labels(lease.task.family).set(result.registered.validation.auroc)
                metrics.LAST_FIT.set_to_current_time()
                log.info("model_registered", model=model.name, version=model.version, fit_seconds=result.fit_seconds)
                return "done"
        elif result is not None:
            metrics.FAILURES.labels(lease.task.family, result.code).inc()
            if result.transient:
                log.warning("fit_postponed", code=result.code, reason=result.reason)
                if await self._store.release(lease, result, _TRANSIENT_PAUSE_S, counts=False):
                    return "transient"
            elif lease.attempts < MAX_ATTEMPTS and result.code not in FINAL:
                log.warning("fit_failed", code=result.code, reason=result.reason)
                if await self._store.release(lease, result, retry_pause_s(lease.attempts), counts=True):
                    return "failed"
            else:
                log.error("job_failed", code=result.code, reason=result.reason)
                if await self._store.give_up(lease, result):
                    return "gave_up"
        log.warning("lease_lost")
        return "lease_lost"

    async def _rest(self) -> None:
        end_if_cancelled()
        try:
            await asyncio.wait_for(self._news.wait(), self._idle_poll_s)
        except TimeoutError:
            return
