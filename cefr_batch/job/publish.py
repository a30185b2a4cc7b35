"""The last step of a job: metrics.json and its company from the stages' records, the manifest from what is stored."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from cefr_batch.cards.model_card import CardFacts, ModelPart, model_card
from cefr_batch.config.schema import RunSpec
from cefr_batch.data.chat_template import FILE as CHAT_TEMPLATE
from cefr_batch.job.sync import Mirror
from cefr_batch.records import layout
from cefr_batch.records.attempt import Attempt
from cefr_batch.records.document import StoredRecord, read_file
from cefr_batch.records.exports import ExportRecord, ExportResult, export_kind
from cefr_batch.records.figures import reduction_percent
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.losses import (
    EvaluatedExample,
    EvaluatedSentence,
    EvaluationRecord,
    ExampleScore,
    Loss,
    Losses,
    Reduction,
    Reductions,
)
from cefr_batch.records.manifest import Manifest, RunSummary
from cefr_batch.records.metrics import Metrics
from cefr_batch.records.stages import (
    BaselineResult,
    DataResult,
    GenerateResult,
    MergeResult,
    PlotsResult,
    StageRecord,
    StoredObject,
    TrainResult,
    TunedResult,
)
from cefr_batch.records.texts import GenerationRecord
from cefr_batch.records.timestamps import now
from cefr_batch.runner.submission import read_submission
from cefr_batch.store.transfer import hashes

# Objects that change or come after a run is complete, so no manifest can list them.
_MUTABLE = (layout.MANIFEST, layout.STATUS, layout.SUBMISSION, layout.PAUSE)
_LATER = (f"{layout.EVALUATIONS}/", f"{layout.EXPORTS}/", f"{layout.NOTICES}/")


class FinishedStages:
    """The records of all stages of a run, from its work folder. ``export``: None where the run has no such stage."""

    def __init__(self, work: WorkDir) -> None:
        self.data = read_file(StageRecord[DataResult], work.path(layout.stage_name("data")))
        self.baseline = read_file(StageRecord[BaselineResult], work.path(layout.stage_name("baseline")))
        self.train = read_file(StageRecord[TrainResult], work.path(layout.stage_name("train")))
        self.tuned = read_file(StageRecord[TunedResult], work.path(layout.stage_name("tuned")))
        self.generate = read_file(StageRecord[GenerateResult], work.path(layout.stage_name("generate")))
        self.merge = read_file(StageRecord[MergeResult], work.path(layout.stage_name("merge")))
        self.plots = read_file(StageRecord[PlotsResult], work.path(layout.stage_name("plots")))
        exported = work.path(layout.stage_name("export"))
        self.export = read_file(StageRecord[ExportResult], exported) if exported.is_file() else None


@dataclass(frozen=True)
class RunResults:
    """What the results of a run's stages make together; ``None``: there is no such document."""

    metrics: Metrics
    evaluation: EvaluationRecord | None = None
    texts: GenerationRecord | None = None
    exports: Sequence[ExportRecord] = ()
    with_template: Collection[ModelPart] = ()  # whose folders have the trained prompt as a chat template

    @property
    def documents(self) -> dict[str, StoredRecord]:
        """Each document by its name."""
        found = {layout.METRICS: self.metrics, layout.EVALUATION: self.evaluation, layout.GENERATION: self.texts}
        return {name: record for name, record in found.items() if record is not None}

    def cards(self, spec: RunSpec) -> dict[str, str]:
        """The model cards of the adapter, of the merged model and of the exports, by name."""
        facts = CardFacts(self.metrics.run, spec, self.metrics, self.evaluation)
        cards = {layout.export_card(one.name): model_card(facts, one) for one in self.exports}
        for part in get_args(ModelPart):
            of_part = replace(facts, chat_template=part in self.with_template)
            cards[f"{part}/{layout.CARD}"] = model_card(of_part, part)
        return cards


def results(work: WorkDir, run: str, spec: RunSpec, attempts: Sequence[Attempt]) -> RunResults:
    """From the stages' records. ``attempts``: all of the run."""
    stages = FinishedStages(work)
    evaluation = _evaluation(stages.baseline.result, stages.tuned.result)
    made = stages.export.result.made if stages.export else []
    exports = [read_file(ExportRecord, work.path(layout.export_name(export_kind(type_)))) for type_ in made]
    asked = [part for part in get_args(ModelPart) if (work.path(part) / CHAT_TEMPLATE).is_file()]
    return RunResults(metrics(stages, run, spec, attempts), evaluation, stages.generate.result.texts, exports, asked)


