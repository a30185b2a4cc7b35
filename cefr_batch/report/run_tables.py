"""What a report says of one complete run: its tables, and the phrases that depend on what happened in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cefr_batch.config.schema import STARTER
from cefr_batch.i18n.language import N_, NONE
from cefr_batch.records import layout
from cefr_batch.records.exports import ExportRecord
from cefr_batch.records.figures import reduction_percent
from cefr_batch.records.losses import TokenLoss
from cefr_batch.records.metrics import Metrics
from cefr_batch.records.spec import StartingAdapter
from cefr_batch.records.stages import DatasetFigures, MergeCheck
from cefr_batch.records.training import LogEntry, TrainingFigures
from cefr_batch.report.blocks import Table
from cefr_batch.report.collect import Result
from cefr_batch.report.compare import flat
from cefr_batch.report.markdown import Inline, ReportLanguage, code, joined, strong

Settings = Mapping[str, Any]  # a spec's values under their dotted keys

METHODS = {"unsloth": N_("LoRA with Unsloth"), "peft": N_("LoRA with PEFT and TRL")}
ARTIFACTS = {
    layout.ADAPTER: N_("LoRA adapter (PEFT)"),
    layout.MERGED: N_("Merged model (16-bit)"),
    layout.CHECKPOINTS: N_("Checkpoints"),
    layout.TENSORBOARD: N_("TensorBoard logs"),
    layout.LOGS: N_("Job logs"),
    layout.PLOTS: N_("Plots, 300 DPI"),
}
MEASURED = {
    "response": N_("Response only"),
    "full": N_("All tokens"),
    "seed_protocol": N_("First report's protocol"),
}  # key: row of the table
SPLIT = {"seen": N_("Sentences seen in training"), "unseen": N_("Sentences not seen in training")}
MOST_EVALUATIONS = 15  # rows of a loss progression; of a longer run it shows a selection


def settings_of(result: Result) -> Settings:
    """The run's settings under their dotted keys."""
    return dict(flat(result.spec))


def method(m: Metrics, t: ReportLanguage) -> Inline:
    """How the model was fine-tuned."""
    return t(METHODS[m.backend]) if m.backend in METHODS else m.backend


def dataset_key(result: Result) -> str:
    """Where the store holds the run's dataset."""
    return layout.dataset_key(result.dataset, "")


def share_of_examples(n: int, data: DatasetFigures, t: ReportLanguage) -> Inline:
    """``160 examples (88.9%)``"""
    total = max(1, data.train_examples + data.eval_examples)
    return t("{n} examples ({share})", n=t.count(n), share=t.percent(100 * n / total))


def data_format(settings: Settings, t: ReportLanguage) -> Inline:
    """The format of the examples and where they came from."""
    source = settings.get("data.source")
    if source is None:
        train, evaluation = (code(settings.get(key)) for key in ("data.train", "data.eval"))
        return t("list format, ready-made files {train} and {eval}", train=train, eval=evaluation)
    return t(
        "list format ({n} words → {n} sentences per example), built from {origin}, split by {split}",
        n=settings.get("data.words_per_example"),
        origin=t("the starter corpus") if source == STARTER else code(source),
        split=code(settings.get("data.split_by")),
    )


def hyperparameters(m: Metrics, settings: Settings, t: ReportLanguage) -> list[str]:
    """Lines of TOML, with a comment where this run used something else than the setting says."""
    comments = _comments(m, settings, t)
    return [
        f"{key} = {json.dumps(value, ensure_ascii=False)}{comments.get(key, '')}"
        for key, value in settings.items()
        if key.startswith(("model.", "lora.", "training.")) and value is not None
    ]


def _comments(m: Metrics, settings: Settings, t: ReportLanguage) -> dict[str, str]:
    comments = {}
    batch, accumulated = (settings.get(f"training.{k}") for k in ("batch_size", "gradient_accumulation_steps"))
    if isinstance(batch, int) and isinstance(accumulated, int):
        effective = t.text("effective batch size: {n}", n=t.count(batch * accumulated))
        comments["training.gradient_accumulation_steps"] = effective
    if m.machine and m.machine.gpu is None:
        if settings.get("model.load_in_4bit"):
            comments["model.load_in_4bit"] = t.text("without a GPU: not quantized")
        if settings.get("training.optimizer") == "adamw_8bit":
            comments["training.optimizer"] = t.text("without a GPU: adamw")
    return {key: f"  # {text}" for key, text in comments.items()}


