"""LightGBM where one machine is outgrown: each fit runs on all workers of a Dask cluster, every worker with its share
of the rows, by LightGBM's own integration (`lightgbm.dask`).

Models are as good as those of one machine but not the same bytes: bins come from what each worker holds.
"""

from __future__ import annotations

import re
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import cached_property
from threading import Thread
from typing import Any

import dask.array
import lightgbm
import numpy as np
from dask.delayed import delayed
from distributed import Client, KilledWorker
from distributed.client import FutureCancelledError

from readmit_trainer.errors import PartAway
from readmit_trainer.families.fitted import Fitted, Floats, FoldScore, Labels, Params, TrainingRows, log_loss
from readmit_trainer.families.lightgbm import MAX_TREES, RATE, SEARCH_RATE, LightGbm

_CONNECT_S = 10
_LOOK_S = 1.0
# No early stopping: it would need all workers to agree. All trees, and the best number of them is looked up.
_STEP = 10
# Until LightGBM's own connections between workers count as lost, in minutes.
_SOCKET_MINUTES = 2
# How Dask says that workers run other versions, and LightGBM that another worker has gone.
_OF_THE_CLUSTER = re.compile("version|socket|connect", re.IGNORECASE)
# What a model's text tells of the machines that it was made on.
_MACHINES = re.compile(r"^\[(?:machines|local_listen_port|num_machines): .*\]\n", re.MULTILINE)


class LightGbmOnDask(LightGbm):
    """As LightGbm, with the cluster's threads in place of `data.threads`; it cannot go on from an earlier model.

    Raises PartAway when the scheduler or all workers are away, also in mid-fit.
    """

    def __init__(self, data: TrainingRows, scheduler: str) -> None:
        super().__init__(data)
        with _cluster_there(scheduler):
            connect: Any = Client  # untyped
            self._client = connect(scheduler, timeout=_CONNECT_S)
            weakref.finalize(self, self._client.close)
            self._client.get_versions(check=True, packages=["lightgbm"])
        self._scheduler = scheduler
        # What each machine decides by itself.
        self._fixed = {name: value for name, value in self._fixed.items() if name != "num_threads"}

    def score_fold(self, params: Params, held_out: int) -> FoldScore:
        """`num_trees` is the best number, at the last fit's rate."""
        booster = self._boost({**params, "learning_rate": SEARCH_RATE}, MAX_TREES, leave_out=held_out)
        out = self._data.fold == held_out
        rows, labels = self._data.rows[out], self._data.labels[out]
        losses = _losses_by_trees(booster, rows, labels)
        best = int(np.argmin(losses))
        trees = round((best + 1) * _STEP * SEARCH_RATE / RATE)
        return FoldScore(losses[best], {**params, "num_trees": trees})

    def fit(self, params: Params) -> Fitted:
        """The model file is LightGBM's own text format, without the addresses of the machines."""
        told = {**params, "learning_rate": RATE}
        booster = self._boost(told, int(told.pop("num_trees")), leave_out=None)
        return self._fitted(booster, told)

    def _boost(self, params: Params, trees: int, leave_out: int | None) -> lightgbm.Booster:
        with _cluster_there(self._scheduler):
            folds = [part for fold, part in enumerate(self._parts) if fold != leave_out]
            concatenate: Any = dask.array.concatenate
            rows = concatenate([chunk for chunks, _ in folds for chunk in chunks])
            labels = concatenate([chunk for _, chunks in folds for chunk in chunks])
            told: dict[str, Any] = {**self._fixed, **params, "n_estimators": trees, "time_out": _SOCKET_MINUTES}
            # A regressor with the objective of a classifier: a worker need not hold both classes.
            model = lightgbm.DaskLGBMRegressor(client=self._client, **told)
            self._while_all_work(lambda: model.fit(rows, labels))
        return lightgbm.Booster(model_str=_MACHINES.sub("", model.booster_.model_to_string()))

    def _while_all_work(self, fit: Callable[[], object]) -> None:
        """Dask would wait for ever for the share of a worker that has gone, since no other one may take it."""
        ended: Future[object] = Future()

        def run() -> None:
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Parameter n_jobs will be ignored")  # LightGBM's own default
                    ended.set_result(fit())
            except BaseException as error:  # noqa: BLE001  raised again below
                ended.set_exception(error)

        Thread(target=run, name="dask-fit", daemon=True).start()
        while not wait([ended], timeout=_LOOK_S).done:
            gone = set(self._workers) - set(self._client.nthreads())
            if gone:
                self._client.close()  # which ends the fit as well
                raise PartAway(
                    f"the Dask cluster of {self._scheduler} lost {', '.join(sorted(gone))} in mid-fit", "dask_away"
                )
        ended.result()

    @cached_property
    def _workers(self) -> list[str]:
        workers = sorted(self._client.nthreads())
        if not workers:
            raise PartAway(
                f"no worker at the Dask scheduler {self._scheduler}: start some, or unset TRAINER_DASK_SCHEDULER",
                "dask_away",
            )
        return workers

    @cached_property
    def _parts(self) -> list[tuple[list[Any], list[Any]]]:
        """Rows and labels of each fold, a chunk on every worker; sent once, however many fits there are."""
        parts = []
        for fold in range(self._data.folds):
            places = np.flatnonzero(self._data.fold == fold)
            of_workers = [(worker, places[at :: len(self._workers)]) for at, worker in enumerate(self._workers)]
            parts.append((
                [self._chunk(self._data.rows[where], worker) for worker, where in of_workers],
                [self._chunk(self._data.labels[where].astype(np.float64), worker) for worker, where in of_workers],
            ))  # fmt: skip
        return parts

    def _chunk(self, values: Floats, worker: str) -> Any:
        there = delayed(self._client.scatter(values, workers=[worker], hash=False))
        from_delayed: Any = dask.array.from_delayed
        return from_delayed(there, values.shape, dtype=values.dtype)


def _losses_by_trees(booster: lightgbm.Booster, rows: Floats, labels: Labels) -> list[float]:
    """Mean log loss in nats of the first 10, 20, 30 … trees."""
    margins = np.zeros(len(rows))
    losses = []
    for first in range(0, booster.num_trees(), _STEP):
        margins += booster.predict(rows, start_iteration=first, num_iteration=_STEP, raw_score=True)
        losses.append(log_loss(labels, 1 / (1 + np.exp(-margins))))
    return losses


@contextmanager
def _cluster_there(scheduler: str) -> Iterator[None]:
    """A cluster that does not answer, or loses workers in mid-fit, as PartAway."""
    try:
        yield
    except (OSError, TimeoutError, KilledWorker, FutureCancelledError) as error:
        raise PartAway(f"the Dask cluster of {scheduler}: {type(error).__name__}: {error}", "dask_away") from error
    except (ValueError, lightgbm.basic.LightGBMError) as error:
        if not _OF_THE_CLUSTER.search(str(error)):
            raise
        raise PartAway(f"the Dask cluster of {scheduler}: {error}", "dask_away") from error