def metrics(stages: FinishedStages, run: str, spec: RunSpec, attempts: Sequence[Attempt]) -> Metrics:
    """Every number of the report, with units in the names."""
    data, trained = stages.data.result, stages.train.result
    baseline, tuned = stages.baseline.result.baseline, stages.tuned.result.tuned
    records = [record for record in vars(stages).values() if record is not None]
    found = Metrics(
        run=run,
        level=spec.level.value,
        backend=spec.backend,
        model=spec.model.name,
        attempts=len(attempts),
        repeated_steps=sum(attempt.repeated_steps for attempt in attempts),
        stage_seconds={record.stage: record.seconds for record in records},
        data=data.data,
        evaluation=data.evaluation,
        leakage=data.leakage,
        baseline=baseline,
        train=trained.train,
        log=trained.log,
        best=trained.best,
        machine=trained.machine,
        versions=trained.versions,
        model_revision=trained.model_revision,
        tuned=tuned,
        merge=stages.merge.result.merge,
        plots=stages.plots.result.plots,
        reduction=_reductions(baseline, tuned),
    )
    optional = {
        "generation": stages.generate.result.generation,
        "levels": stages.generate.result.levels,
        "peak_gpu_memory_gb": trained.peak_gpu_memory_gb,
        "adapter": trained.adapter,
        "export": stages.export.result if stages.export else None,
        "model_licence": trained.model_licence,
    }
    return found.model_copy(update={key: value for key, value in optional.items() if value is not None})


def _reductions(baseline: Losses, tuned: Losses) -> Reductions:
    """Of the parts of which both models have tokens."""
    found = Reductions(
        full=_reduction(baseline.full, tuned.full),
        response=_reduction(baseline.response, tuned.response),
        seed_protocol=_reduction(baseline.seed_protocol, tuned.seed_protocol),
    )
    if baseline.seen and tuned.seen:
        found = found.model_copy(update={"seen": _reduction(baseline.seen, tuned.seen)})
    if baseline.unseen and tuned.unseen:
        found = found.model_copy(update={"unseen": _reduction(baseline.unseen, tuned.unseen)})
    return found


def _reduction(before: Loss, after: Loss) -> Reduction:
    return Reduction(
        loss_percent=reduction_percent(before.loss, after.loss),
        perplexity_percent=reduction_percent(before.perplexity, after.perplexity),
    )


def _evaluation(baseline: BaselineResult, tuned: TunedResult) -> EvaluationRecord:
    pairs = zip(baseline.examples, tuned.examples, strict=True)
    return EvaluationRecord(examples=[_evaluated(i, before, after) for i, (before, after) in enumerate(pairs)])


def _evaluated(index: int, before: ExampleScore, after: ExampleScore) -> EvaluatedExample:
    earlier = {sentence.number: sentence.nll for sentence in before.sentences}
    sentences = [
        EvaluatedSentence(number=one.number, tokens=one.tokens, baseline=earlier[one.number], tuned=one.nll)
        for one in after.sentences
        if one.number in earlier
    ]
    return EvaluatedExample(index=index, tokens=after.tokens, baseline=before.nll, tuned=after.nll, sentences=sentences)


def manifest(mirror: Mirror) -> Manifest:
    """Every object of the run with its size and SHA-256, and what a list of runs shows of it. Hashes known from stages and
    checkpoints are reused; other objects are read from the store. Raises ``StoreError``."""
    prefix = layout.run_key(mirror.run) + "/"
    named = {stored.key.removeprefix(prefix): stored for stored in mirror.store.objects(prefix)}
    listed = {name: one for name, one in named.items() if _is_listed(name)}
    known = _known_hashes(mirror)
    read = hashes(mirror.store, [o for name, o in listed.items() if name not in known])
    objects = [StoredObject(key=name, size=o.size, sha256=known.get(name) or read[o.key]) for name, o in listed.items()]
    metrics = mirror.store.get_record(mirror.key(layout.METRICS), Metrics)
    summary = RunSummary.of(metrics, read_submission(mirror.store, mirror.run))
    return Manifest(run=mirror.run, complete_at=now(), objects=objects, summary=summary)


def _is_listed(name: str) -> bool:
    return name not in _MUTABLE and not name.startswith(_LATER) and not layout.is_foreign(name)


def _known_hashes(mirror: Mirror) -> dict[str, str]:
    stages = mirror.stage_records().values()
    known = {stored.key: stored.sha256 for record in stages for stored in record.objects}
    for step, checkpoint in mirror.checkpoint_records().items():
        known |= {f"{layout.checkpoint_name(step)}/{file.name}": file.sha256 for file in checkpoint.files}
    return known
