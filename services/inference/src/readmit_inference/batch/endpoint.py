"""`POST /predict/batch` as an ASGI app: rows are answered while the body is still coming."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import structlog
from starlette.types import Message, Receive, Scope, Send

from readmit_inference import metrics
from readmit_inference.batch.bodies import Body, CsvBody, JsonBody, NdjsonBody, Row, Unreadable
from readmit_inference.batch.scoring import BatchScorer, RowAnswer, RowRefusal, of_row
from readmit_inference.batch.spool import Spool
from readmit_inference.batch.writers import Answer, CsvWriter, JsonWriter, NdjsonWriter, Writer
from readmit_inference.champion import Champion
from readmit_inference.domain import Serving, predict
from readmit_inference.errors import (
    BodyTooLarge,
    BodyTooSlow,
    NoModel,
    Overloaded,
    PredictionRefused,
    WrongContentType,
)
from readmit_inference.overload import Overload
from readmit_inference.prediction_log import PredictionLog
from readmit_inference.problems import failure_response, refusal_response

JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
_BODIES: Final[dict[str, Callable[[int], Body]]] = {JSON: JsonBody, NDJSON: NdjsonBody, CSV: CsvBody}
_WRITERS: Final[dict[str, Callable[[], Writer]]] = {JSON: JsonWriter, NDJSON: NdjsonWriter, CSV: CsvWriter}
_ALSO_CALLED: Final = {"application/ndjson": NDJSON, "application/jsonl": NDJSON, "application/x-jsonlines": NDJSON}

#: Rows read together: enough to share the cost of a look at each column, few enough to leave requests their turn.
_SLICE = 512
#: How long rows wait for more of them.
_GATHER_S = 0.02
#: Batches that are answered at once; each has a slice and what fits into the spool in memory.
_AT_ONCE = 4
#: How long a client may leave us with what it does not take.
_TAKING_S = 60.0
#: Rows answered for the log before requests get their turn again: about a millisecond.
_LOGGED_TURN = 12


class ClientGone(Exception):  # noqa: N818  named for what is the case
    """The client has hung up, or takes nothing any more: nobody is there to be told."""


class _Sender:
    """`send` that knows whether a response has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_started = False

    async def __call__(self, message: Message) -> None:
        self.has_started = True
        await self._send(message)


class BatchEndpoint:
    """Reads, answers and sends in pieces; memory does not grow with the number of rows. The champion answers all.

    With `?log=true` rows are answered one by one and kept in `log`, as those of `/predict` are.
    """

    def __init__(
        self,
        champion: Champion,
        log: PredictionLog | None,
        overload: Overload,
        *,
        max_row_bytes: int,
        max_bytes: int,
        timeout_s: float,
        folder: Path,
    ) -> None:
        self._champion = champion
        self._log = log
        self._overload = overload
        self._max_row_bytes = max_row_bytes
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._folder = folder
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._scorer: BatchScorer | None = None
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._under_way >= _AT_ONCE:
            await self._refuse(Overloaded(f"{_AT_ONCE} batches are under way, try again soon."), scope, receive, send)
            return
        self._under_way += 1
        sender = _Sender(send)
        try:
            await self._answer(scope, receive, sender)
        except PredictionRefused as refused:
            await self._refuse(refused, scope, receive, send)
        except ClientGone:
            metrics.BATCHES.labels("gone").inc()
        except Exception:  # noqa: BLE001  a bug: whatever it is, the log gets the traceback
            metrics.BATCHES.labels("failed").inc()
            structlog.get_logger().exception("batch_failed")
            if (
                not sender.has_started
            ):  # else the server closes the connection: the client sees that the rest is missing
                await failure_response()(scope, receive, send)
        finally:
            self._under_way -= 1

    async def _refuse(self, refused: PredictionRefused, scope: Scope, receive: Receive, send: Send) -> None:
        metrics.BATCHES.labels("refused").inc()
        metrics.ERRORS.labels(refused.code).inc()
        await refusal_response(refused)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._overload.check()
        headers = dict(scope["headers"])
        sent_as, answered_as = _types(headers)
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self._max_bytes:
            raise self._too_large()
        serving = self._champion.serving
        if serving is None:
            raise NoModel("No model has been promoted yet, or it is still loading. Try again in a few seconds.")
        body, writer = _BODIES[sent_as](self._max_row_bytes), _WRITERS[answered_as]()
        pieces = self._pieces(serving, self._rows(receive, body), writer, is_logged=_is_logged(scope))
        async with aclosing(pieces):
            first = await anext(pieces)  # until here, a refusal is a problem response
            start = [(b"content-type", answered_as.encode()), *_model_headers(serving)]
            if isinstance(body, CsvBody) and body.ignored:
                start.append((b"readmit-ignored-columns", ",".join(body.ignored).encode("ascii", "replace")))
            await send({"type": "http.response.start", "status": 200, "headers": start})
            await self._stream(first, pieces, send)

    async def _stream(self, first: bytes, pieces: AsyncGenerator[bytes, None], send: Send) -> None:
        """Send while pieces are made, and wait for neither: a client may read nothing before it has sent all."""
        spool = Spool(self._folder)
        try:
            await spool.put(first)
            sending = asyncio.create_task(_send_all(spool, send))
            try:
                async for piece in pieces:
                    if sending.done():
                        break
                    await spool.put(piece)
                spool.end()
                await sending
            except TimeoutError as late:
                raise ClientGone from late
            finally:
                sending.cancel()
        finally:
            spool.close()

    async def _pieces(
        self, serving: Serving, slices: AsyncGenerator[list[Row | Unreadable], None], writer: Writer, *, is_logged: bool
    ) -> AsyncGenerator[bytes, None]:
        """The response in pieces. Raises `PredictionRefused` only before the first of them."""
        row, refused = 1, None
        scorer = self._scorer_of(serving)
        async with aclosing(slices):
            try:
                async for rows in slices:
                    answers = (
                        await self._logged(serving, row, rows) if is_logged else await scorer.answers(row, rows)
                    )  # fmt: skip
                    _count(answers)
                    yield (writer.start(serving) if row == 1 else b"") + writer.rows(answers)
                    row += len(rows)
            except PredictionRefused as error:
                if row == 1:
                    raise
                refused = error
        yield (writer.start(serving) if row == 1 else b"") + writer.end(refused)
        metrics.BATCHES.labels("answered" if refused is None else "cut_off").inc()

    async def _rows(self, receive: Receive, body: Body) -> AsyncGenerator[list[Row | Unreadable], None]:
        """Slices of rows, as they come. Raises `PredictionRefused` when no more can be read, `ClientGone`."""
        rows: list[Row | Unreadable] = []
        size, more = 0, True
        receiving = asyncio.ensure_future(receive())
        try:
            while more:
                await asyncio.wait({receiving}, timeout=_GATHER_S if rows else self._timeout_s)
                if not receiving.done():
                    if not rows:
                        raise BodyTooSlow(f"Nothing came for {self._timeout_s:g} s: send the body without pauses.")
                    yield rows
                    rows = []
                    continue
                message: Any = receiving.result()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                more = message.get("more_body", False)
                if more:
                    receiving = asyncio.ensure_future(receive())
                data = message.get("body", b"")
                size += len(data)
                if size > self._max_bytes:
                    raise self._too_large()
                for row in _fed(body, data, is_last=not more):
                    if isinstance(row, _End):
                        if rows:
                            yield rows
                        raise row.refused
                    rows.append(row)
                    if len(rows) == _SLICE:
                        yield rows
                        rows = []
            if rows:
                yield rows
        finally:
            receiving.cancel()

    async def _logged(
        self, serving: Serving, first: int, rows: list[Row | Unreadable]
    ) -> list[Answer]:  # fmt: skip
        """One by one, each kept in the log; waits for room there as long as Kafka takes what comes."""
        answers: list[Answer] = []
        for at, row in enumerate(rows):
            if at % _LOGGED_TURN == 0:
                await asyncio.sleep(0)
            started = time.perf_counter()
            try:
                if not isinstance(row, Row):
                    raise row
                answered = predict(serving, row.as_encounter())
            except PredictionRefused as refused:
                answers.append(RowRefusal(first + at, refused))
            else:
                latency_s = time.perf_counter() - started
                answers.append(of_row(first + at, answered))
                if self._log is not None:
                    await self._log.room()
                    self._log.add(answered, latency_s)
        return answers

    def _scorer_of(self, serving: Serving) -> BatchScorer:
        if self._scorer is None or self._scorer.serving is not serving:
            self._scorer = BatchScorer(serving, self._executor)
        return self._scorer

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"One batch is at most {self._max_bytes} bytes: send it in parts.")


