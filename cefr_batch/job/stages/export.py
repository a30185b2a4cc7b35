"""Stage ``export``: the merged model for other programs. It never fails a run, whose model is complete without it."""

from __future__ import annotations

import logging
import shutil

from cefr_batch.config.schema import RunSpec
from cefr_batch.errors import CefrBatchError
from cefr_batch.job.context import StageContext
from cefr_batch.records import layout
from cefr_batch.records.exports import ExportResult, GgufType, export_form, export_kind

log = logging.getLogger(__name__)


def wanted(spec: RunSpec) -> bool:
    """Whether a run has this stage."""
    return bool(spec.export)


def run(context: StageContext) -> ExportResult:
    """Make each export, checked by llama.cpp where that is installed. One that fails leaves nothing but its reason."""
    from cefr_batch.export.make import ExportSource, gguf_types, make_gguf

    source = ExportSource(context.work.root.name, context.spec, context.work.path(layout.MERGED), context.work.dataset)
    made, failed = list[GgufType](), dict[str, str]()
    for type_ in gguf_types(context.spec.export):
        folder = context.work.path(layout.export_folder(export_kind(type_)))
        context.progress.begin(f"export {type_}")
        try:
            make_gguf(source, type_, folder)
            made.append(type_)
        except Exception as exc:
            shutil.rmtree(folder, ignore_errors=True)
            known = isinstance(exc, CefrBatchError)
            reason = str(exc) if known else f"{type(exc).__name__}: {exc}"
            failed[export_kind(type_)] = reason
            text = failure(reason, source.run, export_form(type_))
            log.warning("warning: %s", text, exc_info=None if known else exc)
    return ExportResult(made=made, failed=failed)


def given_up(spec: RunSpec, reason: str) -> ExportResult:
    """What is recorded where the stage's process could not say it itself."""
    from cefr_batch.export.make import gguf_types

    return ExportResult(made=[], failed=dict.fromkeys(map(export_kind, gguf_types(spec.export)), reason))


def failure(reason: str, run: str, form: str) -> str:
    """Why an export failed, what that means for the run, and the next step."""
    again = f"cefr-batch export {run} --to {form}"
    return f"the export failed: {reason}. The run completes without it. Fix the cause, then run `{again}`"
