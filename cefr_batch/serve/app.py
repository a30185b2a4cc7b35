"""The server's addresses: the page to try models, the runs of the store, and what their scripts ask for."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from cefr_batch.config.schema import Level
from cefr_batch.errors import CefrBatchError, NotFound
from cefr_batch.records import layout
from cefr_batch.report.curves import run_charts
from cefr_batch.report.page import charts_html, page_style
from cefr_batch.report.write import make_report, render
from cefr_batch.runner import Session
from cefr_batch.serve.dashboard import STAGES, STATES, Filter, evaluation_words, list_runs, run_details
from cefr_batch.serve.downloads import CSV, DOCX, SavedTable, as_csv, as_docx
from cefr_batch.serve.guard import Guard
from cefr_batch.serve.pages import Page
from cefr_batch.serve.texts import script_texts
from cefr_batch.serve.writing import Refused, WriteRequest, Writing

log = logging.getLogger(__name__)

_MOST_BYTES = 5_000_000  # of a request
# A report is a page of its own, whose head allows its own style and script alone, by their hashes.
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'"

M = TypeVar("M", bound=BaseModel)


def make_app(session: Session, names: Collection[str], writing: Writing | None = None) -> Starlette:
    """The web application for a store. ``names``: by which it may be asked, see ``guard``; ``writing``: the models to try,
    if there are some."""
    runs = _RunPages(session, models=writing is not None)
    own = _WritePages(session, writing).routes() if writing else [Route("/", _to_runs)]
    routes = [
        *own,
        *runs.routes(),
        Route("/report.css", _style),
        Mount("/static", StaticFiles(packages=[("cefr_batch.serve", "static")])),
    ]
    handlers: dict[int | type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        HTTPException: runs.refused,
        CefrBatchError: runs.failed,
    }
    return Starlette(routes=routes, middleware=[Middleware(Guard, names=names)], exception_handlers=handlers)


class _WritePages:
    """The page to try models, and what its script asks for."""

    def __init__(self, session: Session, writing: Writing) -> None:
        self._session, self._writing = session, writing

    def routes(self) -> list[Route]:
        return [
            Route("/", self.start),
            Route("/words", self.words),
            Route("/write", self.write, methods=["POST"]),
            Route("/download", self.download, methods=["POST"]),
        ]

    async def start(self, request: Request) -> Response:
        page, voices = Page(request), self._writing.writer.voices
        sizes = sorted({voice.words for voice in voices if voice.words})
        example = (await run_in_threadpool(self._examples) or [[]])[0]
        texts = script_texts(page.t)
        return HTMLResponse(page.render("write", models=True, voices=voices, sizes=sizes, example=example, texts=texts))

    async def words(self, request: Request) -> Response:
        """The words of an evaluation example, by its number."""
        examples = await run_in_threadpool(self._examples)
        number = _number(request, "n") or 0
        return JSONResponse({"words": examples[number % len(examples)] if examples else []})

    def _examples(self) -> list[list[str]]:
        """The words of each evaluation example of the first run that has some."""
        runs = [voice.name for voice in self._writing.writer.voices if voice.level and layout.is_run_name(voice.name)]
        return next((found for run in runs if (found := evaluation_words(self._session.store, run))), [])

    async def write(self, request: Request) -> Response:
        """A line of JSON for each event."""
        page, asked = Page(request), await _body(request, WriteRequest)
        try:
            words = self._writing.check(asked, page.t)
        except Refused as exc:
            return JSONResponse({"message": str(exc)}, 422)
        return StreamingResponse(self._writing.stream(asked, words, page.t), media_type="application/x-ndjson")

    async def download(self, request: Request) -> Response:
        """A file with what the page shows."""
        page, sheet = Page(request), await _body(request, SavedTable)
        if not sheet.is_whole:
            raise HTTPException(422)
        data = await run_in_threadpool(as_docx if sheet.kind == "docx" else as_csv, sheet, page.t)
        disposition = {"Content-Disposition": f'attachment; filename="sentences.{sheet.kind}"'}
        return Response(data, media_type=DOCX if sheet.kind == "docx" else CSV, headers=disposition)


class _RunPages:
    """The runs of the store, and what is said where something cannot be shown."""

    def __init__(self, session: Session, *, models: bool) -> None:
        self._session, self._models = session, models

    def routes(self) -> list[Route]:
        return [
            Route("/runs", self.runs),
            Route("/runs/{run}", self.run),
            Route("/runs/{run}/log", self.log),
            Route("/report", self.report),
        ]

    async def runs(self, request: Request) -> Response:
        page, asked = Page(request), request.query_params
        chosen = Filter(asked.get("level", ""), asked.get("state", ""), asked.get("text", ""))
        found = await run_in_threadpool(list_runs, self._session)
        return self._page(
            page,
            "runs",
            store=self._session.store.url,
            levels=[level.value for level in Level],
            chosen=chosen,
            total=len(found),
            runs=[state for state in found if chosen.takes(state)],
            active=any(not state.settled for state in found),
        )

    async def run(self, request: Request) -> Response:
        page, run = Page(request), request.path_params["run"]
        details = await run_in_threadpool(run_details, self._session, run, _number(request, "attempt"))
        level = details.state.level or ""
        curves = (
            charts_html(run_charts(details.curves, page.t, level), page.t)
            if details.curves and details.curves.log
            else ""
        )
        return self._page(page, "run", run=details, curves=curves)

    async def log(self, request: Request) -> Response:
        """An attempt's whole log as text."""
        run = request.path_params["run"]
        await run_in_threadpool(self._session.find, [run])
        pieces = await run_in_threadpool(self._session.log_pieces, run, _number(request, "attempt"))
        return StreamingResponse(pieces, media_type="text/plain; charset=utf-8")

    async def report(self, request: Request) -> Response:
        """The report of these runs, made now: a stored one is not shown, since anybody may have written it."""
        page, runs = Page(request), request.query_params.getlist("run")

        def made() -> bytes:
            chosen = self._session.find(runs) if runs else []
            return render(make_report(self._session.store, runs=chosen), "html", page.t.code)

        return HTMLResponse(await run_in_threadpool(made), headers={"Content-Security-Policy": _REPORT_POLICY})

    async def refused(self, request: Request, exc: Exception) -> Response:
        """What cannot be asked for."""
        status, page = exc.status_code if isinstance(exc, HTTPException) else 500, Page(request)
        t = page.t
        message = (
            t.text("There is no such page.") if status == 404 else t.text("This server cannot answer that request.")
        )
        return self._page(page, "problem", status, message=message)

    async def failed(self, request: Request, exc: Exception) -> Response:
        """What the store or the models could not do."""
        return self._page(Page(request), "problem", 404 if isinstance(exc, NotFound) else 502, message=str(exc))

    def _page(self, page: Page, template: str, status: int = 200, **values: object) -> Response:
        states = {state.value: page.t.text(name) for state, name in STATES.items()}
        stages = {stage: page.t.text(name) for stage, name in STAGES.items()}
        text = page.render(template, models=self._models, states=states, stages=stages, **values)
        return HTMLResponse(text, status)


async def _to_runs(request: Request) -> Response:
    return RedirectResponse(Page(request).link("/runs"))


async def _style(_request: Request) -> Response:
    return Response(page_style(), media_type="text/css")


def _number(request: Request, name: str) -> int | None:
    """A number in the address; None if it is not there."""
    text = request.query_params.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise HTTPException(404)
    return int(text)


async def _body(request: Request, kind: type[M]) -> M:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MOST_BYTES:
            raise HTTPException(413)
    try:
        return kind.model_validate_json(data)
    except ValidationError as exc:
        raise HTTPException(422) from exc