class _End:
    """The body cannot be read on."""

    def __init__(self, refused: PredictionRefused) -> None:
        self.refused = refused


def _fed(body: Body, data: bytes, *, is_last: bool) -> Any:
    """The rows of a piece, and `_End` in the place of what cannot be read: those before it are answered."""
    try:
        yield from body.feed(data)
        if is_last:
            yield from body.end()
    except PredictionRefused as refused:
        yield _End(refused)


async def _send_all(spool: Spool, send: Send) -> None:
    while (data := await spool.get()) is not None:
        async with asyncio.timeout(_TAKING_S):
            await send({"type": "http.response.body", "body": data, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _count(answers: list[Answer]) -> None:
    given = [answer.readmitted_within_30_days for answer in answers if isinstance(answer, RowAnswer)]
    metrics.BATCH_ROWS.labels("answered").inc(len(given))
    metrics.BATCH_ROWS.labels("refused").inc(len(answers) - len(given))
    metrics.PREDICTIONS.labels("true").inc(sum(given))
    metrics.PREDICTIONS.labels("false").inc(len(given) - sum(given))


def _types(headers: dict[bytes, bytes]) -> tuple[str, str]:
    """As what the batch is sent, and as what it is answered: as `Accept` says, or as it is sent."""
    sent_as = _media_type(headers.get(b"content-type", b"")) or JSON
    if sent_as not in _BODIES:
        raise WrongContentType(f"Send the encounters as {JSON} (an array), {NDJSON} or {CSV}.")
    wanted = (_media_type(part) for part in headers.get(b"accept", b"").split(b","))
    return sent_as, next((kind for kind in wanted if kind in _WRITERS), sent_as)


def _media_type(header: bytes) -> str:
    name = header.split(b";")[0].strip().lower().decode("latin-1")
    return _ALSO_CALLED.get(name, name)


def _is_logged(scope: Scope) -> bool:
    value = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("log", ["false"])[-1]
    return value.lower() in {"true", "1", "yes"}


def _model_headers(serving: Serving) -> list[tuple[bytes, bytes]]:
    named = serving.named
    told = {
        "readmit-model": named.name,
        "readmit-model-version": named.version,
        "readmit-model-sha256": named.sha256,
        "readmit-model-epoch": str(named.epoch),
        "readmit-model-synthetic": str(named.synthetic).lower(),
        "readmit-threshold": repr(serving.model.threshold),
    }
    return [(name.encode(), value.encode("ascii", "replace")) for name, value in told.items()]
