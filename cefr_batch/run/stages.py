"""What happens inside a job, stage by stage. Each stage is a function from the job's context to its result (JSON).

Heavy stages run in child processes of the job (``python -m cefr_batch.run.stages RUN_FOLDER PARENT_PID STAGE…``): the
job's own process stays light, so its heartbeat and its uploads go on while a stage computes, its memory is given back
after each group, and a stage that the kernel kills can still be reported.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, wraps
from math import fsum
from pathlib import Path
from typing import Any

from cefr_batch import layout
from cefr_batch.data import (
    Dataset,
    Example,
    TokenCounter,
    leakage,
    prompt_of,
    read_dataset,
    sentences_of,
    unique_words,
    words_in,
)
from cefr_batch.errors import CefrBatchError, DataError, JobFailed
from cefr_batch.files import read_json, write_json
from cefr_batch.layout import WorkDir
from cefr_batch.levels import RunSpec
from cefr_batch.spec import recorded_spec

STAGES = ("data", "baseline", "train", "tuned", "generate", "merge", "plots", "publish")
# Stages that share a process. Training is alone: Unsloth patches libraries that the evaluations use unpatched.
CHILD_GROUPS = (("baseline",), ("train",), ("tuned", "generate", "merge", "plots"))

MERGE_CHECK_EXAMPLES = 16


@dataclass
class Context:
    """A job's folder and what its stages share within a process."""

    work: WorkDir
    stage: str = ""
    _reported: float = field(default=0.0, repr=False)

    @cached_property
    def spec(self) -> RunSpec:
        file = self.work.path(layout.SPEC)
        return recorded_spec(read_json(file), str(file))

    @cached_property
    def model_path(self) -> Path:
        from cefr_batch.pretrained import resolve_model

        return resolve_model(self.spec.model)

    @cached_property
    def tokenizer(self) -> Any:
        from cefr_batch.run.model import load_tokenizer

        return load_tokenizer(self.model_path)

    @cached_property
    def dataset(self) -> Dataset:
        """The job's dataset, fetched and verified before any stage began."""
        return read_dataset(self.work.dataset)

    @property
    def evaluated(self) -> Sequence[Example]:
        """The evaluation examples that this run uses, in file order."""
        return self.dataset.eval[: self.spec.evaluation.max_examples]

    @cached_property
    def examples(self) -> list[Any]:
        """The evaluation examples as tokens."""
        from cefr_batch.run.evaluate import encode

        return encode(self.tokenizer, self.evaluated, self.spec.training.max_length, self.trained)

    @cached_property
    def trained(self) -> set[str]:
        """The sentences of the training data."""
        return sentences_of(self.dataset.train)

    @cached_property
    def adapted(self) -> Any:
        """The base model in 16-bit weights, computing in fp32, with the trained adapter in its weights: products of the
        adapter's own would cost a third more."""
        from peft import PeftModel

        from cefr_batch.run.model import load_for_evaluation

        base = load_for_evaluation(self.model_path)
        model = PeftModel.from_pretrained(base, self.work.path(layout.ADAPTER)).eval()
        model.merge_adapter()
        return model

    def evaluate(self, model: Any, limit: int | None = None) -> Any:
        from cefr_batch.run.evaluate import evaluate

        return evaluate(
            model,
            self.examples[:limit],
            pad_id=self.tokenizer.pad_token_id,
            batch_size=self.spec.evaluation.batch_size,
            on_batch=lambda done, total: self.progress(step=done, steps=total),
        )

    def result(self, stage: str) -> Any:
        """What a finished stage found."""
        return read_json(self.work.path(layout.stage_name(stage)))["result"]

    def progress(self, *, at_once: bool = False, **values: Any) -> None:
        """Tell the job how far this stage is; at most twice a second, unless it has to know ``at_once``."""
        now = time.monotonic()
        if at_once or now - self._reported > 0.5 or values.get("step") == values.get("steps"):
            self._reported = now
            write_json(self.work.progress, {"stage": self.stage, **values})


