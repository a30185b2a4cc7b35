"""The sections of one complete run: what it was trained on, how, and what came out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cefr_batch import layout
from cefr_batch.levels import STARTER
from cefr_batch.numbers import reduction_percent
from cefr_batch.report.collect import Result
from cefr_batch.report.compare import flat
from cefr_batch.report.curves import run_charts
from cefr_batch.report.document import (
    Block,
    Bullets,
    Code,
    Inline,
    Lines,
    Paragraph,
    Section,
    Strong,
    Table,
    Value,
    inline,
    joined,
)
from cefr_batch.report.generation import generation_blocks
from cefr_batch.report.language import N_, NONE, Language
from cefr_batch.report.stored import LogEntry, Machine, MetricsFile, TokenScore, Train

Settings = Mapping[str, Any]  # a spec's values under their dotted keys

METHODS = {"unsloth": N_("LoRA with Unsloth"), "peft": N_("LoRA with PEFT and TRL")}
ARTIFACTS = {
    layout.ADAPTER: N_("LoRA adapter (PEFT)"),
    layout.MERGED: N_("Merged model (16-bit)"),
    layout.CHECKPOINTS: N_("Checkpoints"),
    layout.TENSORBOARD: N_("TensorBoard logs"),
    layout.LOGS: N_("Job logs"),
}
MEASURED = {
    "full": N_("All tokens"),
    "response": N_("Response only"),
    "seed_protocol": N_("Seed protocol"),
}  # key: row of the table
SPLIT = {"seen": N_("Sentences seen in training"), "unseen": N_("Sentences not seen in training")}
MOST_EVALUATIONS = 15  # rows of a loss progression; of a longer run it shows a selection


def run_sections(result: Result, t: Language, key: str, level: str) -> tuple[Block, ...]:
    """All sections of a complete run, from its description to its provenance. ``key``: of the section they are in."""
    m, settings = result.metrics, dict(flat(result.spec))
    parts: tuple[tuple[str, Inline, Sequence[Block]], ...] = (
        ("dataset", t("Dataset"), _dataset(result, settings, t)),
        ("hyperparameters", t("Hyperparameters"), [_hyperparameters(m, settings, t)]),
        ("training", t("Training results"), _training(m, t, level)),
        ("best", t("Best checkpoint"), [_best_checkpoint(m, t)]),
        ("baseline", t("Baseline comparison"), _baseline(m, t)),
        *([("generation", t("Generated sentences"), generation_blocks(result, t))] if m.generation else []),
        ("artifacts", t("Saved artifacts"), _artifacts(result, t)),
        ("provenance", t("Provenance"), _provenance(result, t)),
    )
    model, time = Code(m.model), t.time(result.complete_at)
    method = t(METHODS[m.backend]) if m.backend in METHODS else inline(m.backend)
    about = t(
        "Run {run}: {model}, fine-tuned by {method}, finished {time}.",
        run=Code(result.run),
        model=model,
        method=method,
        time=time,
    )
    return (Paragraph(about), *(Section(title, tuple(blocks), f"{key}-{name}") for name, title, blocks in parts))


def item(name: Inline, value: Value) -> Inline:
    """``**Name:** value``"""
    return (Strong((*name, *inline(":"))), *inline(" "), *inline(value))


def _dataset(result: Result, settings: Settings, t: Language) -> list[Block]:
    data = result.metrics.data
    total = max(1, data.train_examples + data.eval_examples)

    def examples(n: int) -> Inline:
        return t("{n} examples ({share})", n=t.count(n), share=t.percent(100 * n / total))

    items = (
        item(t("Format"), _format(settings, t)),
        item(t("Train set"), examples(data.train_examples)),
        item(t("Eval set"), examples(data.eval_examples)),
        item(t("Unique words"), t.count(data.unique_words)),
        item(t("Longest example"), t("{n} tokens", n=t.count(data.longest_example_tokens))),
        item(t("Stored in"), Code(layout.dataset_key(result.dataset, ""))),
    )
    return [Bullets(items), *leakage(result.metrics, t)]


def _format(settings: Settings, t: Language) -> Inline:
    source = settings.get("data.source")
    if source is None:
        files = [Code(str(settings.get(key))) for key in ("data.train", "data.eval")]
        return t("list format, ready-made files {train} and {eval}", train=files[0], eval=files[1])
    origin = t("the starter corpus") if source == STARTER else inline(Code(str(source)))
    words, split = (str(settings.get(f"data.{key}")) for key in ("words_per_example", "split_by"))
    return t(
        "list format ({n} words → {n} sentences per example), built from {origin}, split by {split}",
        n=words,
        origin=origin,
        split=Code(split),
    )


def leakage(m: MetricsFile, t: Language) -> list[Block]:
    """A warning where evaluation sentences were trained on; that there are none is said too."""
    words = t.percent(m.leakage.words_percent)
    if m.leakage.sentences_percent == 0:
        return [
            Paragraph(
                t(
                    "Leakage: no evaluation sentence stands in the training set; {share} of the evaluation "
                    "words occur in it.",
                    share=words,
                )
            )
        ]
    text = t(
        "**Leakage: {share} of the evaluation sentences stand word for word in the training set.** The figures below "
        "measure recall as well as generalisation; {words} of the evaluation words occur in the training set. "
        "`data.split_by: sentence` keeps the two sets apart.",
        share=t.percent(m.leakage.sentences_percent),
        words=words,
    )
    return [Paragraph(text, "warning")]


def _hyperparameters(m: MetricsFile, settings: Settings, t: Language) -> Lines:
    notes = _remarks(m, settings, t)
    shown = (
        (key, value)
        for key, value in settings.items()
        if key.startswith(("model.", "lora.", "training.")) and value is not None
    )
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" + notes.get(key, "") for key, value in shown]
    return Lines(tuple(lines), "toml")


def _remarks(m: MetricsFile, settings: Settings, t: Language) -> dict[str, str]:
    """What a setting came to in this run."""
    remarks = {}
    batch, accumulated = (settings.get(f"training.{k}") for k in ("batch_size", "gradient_accumulation_steps"))
    if isinstance(batch, int) and isinstance(accumulated, int):
        remarks["training.gradient_accumulation_steps"] = t.text(
            N_("effective batch size: {n}"), n=t.count(batch * accumulated)
        )
    if m.machine and m.machine.gpu is None:
        if settings.get("model.load_in_4bit"):
            remarks["model.load_in_4bit"] = t.text(N_("without a GPU: not quantized"))
        if settings.get("training.optimizer") == "adamw_8bit":
            remarks["training.optimizer"] = t.text(N_("without a GPU: adamw"))
    return {key: f"  # {text}" for key, text in remarks.items()}


def _training(m: MetricsFile, t: Language, level: str) -> list[Block]:
    items = [
        item(t("Duration"), t.duration(m.train.duration_seconds)),
        item(t("Total steps"), t("{n} ({epochs} epochs)", n=t.count(m.train.steps), epochs=t.figure(m.train.epochs))),
        item(t("Train samples/sec"), t.figure(m.train.samples_per_second)),
    ]
    if m.machine:
        number = f"{m.train.gpus} x " if m.train.gpus and m.train.gpus > 1 else ""
        items.append(item(t("Hardware"), joined((number, hardware(m.machine, t)), "")))
    if m.train.out_of_memory:
        items.append(item(t("Out of memory"), _out_of_memory(m.train, t)))
    blocks: list[Block] = [Bullets(tuple(items))]
    return [*blocks, Section(t("Loss progression"), tuple(_progression(m, t))), run_charts(m, t, level)]


def _out_of_memory(train: Train, t: Language) -> Inline:
    failed = [
        t("at step {step} with {n} examples at once", step=t.count(one.step), n=t.count(one.batch_size))
        for one in train.out_of_memory
    ]
    now = f"{train.batch_size} x {train.gradient_accumulation_steps}"
    return t("{failed}; trained on with {now}, the effective batch size as before", failed=joined(failed), now=now)


def hardware(machine: Machine, t: Language) -> Inline:
    if machine.gpu is None:
        return t("{cpu}, {n} threads, no GPU", cpu=machine.cpu, n=str(machine.threads))
    memory = f" {machine.gpu_memory_gb:.0f} GB" if machine.gpu_memory_gb else ""
    return inline(machine.gpu + memory)


def _progression(m: MetricsFile, t: Language) -> list[Block]:
    trained = [e for e in m.log if e.loss is not None]
    evaluated = [e for e in m.log if e.eval_loss is not None]
    shown = _selection(evaluated, m)
    notes = _notes(trained, evaluated, m, t)
    steps = sorted({e.step for e in (*trained[:1], *shown, *trained[-1:])})
    rows = tuple(_progression_row(step, m, notes.get(step, []), t) for step in steps)
    header = (t("Epoch"), t("Step"), t("Train loss"), t("Eval loss"), t("Note"))
    blocks: list[Block] = [Table(t("Loss by step of the training"), header, rows, frozenset(range(4)))]
    if len(shown) < len(evaluated):
        message = t(
            "{shown} of {n} evaluations are shown; {file} has all.",
            shown=t.count(len(shown)),
            n=t.count(len(evaluated)),
            file=Code(layout.METRICS),
        )
        blocks.append(Paragraph(message))
    return [*blocks, *_loss_fall(trained, t)]


def _progression_row(step: int, m: MetricsFile, notes: Sequence[Inline], t: Language) -> tuple[Inline, ...]:
    here = [e for e in m.log if e.step == step]
    loss = next((e.loss for e in here if e.loss is not None), None)
    eval_loss = inline(t.figure(next((e.eval_loss for e in here if e.eval_loss is not None), None)))
    if m.best and step == m.best.step:
        eval_loss = inline(Strong(eval_loss))
    return inline(t.figure(here[0].epoch)), inline(t.count(step)), inline(t.figure(loss)), eval_loss, joined(notes)


def _selection(evaluated: Sequence[LogEntry], m: MetricsFile) -> list[LogEntry]:
    """At most about ``MOST_EVALUATIONS``, evenly spaced, with the first, the best and the last."""
    last = len(evaluated) - 1
    if last < MOST_EVALUATIONS:
        return list(evaluated)
    kept = {round(i * last / (MOST_EVALUATIONS - 1)) for i in range(MOST_EVALUATIONS)}
    return [e for i, e in enumerate(evaluated) if i in kept or (m.best and e.step == m.best.step)]


def _notes(
    trained: Sequence[LogEntry], evaluated: Sequence[LogEntry], m: MetricsFile, t: Language
) -> dict[int, list[Inline]]:
    """What a step of the progression is, by step."""
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


def _loss_fall(trained: Sequence[LogEntry], t: Language) -> list[Block]:
    first, last = (trained[i].loss if trained else None for i in (0, -1))
    if not first or last is None or first < 0:
        return []
    fall = reduction_percent(first, last)
    values = {"first": t.figure(first), "last": t.figure(last), "share": t.percent(abs(fall))}
    lower, higher = (
        N_("Training loss: {first} → {last}, {share} lower."),
        N_("Training loss: {first} → {last}, {share} higher."),
    )
    return [Paragraph(t(lower if fall >= 0 else higher, **values))]


def _best_checkpoint(m: MetricsFile, t: Language) -> Paragraph:
    if m.best is None:
        return Paragraph(t("There was no evaluation during training: the result is the last step's adapter."))
    return Paragraph(
        t(
            "Step {step} (epoch {epoch}), with an evaluation loss of **{loss}**. Its adapter is the result: everything "
            "below is measured on it.",
            step=t.count(m.best.step),
            epoch=t.figure(m.best.epoch),
            loss=t.figure(m.best.eval_loss, 3),
        )
    )


def _baseline(m: MetricsFile, t: Language) -> list[Block]:
    header = (
        t("Loss over"),
        t("Baseline"),
        t("Tuned"),
        t("Reduction"),
        t("Baseline perplexity"),
        t("Tuned perplexity"),
        t("Perplexity reduction"),
    )
    rows, worse = [], []
    for key, label in MEASURED.items():
        before, after, reduction = (getattr(part, key) for part in (m.baseline, m.tuned, m.reduction))
        figures = (before.loss, after.loss, before.perplexity, after.perplexity)
        rows.append(_baseline_row(t(label), figures, reduction.loss_percent, reduction.perplexity_percent, t))
        worse += [t(label)] if after.loss >= before.loss else []
    rows += _split_rows(m, t)
    table = Table(t("Loss and perplexity before and after fine-tuning"), header, tuple(rows), frozenset(range(1, 7)))
    blocks: list[Block] = [Paragraph(_evaluated_on(m, t)), table]
    if worse:
        blocks.append(
            Paragraph(t("**Fine-tuning did not lower the loss** over: {what}.", what=joined(worse)), "warning")
        )
    return [*blocks, *_split_note(m, t)]


def _baseline_row(
    label: Inline, figures: Sequence[float], loss_percent: float, perplexity_percent: float, t: Language
) -> tuple[Inline, ...]:
    loss, tuned, perplexity, tuned_perplexity = (inline(t.figure(value)) for value in figures)
    fall = inline(Strong(inline(t.percent(loss_percent))))
    return label, loss, tuned, fall, perplexity, tuned_perplexity, inline(t.percent(perplexity_percent))


def _split(m: MetricsFile) -> dict[str, tuple[TokenScore, TokenScore]]:
    """Baseline and tuned over the seen and the unseen evaluation sentences, where there are any of both kinds."""
    found = {key: (getattr(m.baseline, key), getattr(m.tuned, key)) for key in SPLIT}
    return found if all(before and after for before, after in found.values()) else {}


def _split_rows(m: MetricsFile, t: Language) -> list[tuple[Inline, ...]]:
    rows = []
    for key, (before, after) in _split(m).items():
        figures = (before.loss, after.loss, before.perplexity, after.perplexity)
        falls = (reduction_percent(before.loss, after.loss), reduction_percent(before.perplexity, after.perplexity))
        rows.append(_baseline_row(t(SPLIT[key]), figures, *falls, t))
    return rows


def _split_note(m: MetricsFile, t: Language) -> list[Block]:
    split = _split(m)
    if not split:
        return []
    message = t(
        "The sentences that were not seen in training have {unseen} tokens, the seen ones {seen}: the row of the "
        "unseen ones says more about new sentences, and less precisely the fewer they are.",
        unseen=t.count(split["unseen"][1].tokens),
        seen=t.count(split["seen"][1].tokens),
    )
    return [Paragraph(message)]


def _evaluated_on(m: MetricsFile, t: Language) -> Inline:
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


def _artifacts(result: Result, t: Language) -> list[Block]:
    rows = []
    for name, label in {**ARTIFACTS, layout.PLOTS: N_("Plots, 300 DPI")}.items():
        sizes = [o.size for o in result.objects if o.key.startswith(f"{name}/")]
        if sizes:
            where = Code(layout.run_key(result.run, name, ""))
            rows.append((t(label), inline(where), inline(t.count(len(sizes))), inline(t.size(sum(sizes)))))
    header = (t("What"), t("Key in the store"), t("Files"), t("Size"))
    blocks: list[Block] = [Table(t("Objects of the run"), header, tuple(rows), frozenset((2, 3)))]
    blocks.append(Paragraph(t("To get them, checked against their SHA-256:")))
    blocks.append(Lines((f"cefr-batch pull {result.run} --only adapter,merged",), "console"))
    if any(o.key.startswith(f"{layout.MERGED}/") for o in result.objects):
        blocks.append(
            Paragraph(
                t("`AutoModelForCausalLM.from_pretrained` of transformers loads the merged model's folder as it is.")
            )
        )
    merge = result.metrics.merge
    if merge:
        message = t(
            "The merged model was loaded again and checked on {n} examples: loss {merged} (with the adapter: "
            "{adapter}).",
            n=t.count(merge.examples),
            merged=t.figure(merge.merged_loss, 4),
            adapter=t.figure(merge.adapter_loss, 4),
        )
        blocks.append(Paragraph(message))
    return blocks


def _provenance(result: Result, t: Language) -> list[Block]:
    m = result.metrics
    revision = m.model_revision or result.spec.get("model", {}).get("revision")
    rows: list[tuple[Inline, Value]] = [
        (t("Code"), f"cefr-batch {result.code_version or NONE}"),
        (t("Container image"), Code(result.image) if result.image else t("none recorded")),
        (t("Model"), Code(m.model)),
        (t("Model revision"), Code(str(revision)) if revision else t("not pinned")),
        (t("Training data, SHA-256"), Code(m.data.train_sha256) if m.data.train_sha256 else NONE),
        (t("Evaluation data, SHA-256"), Code(m.data.eval_sha256) if m.data.eval_sha256 else NONE),
        (t("Libraries"), ", ".join(f"{k} {v}" for k, v in sorted(m.versions.items())) or NONE),
        (t("Hardware"), hardware(m.machine, t) if m.machine else NONE),
        (t("Restarts"), _restarts(m, t)),
    ]
    header = (t("What"), t("Value"))
    return [Table(t("Where the run comes from"), header, tuple((name, inline(value)) for name, value in rows))]


def _restarts(m: MetricsFile, t: Language) -> Value:
    """What restarts cost."""
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
