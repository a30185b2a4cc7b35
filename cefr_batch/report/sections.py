"""The Markdown of one complete run: what it was trained on, how, and what came out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cefr_batch import layout
from cefr_batch.levels import STARTER
from cefr_batch.numbers import reduction_percent
from cefr_batch.report.collect import Result
from cefr_batch.report.compare import flat
from cefr_batch.report.stored import LogEntry, Machine, MetricsFile, Train
from cefr_batch.report.text import code, count, duration, escaped, figure, percent, plain, size, table, time

Settings = Mapping[str, Any]  # a spec's values under their dotted keys

METHODS = {"unsloth": "LoRA with Unsloth", "peft": "LoRA with PEFT and TRL"}
ARTIFACTS = {
    layout.ADAPTER: "LoRA adapter (PEFT)",
    layout.MERGED: "Merged model (16-bit)",
    layout.CHECKPOINTS: "Checkpoints",
    layout.TENSORBOARD: "TensorBoard logs",
    layout.LOGS: "Job logs",
}
MEASURED = {
    "full": "All tokens",
    "response": "Response only",
    "seed_protocol": "Seed protocol",
}  # key: row of the table
MOST_EVALUATIONS = 15  # rows of a loss progression; of a longer run it shows a selection


def result_sections(result: Result) -> list[str]:
    """All sections of a complete run, from its description to its plots."""
    m, settings = result.metrics, dict(flat(result.spec))
    attempts = f", in {m.attempts} attempts ({_repeated(m)})" if m.attempts and m.attempts > 1 else ""
    return [
        f"Run {code(result.run)}: {code(m.model)} fine-tuned by {METHODS.get(m.backend) or escaped(m.backend)}, "
        f"finished {escaped(time(result.complete_at))}{attempts}.",
        "",
        *_dataset(result, settings),
        *_leakage(m, settings),
        *_hyperparameters(m, settings),
        *_training(m),
        *_progression(m),
        *_best_checkpoint(m),
        *_baseline(m),
        *_artifacts(result),
        *_plots(result),
    ]


def _repeated(m: MetricsFile) -> str:
    """What restarts cost."""
    if not m.repeated_steps:
        return "no training step was lost"
    seconds = m.repeated_steps * m.train.duration_seconds / m.train.steps
    return f"{count(m.repeated_steps)} training steps were repeated, about {seconds:.0f} s"


def _dataset(result: Result, settings: Settings) -> list[str]:
    data = result.metrics.data
    total = max(1, data.train_examples + data.eval_examples)
    return [
        "### Dataset",
        "",
        f"- **Format:** {_format(settings)}",
        f"- **Training set:** {count(data.train_examples)} examples ({percent(100 * data.train_examples / total)})",
        f"- **Evaluation set:** {count(data.eval_examples)} examples ({percent(100 * data.eval_examples / total)})",
        f"- **Unique words:** {count(data.unique_words)}",
        f"- **Longest example:** {count(data.longest_example_tokens)} tokens",
        f"- **Stored in:** {code(layout.dataset_key(result.dataset, ''))}",
        "",
    ]


def _format(settings: Settings) -> str:
    source = settings.get("data.source")
    if source is None:
        files = (code(str(settings.get(key))) for key in ("data.train", "data.eval"))
        return f"list format, ready-made files {' and '.join(files)}"
    words = escaped(str(settings.get("data.words_per_example")))
    origin = "the starter corpus" if source == STARTER else code(str(source))
    split = escaped(str(settings.get("data.split_by")))
    return f"list format ({words} words → {words} sentences per example), built from {origin}, split by {split}"


def _leakage(m: MetricsFile, settings: Settings) -> list[str]:
    words = f"{percent(m.leakage.words_percent)} of the evaluation words occur in the training set"
    if m.leakage.sentences_percent == 0:
        return [f"Leakage: no evaluation sentence stands in the training set; {words}.", ""]
    hint = " `data.split_by: sentence` keeps the two sets apart." if settings.get("data.source") else ""
    return [
        f"> ⚠ **Leakage: {percent(m.leakage.sentences_percent)} of the evaluation sentences stand word for word in the "
        "training set.**",
        f"> The figures below measure recall as well as generalisation; {words}.{hint}",
        "",
    ]


def _hyperparameters(m: MetricsFile, settings: Settings) -> list[str]:
    notes = _remarks(m, settings)
    lines = [
        plain(f"{key} = {json.dumps(value, ensure_ascii=False)}") + notes.get(key, "")
        for key, value in settings.items()
        if key.startswith(("model.", "lora.", "training.")) and value is not None
    ]
    return ["### Hyperparameters", "", "```toml", *lines, "```", ""]


def _remarks(m: MetricsFile, settings: Settings) -> dict[str, str]:
    """What a setting came to in this run."""
    remarks = {}
    batch, accumulated = (settings.get(f"training.{k}") for k in ("batch_size", "gradient_accumulation_steps"))
    if isinstance(batch, int) and isinstance(accumulated, int):
        remarks["training.gradient_accumulation_steps"] = f"  # effective batch size: {batch * accumulated}"
    if m.machine and m.machine.gpu is None:
        if settings.get("model.load_in_4bit"):
            remarks["model.load_in_4bit"] = "  # without a GPU: not quantized"
        if settings.get("training.optimizer") == "adamw_8bit":
            remarks["training.optimizer"] = "  # without a GPU: adamw"
    return remarks


def _training(m: MetricsFile) -> list[str]:
    lines = [
        "### Training",
        "",
        f"- **Duration:** {duration(m.train.duration_seconds)}",
        f"- **Steps:** {count(m.train.steps)} ({figure(m.train.epochs)} epochs)",
        f"- **Speed:** {figure(m.train.samples_per_second)} training examples per second",
    ]
    if m.machine:
        number = f"{m.train.gpus} x " if m.train.gpus and m.train.gpus > 1 else ""
        lines.append(f"- **Hardware:** {number}{escaped(_hardware(m.machine))}")
    if m.train.out_of_memory:
        lines.append(f"- **Out of memory:** {_out_of_memory(m.train)}")
    if m.versions:
        lines.append(f"- **Software:** {escaped(', '.join(f'{k} {v}' for k, v in sorted(m.versions.items())))}")
    return [*lines, ""]


def _out_of_memory(train: Train) -> str:
    failed = " and ".join(f"at step {one.step} with {one.batch_size}" for one in train.out_of_memory)
    now = f"{train.batch_size} x {train.gradient_accumulation_steps}"
    return f"{failed} examples at once; trained on with {now}, the effective batch size as before"


def _hardware(machine: Machine) -> str:
    if machine.gpu is None:
        return f"{machine.cpu}, {machine.threads} threads, no GPU"
    memory = f" with {machine.gpu_memory_gb:.0f} GB" if machine.gpu_memory_gb else ""
    return f"{machine.gpu}{memory}"


def _progression(m: MetricsFile) -> list[str]:
    trained = [e for e in m.log if e.loss is not None]
    evaluated = [e for e in m.log if e.eval_loss is not None]
    shown = _selection(evaluated, m)
    notes = _notes(trained, evaluated, m)
    steps = sorted({e.step for e in (*trained[:1], *shown, *trained[-1:])})
    rows = [_progression_row(step, m.log, notes.get(step, [])) for step in steps]
    lines = ["#### Loss progression", "", *table(("Epoch", "Step", "Train loss", "Eval loss", "Note"), rows, range(4))]
    if len(shown) < len(evaluated):
        lines += [f"{len(shown)} of {len(evaluated)} evaluations are shown; {layout.METRICS} has all.", ""]
    return lines + _loss_fall(trained)


def _progression_row(step: int, log: Sequence[LogEntry], notes: Sequence[str]) -> tuple[str, ...]:
    here = [e for e in log if e.step == step]
    loss = next((e.loss for e in here if e.loss is not None), None)
    eval_loss = next((e.eval_loss for e in here if e.eval_loss is not None), None)
    shown = f"**{figure(eval_loss)}**" if "best" in notes else figure(eval_loss)
    return figure(here[0].epoch), count(step), figure(loss), shown, ", ".join(notes)


def _selection(evaluated: Sequence[LogEntry], m: MetricsFile) -> list[LogEntry]:
    """At most about ``MOST_EVALUATIONS``, evenly spaced, with the first, the best and the last."""
    last = len(evaluated) - 1
    if last < MOST_EVALUATIONS:
        return list(evaluated)
    kept = {round(i * last / (MOST_EVALUATIONS - 1)) for i in range(MOST_EVALUATIONS)}
    return [e for i, e in enumerate(evaluated) if i in kept or (m.best and e.step == m.best.step)]


def _notes(trained: Sequence[LogEntry], evaluated: Sequence[LogEntry], m: MetricsFile) -> dict[int, list[str]]:
    """What a step of the progression is, by step."""
    notes: dict[int, list[str]] = {}

    def note(entries: Iterable[LogEntry], text: str) -> None:
        for entry in entries:
            notes.setdefault(entry.step, []).append(text)

    note(trained[:1], "first training loss")
    note(evaluated[:1], "first evaluation")
    if m.best:
        note((e for e in evaluated if m.best and e.step == m.best.step), "best")
        for entry in evaluated:
            if entry.step > m.best.step and entry.eval_loss is not None:
                note([entry], f"{entry.eval_loss - m.best.eval_loss:.3f} above the best")
    note(evaluated[-1:], "last evaluation")
    note(trained[-1:], "last training loss")
    return notes


def _loss_fall(trained: Sequence[LogEntry]) -> list[str]:
    first, last = (trained[i].loss if trained else None for i in (0, -1))
    if not first or last is None or first < 0:
        return []
    fall = reduction_percent(first, last)
    return [
        f"Training loss: {figure(first)} → {figure(last)}, {percent(abs(fall))} {'lower' if fall >= 0 else 'higher'}.",
        "",
    ]


def _best_checkpoint(m: MetricsFile) -> list[str]:
    if m.best is None:
        text = "There was no evaluation during training: the result is the last step's adapter."
    else:
        text = (
            f"Step {count(m.best.step)} (epoch {figure(m.best.epoch)}), with an evaluation loss of "
            f"**{figure(m.best.eval_loss, 3)}**. Its adapter is the result: everything below is measured on it."
        )
    return ["### Best checkpoint", "", text, ""]


def _baseline(m: MetricsFile) -> list[str]:
    header = ("Loss over", "Baseline", "Tuned", "Reduction", "Baseline perplexity", "Tuned perplexity", "Reduction")
    rows, worse = [], []
    for key, label in MEASURED.items():
        before, after, reduction = (getattr(part, key) for part in (m.baseline, m.tuned, m.reduction))
        loss = figure(before.loss), figure(after.loss), f"**{percent(reduction.loss_percent)}**"
        perplexity = figure(before.perplexity), figure(after.perplexity), percent(reduction.perplexity_percent)
        rows.append((label, *loss, *perplexity))
        worse += [label.lower()] if after.loss >= before.loss else []
    lines = ["### Baseline comparison", "", _evaluated_on(m), "", *table(header, rows, range(1, 7))]
    if worse:
        lines += [f"> ⚠ **Fine-tuning did not lower the loss** over: {', '.join(worse)}.", ""]
    return lines


def _evaluated_on(m: MetricsFile) -> str:
    tokens = f"{count(m.tuned.full.tokens)} tokens, {count(m.tuned.response.tokens)} of them in the responses"
    used, there = m.examples_evaluated, m.data.eval_examples
    which = (
        f"all {count(there)} evaluation examples"
        if used == there
        else f"{count(used)} of the {count(there)} evaluation examples"
    )
    return f"Before and after, on {which}: {tokens}."


def _artifacts(result: Result) -> list[str]:
    rows = []
    for name, label in ARTIFACTS.items():
        sizes = [o.size for o in result.objects if o.key.startswith(f"{name}/")]
        if sizes:
            rows.append((label, code(layout.run_key(result.run, name, "")), count(len(sizes)), size(sum(sizes))))
    lines = ["### Saved artifacts", "", *table(("What", "Key", "Files", "Size"), rows, (2, 3))]
    if any(o.key.startswith(f"{layout.MERGED}/") for o in result.objects):
        lines += [
            "`AutoModelForCausalLM.from_pretrained` of transformers loads the merged model's folder as it is.",
            "",
        ]
    merge = result.metrics.merge
    if merge:
        losses = f"{figure(merge.merged_loss, 4)} (with the adapter: {figure(merge.adapter_loss, 4)})"
        lines += [
            f"The merged model was loaded again and checked on {count(merge.examples)} examples: loss {losses}.",
            "",
        ]
    return lines


def _plots(result: Result) -> list[str]:
    stored = {o.key for o in result.objects}
    names = [name for name in (f"{layout.PLOTS}/{plot}.png" for plot in layout.PLOT_NAMES) if name in stored]
    listed = [f"- {code(layout.run_key(result.run, name))}" for name in names]
    return ["### Plots", "", *(listed or ["None were stored."]), ""]