def data(job: Context) -> dict[str, Any]:
    """Check the fetched dataset against the model's tokenizer: what the plan promised is what will be trained on."""
    from cefr_batch.plan import make_plan
    from cefr_batch.pretrained import tokenizer_file

    dataset = job.dataset
    plan = make_plan(job.spec, dataset, TokenCounter(tokenizer_file(job.spec.model)))
    if problems := plan.problems():
        raise DataError(problems)
    return {
        "data": {
            "train_examples": len(dataset.train),
            "eval_examples": len(dataset.eval),
            "unique_words": unique_words(dataset),
            "longest_example_tokens": plan.longest_tokens,
            "train_sha256": dataset.train_sha256,
            "eval_sha256": dataset.eval_sha256,
        },
        "evaluation": {"examples": len(job.evaluated), "batch_size": job.spec.evaluation.batch_size},
        "leakage": asdict(leakage(dataset.train, dataset.eval)),
    }


Stage = Callable[[Context], dict[str, Any]]


def _within_memory(part: str) -> Callable[[Stage], Stage]:
    """A stage that says in a sentence that the GPU's memory did not suffice for batches of the spec's part."""

    def limited(stage: Stage) -> Stage:
        @wraps(stage)
        def run(job: Context) -> dict[str, Any]:
            import torch

            try:
                return stage(job)
            except torch.OutOfMemoryError as exc:
                size = getattr(job.spec, part).batch_size
                remedy = f"lower {part}.batch_size, which is {size}, or take" if size > 1 else "take"
                raise JobFailed(f"stage {job.stage} ran out of the GPU's memory; {remedy} a larger GPU") from exc

        return run

    return limited


def _evaluated(job: Context, model: Any) -> dict[str, Any]:
    """The results of evaluating a model, under the name of the stage."""
    result = job.evaluate(model)
    return {job.stage: result.as_json(), layout.EVALUATION: [asdict(example) for example in result.examples]}


@_within_memory("evaluation")
def baseline(job: Context) -> dict[str, Any]:
    from cefr_batch.run.model import load_for_evaluation

    return _evaluated(job, load_for_evaluation(job.model_path))


def train(job: Context) -> dict[str, Any]:
    from cefr_batch.run import checkpoints

    resume = checkpoints.restore(job.work)
    if job.spec.resources.gpus > 1:
        from cefr_batch.run.processes import train_in_processes

        result = train_in_processes(job, resume)
    else:
        result = train_here(job, resume)
    from cefr_batch.pretrained import commit_of
    from cefr_batch.run.model import Machine

    revision = commit_of(job.model_path)
    return {**result, "machine": asdict(Machine.here()), "versions": _versions(), "model_revision": revision}


def train_here(job: Context, resume: Path | None) -> dict[str, Any]:
    """The training of this process: all of it, or its share."""
    from cefr_batch.run.train import train

    return train(job.spec, job.model_path, job.dataset.train, job.evaluated, job.work, resume, job.progress)


@_within_memory("evaluation")
def tuned(job: Context) -> dict[str, Any]:
    return _evaluated(job, job.adapted)


@_within_memory("generation")
def generate(job: Context) -> dict[str, Any]:
    """Both models answer the same evaluation examples: the tuned one, and the same without its adapter."""
    examples = job.evaluated[: job.spec.generation.examples]
    if not examples:
        return {}
    job.adapted.unmerge_adapter()  # not by disable_adapter, in a forward pass whose memory may not suffice
    with job.adapted.disable_adapter():
        models = {"baseline": _answers(job, examples)}
    job.adapted.merge_adapter()
    models["tuned"] = _answers(job, examples)
    written = [
        {"index": i, "words": words_in(example)} | {name: texts[i] for name, texts in models.items()}
        for i, example in enumerate(examples)
    ]
    return {"generation": _figures(job, written), layout.GENERATION: {"examples": written}}