def hardware(m: Metrics, t: ReportLanguage, *, number: bool = False) -> Inline:
    """The GPU, or the CPU where there was none; ``number``: with how many GPUs, if more than one."""
    if m.machine is None:
        return NONE
    if m.machine.gpu is None:
        return t("{cpu}, {n} threads, no GPU", cpu=m.machine.cpu, n=m.machine.threads)
    several = f"{m.train.gpus} x " if number and m.train.gpus and m.train.gpus > 1 else ""
    memory = f" {m.machine.gpu_memory_gb:.0f} GB" if m.machine.gpu_memory_gb else ""
    return f"{several}{m.machine.gpu}{memory}"


def out_of_memory(train: TrainingFigures, t: ReportLanguage) -> Inline:
    """Which batches did not fit, and with what batch size training continued."""
    failed = [
        t("at step {step} with a batch of {n} examples", step=t.count(one.step), n=t.count(one.batch_size))
        for one in train.out_of_memory
    ]
    now = f"{train.batch_size} x {train.gradient_accumulation_steps}"
    return t("{failed}; training continued with {now}, the same effective batch size", failed=joined(failed), now=now)


def early_stop(train: TrainingFigures, t: ReportLanguage) -> Inline:
    """Why training ended before its last step; empty if it did not."""
    if train.stopped_early is None:
        return ""
    n = train.stopped_early.evaluations
    values = {"step": t.count(train.steps), "planned": t.count(train.stopped_early.planned_steps)}
    if n == 1:
        return t(
            "Training stopped early after step {step} of {planned}: an evaluation brought no lower loss.", **values
        )
    return t(
        "Training stopped early after step {step} of {planned}: no lower loss in {n} evaluations.",
        n=t.count(n),
        **values,
    )


def evaluations(m: Metrics) -> list[LogEntry]:
    """The log's entries with an evaluation loss."""
    return [e for e in m.log if e.eval_loss is not None]


def evaluations_shown(m: Metrics) -> list[LogEntry]:
    """At most about ``MOST_EVALUATIONS``, evenly spaced, with the first, the best and the last."""
    evaluated = evaluations(m)
    last = len(evaluated) - 1
    if last < MOST_EVALUATIONS:
        return evaluated
    kept = {round(i * last / (MOST_EVALUATIONS - 1)) for i in range(MOST_EVALUATIONS)}
    return [e for i, e in enumerate(evaluated) if i in kept or (m.best and e.step == m.best.step)]


def progression(m: Metrics, t: ReportLanguage) -> Table:
    """Training and evaluation loss by step."""
    trained = [e for e in m.log if e.loss is not None]
    notes = _notes(trained, evaluations(m), m, t)
    steps = sorted({e.step for e in (*trained[:1], *evaluations_shown(m), *trained[-1:])})
    rows = [_progression_row(step, m, notes.get(step, []), t) for step in steps]
    header = (t("Epoch"), t("Step"), t("Train loss"), t("Eval loss"), t("Note"))
    return Table(t("Loss by training step"), header, rows, range(4))


def _progression_row(step: int, m: Metrics, notes: Sequence[Inline], t: ReportLanguage) -> Sequence[Inline]:
    here = [e for e in m.log if e.step == step]
    loss = next((e.loss for e in here if e.loss is not None), None)
    eval_loss = t.figure(next((e.eval_loss for e in here if e.eval_loss is not None), None))
    if m.best and step == m.best.step:
        eval_loss = strong(eval_loss)
    return t.figure(here[0].epoch), t.count(step), t.figure(loss), eval_loss, joined(notes)


def _notes(
    trained: Sequence[LogEntry], evaluated: Sequence[LogEntry], m: Metrics, t: ReportLanguage
) -> dict[int, list[Inline]]:
    """What is special about a step, by step."""
    notes: dict[int, list[Inline]] = {}

    def note(entries: Iterable[LogEntry], text: Inline) -> None:
        for entry in entries:
            notes.setdefault(entry.step, []).append(text)

    note(trained[:1], t("first training loss"))
    note(evaluated[:1], t("first evaluation"))
    if m.best:
        note((e for e in evaluated if m.best and e.step == m.best.step), t("best"))
        for entry in evaluated:
            above = (entry.eval_loss or 0) - m.best.eval_loss
            if entry.step > m.best.step and round(above, 3) > 0:
                note([entry], t("{x} above the best", x=t.figure(above, 3)))
    note(evaluated[-1:], t("last evaluation"))
    note(trained[-1:], t("last training loss"))
    return notes


def training_loss_change(m: Metrics, t: ReportLanguage) -> Inline:
    """From the first to the last training loss; empty where there are none to compare."""
    losses = [e.loss for e in m.log if e.loss is not None]
    if not losses or losses[0] <= 0:
        return ""
    fall = reduction_percent(losses[0], losses[-1])
    values = {"first": t.figure(losses[0]), "last": t.figure(losses[-1]), "share": t.percent(abs(fall))}
    if fall >= 0:
        return t("Training loss: {first} → {last}, {share} lower.", **values)
    return t("Training loss: {first} → {last}, {share} higher.", **values)


def evaluated_on(m: Metrics, t: ReportLanguage) -> Inline:
    """How many examples and tokens the losses are measured on."""
    values = {"tokens": t.count(m.tuned.full.tokens), "response": t.count(m.tuned.response.tokens)}
    values |= {"used": t.count(m.examples_evaluated), "all": t.count(m.data.eval_examples)}
    if m.examples_evaluated == m.data.eval_examples:
        return t(
            "Before and after, on all {all} evaluation examples: {tokens} tokens, {response} of them in the responses.",
            **values,
        )
    return t(
        "Before and after, on {used} of the {all} evaluation examples: {tokens} tokens, {response} of them in the "
        "responses.",
        **values,
    )


def baseline(m: Metrics, t: ReportLanguage) -> Table:
    """Loss and perplexity before and after, by which tokens count."""
    header = (
        t("Loss over"),
        t("Baseline"),
        t("Tuned"),
        t("Reduction"),
        t("Baseline perplexity"),
        t("Tuned perplexity"),
        t("Perplexity reduction"),
    )
    rows = []
    for key, label in MEASURED.items():
        before, after, reduction = (getattr(part, key) for part in (m.baseline, m.tuned, m.reduction))
        figures = (before.loss, after.loss, before.perplexity, after.perplexity)
        rows.append(_baseline_row(t(label), figures, reduction.loss_percent, reduction.perplexity_percent, t))
    for key, (before, after) in seen_and_unseen(m).items():
        figures = (before.loss, after.loss, before.perplexity, after.perplexity)
        falls = (reduction_percent(before.loss, after.loss), reduction_percent(before.perplexity, after.perplexity))
        rows.append(_baseline_row(t(SPLIT[key]), figures, *falls, t))
    return Table(t("Loss and perplexity before and after fine-tuning"), header, rows, range(1, 7))


def _baseline_row(
    label: Inline, figures: Sequence[float], loss_percent: float, perplexity_percent: float, t: ReportLanguage
) -> Sequence[Inline]:
    loss, tuned, perplexity, tuned_perplexity = map(t.figure, figures)
    return (
        label,
        loss,
        tuned,
        strong(t.percent(loss_percent)),
        perplexity,
        tuned_perplexity,
        t.percent(perplexity_percent),
    )


def not_lowered(m: Metrics, t: ReportLanguage) -> list[Inline]:
    """Over which tokens the loss is not lower after fine-tuning."""
    return [t(label) for key, label in MEASURED.items() if getattr(m.tuned, key).loss >= getattr(m.baseline, key).loss]


def seen_and_unseen(m: Metrics) -> dict[str, tuple[TokenLoss, TokenLoss]]:
    """Baseline and tuned over the ``seen`` and the ``unseen`` evaluation sentences; empty unless there are both kinds."""
    found = {key: (getattr(m.baseline, key), getattr(m.tuned, key)) for key in SPLIT}
    return found if all(before and after for before, after in found.values()) else {}


def artifacts(result: Result, t: ReportLanguage) -> Table:
    """What the run left in the store, by kind."""
    rows = []
    for name, label in ARTIFACTS.items():
        sizes = [o.size for o in result.objects if o.key.startswith(f"{name}/")]
        if sizes:
            where = code(layout.run_key(result.run, name, ""))
            rows.append((t(label), where, t.count(len(sizes)), t.size(sum(sizes))))
    header = (t("What"), t("Key in the store"), t("Files"), t("Size"))
    return Table(t("Objects of the run"), header, rows, (2, 3))


def exports(result: Result, t: ReportLanguage) -> Table:
    """The model for other programs, and how each file did when llama.cpp ran it."""
    header = (t("Form"), t("Size"), t("Prompts equal"), t("Greedy texts equal"), t("Loss"), t("Merged model's loss"))
    rows = [_export_row(one, t) for one in result.exports]
    return Table(t("Exports"), header, rows, range(1, 6))