def _figures(job: Context, written: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By model and mode."""
    from cefr_batch.quality import Answer, quality

    def of(model: str, mode: str) -> dict[str, Any]:
        answers = [Answer(tuple(one["words"]), one[model][mode]) for one in written]
        return quality(answers, job.trained, job.spec.level).as_json()

    return {model: {mode: of(model, mode) for mode in ("greedy", "sampled")} for model in ("baseline", "tuned")}


def _answers(job: Context, examples: Sequence[Example]) -> list[dict[str, str]]:
    """The model's answer to each example, greedily and sampled."""
    from cefr_batch.run.generate import Sampling, generate

    settings = job.spec.generation
    greedy, sampled = (
        generate(
            job.adapted,
            job.tokenizer,
            [prompt_of(example) for example in examples],
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            sampling=sampling,
            on_batch=lambda done, total: job.progress(step=done, steps=total),
        )
        for sampling in (None, Sampling(settings.temperature, settings.top_p, settings.seed))
    )
    return [{"greedy": one, "sampled": other} for one, other in zip(greedy, sampled, strict=True)]


@_within_memory("evaluation")
def merge(job: Context) -> dict[str, Any]:
    """Merge, then load what was written as a user would and compare the loss with the tuned evaluation's."""
    import torch
    from transformers import AutoModelForCausalLM

    from cefr_batch.run.merge import check_same_loss, merge
    from cefr_batch.run.model import device, stored_dtype

    job.__dict__.pop("adapted", None)  # the merge needs none of it in memory
    target = job.work.path(layout.MERGED)
    adapter, dtype = job.work.path(layout.ADAPTER), stored_dtype(job.model_path)
    merge(job.model_path, adapter, job.tokenizer, dtype, target, job.work.tmp / "merged")
    reloaded = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).to(device()).eval()
    after = job.evaluate(reloaded, MERGE_CHECK_EXAMPLES).full.loss
    scores = job.result("tuned")[layout.EVALUATION][:MERGE_CHECK_EXAMPLES]
    before = fsum(score["nll"]["full"] for score in scores) / sum(score["tokens"]["full"] for score in scores)
    check_same_loss(before, after)
    return {"merge": {"adapter_loss": before, "merged_loss": after, "examples": len(scores)}}


def plots(job: Context) -> dict[str, Any]:
    from cefr_batch.plots import write_plots

    trained = job.result("train")
    run = job.work.root.name
    files = write_plots(trained["log"], trained["best"], run, job.work.path(layout.PLOTS))
    return {"plots": [f.name for f in files]}


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "transformers", "trl", "peft", "accelerate", "unsloth", "unsloth_zoo", "bitsandbytes"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


FUNCTIONS: dict[str, Stage] = {
    "data": data,
    "baseline": baseline,
    "train": train,
    "tuned": tuned,
    "generate": generate,
    "merge": merge,
    "plots": plots,
}


def run_stage(job: Context, stage: str) -> None:
    """Run one stage and record it; the record's presence means that the stage is finished."""
    print(f"== {stage}", flush=True)
    started = time.monotonic()
    job.stage, job._reported = stage, 0.0
    job.progress()
    result = FUNCTIONS[stage](job)
    seconds = round(time.monotonic() - started, 3)
    write_json(job.work.path(layout.stage_name(stage)), {"stage": stage, "seconds": seconds, "result": result})
    print(f"== {stage} done in {seconds:.1f} s", flush=True)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone: nothing goes on unsupervised (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # prctl(2)
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def tell(work: WorkDir, exc: Exception) -> int:
    """Leave word for the job of why a stage ended, and return the exit code. Where several processes fail, the first one
    knows why."""
    ours = isinstance(exc, CefrBatchError)
    if not ours:
        traceback.print_exc()
    kind, message = (type(exc).__name__, str(exc)) if ours else ("bug", f"{type(exc).__name__}: {exc}".strip())
    code = exc.exit_code if isinstance(exc, CefrBatchError) else 1
    if not work.error.is_file():
        write_json(work.error, {"message": message, "kind": kind, "exit_code": code})
    return code


def main(argv: list[str]) -> int:
    folder, parent, *stages = argv
    die_with(int(parent))
    for number in (signal.SIGINT, signal.SIGUSR2):  # the job decides, and says so by SIGTERM
        signal.signal(number, signal.SIG_IGN)
    job = Context(WorkDir(Path(folder)))
    try:
        for stage in stages:
            run_stage(job, stage)
    except Exception as exc:
        return tell(job.work, exc)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