def _export_row(one: ExportRecord, t: ReportLanguage) -> Sequence[Inline]:
    form, size = code(one.name), t.size(sum(file.size for file in one.objects))
    if one.check is None:
        return form, size, t("not verified"), NONE, NONE, NONE
    check = one.check
    values = {"n": t.count(check.equal_texts), "all": t.count(check.examples), "ties": t.count(check.ties)}
    texts = (
        t("{n} of {all}, {ties} more except where two tokens are equally probable", **values)
        if check.ties
        else t("{n} of {all}", **values)
    )
    prompts = t("{n} of {all}", n=t.count(check.equal_prompts), all=t.count(check.examples))
    return form, size, prompts, texts, t.figure(check.exported_loss, 4), t.figure(check.merged_loss, 4)


def not_exported(result: Result, t: ReportLanguage) -> list[Inline]:
    """What is not verified and what the job could not export, and why."""
    unverified = {one.name: one.not_verified for one in result.exports if one.check is None}
    failed = result.metrics.export.failed if result.metrics.export else {}
    return [
        *(t("{form} is not verified: {why}", form=code(form), why=code(why)) for form, why in unverified.items()),
        *(t("{form} was not exported: {why}", form=code(form), why=code(why)) for form, why in failed.items()),
    ]


def has_merged_model(result: Result) -> bool:
    """Whether the run stored a merged model."""
    return any(o.key.startswith(f"{layout.MERGED}/") for o in result.objects)


def merged_type(check: MergeCheck, t: ReportLanguage) -> Inline:
    """In which 16-bit type the merged model is, and why; empty for runs that did not record it."""
    if check.dtype is None:
        return ""
    found = [t("Its weights are in {dtype}.", dtype=code(check.dtype))]
    others = {name: change for name, change in check.tried.items() if name != check.dtype}
    for name, change in others.items():
        found.append(
            t(
                "Rounding to this type changes an example's loss by {change} per token, rounding to {other} by "
                "{other_change}.",
                change=t.figure(check.tried[check.dtype], 4),
                other=code(name),
                other_change=t.figure(change, 4),
            )
        )
    if check.overflow == "weights":
        found.append(t("`float16` cannot hold some of them."))
    elif check.overflow == "outputs":
        found.append(t("In `float16` the model would overflow while it computes."))
    return joined(found, " ")


def provenance(result: Result, t: ReportLanguage) -> Table:
    """What the run was made from and on."""
    m = result.metrics
    model = result.spec.get("model")
    revision = m.model_revision or (model.get("revision") if isinstance(model, dict) else None)
    rows = (
        (t("Code"), f"cefr-batch {result.code_version or NONE}"),
        (t("Container image"), code(result.image) if result.image else t("none recorded")),
        (t("Model"), code(m.model)),
        (t("Model revision"), code(revision) if revision else t("not pinned")),
        *([(t("Start of training"), _start(m.adapter, t))] if m.adapter else ()),
        (t("Training data, SHA-256"), code(m.data.train_sha256) if m.data.train_sha256 else NONE),
        (t("Evaluation data, SHA-256"), code(m.data.eval_sha256) if m.data.eval_sha256 else NONE),
        (t("Libraries"), ", ".join(f"{k} {v}" for k, v in sorted(m.versions.items())) or NONE),
        (t("Hardware"), hardware(m, t)),
        (t("Restarts"), _restarts(m, t)),
    )
    return Table(t("Where the run comes from"), (t("What"), t("Value")), rows)


def _start(adapter: StartingAdapter, t: ReportLanguage) -> Inline:
    return t(
        "the adapter of {run}, SHA-256 {sha256}; the baseline is the untrained model without it",
        run=code(adapter.run),
        sha256=code(adapter.sha256),
    )


def _restarts(m: Metrics, t: ReportLanguage) -> Inline:
    """How often the job was started, and how many training steps that cost."""
    if not m.attempts or m.attempts < 2:
        return t("none")
    if not m.repeated_steps:
        return t("{n} attempts, no training step was lost", n=t.count(m.attempts))
    seconds = m.repeated_steps * m.train.duration_seconds / max(1, m.train.steps)
    return t(
        "{n} attempts, {steps} training steps were repeated, about {time}",
        n=t.count(m.attempts),
        steps=t.count(m.repeated_steps),
        time=t.short_duration(seconds),
    )
