"""The training stage: Unsloth's or PEFT's LoRA model under TRL's SFTTrainer, resumed exactly."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from cefr_batch import layout
from cefr_batch.data import Example
from cefr_batch.errors import Interrupted, ModelError
from cefr_batch.files import read_json, sha256_file, write_json
from cefr_batch.layout import WorkDir
from cefr_batch.levels import RunSpec


def import_backend(backend: str) -> None:
    """Unsloth patches transformers, trl and peft, so it has to come before them; one process trains with one backend."""
    if backend == "unsloth":
        os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
        try:
            import unsloth  # noqa: F401
        except Exception as exc:  # it raises various types when the machine does not suit it
            raise ModelError(f"Unsloth cannot be used here ({exc}); set backend=peft or install it (see README)") from exc


def train(
    spec: RunSpec,
    model_path: Path,
    train_examples: Sequence[Example],
    eval_examples: Sequence[Example],
    work: WorkDir,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Train until done, resuming from the newest checkpoint in ``work``; write ``adapter/`` from the best checkpoint.

    ``report(**progress)`` is called after every step. Returns the stage's result: ``train``, ``log``, ``best``. Raises
    ``Interrupted`` after SIGTERM, with a checkpoint of the last finished step written.
    """
    import_backend(spec.backend)
    import torch
    from transformers import PrinterCallback
    from trl import SFTTrainer

    model, tokenizer = _trainable(spec, model_path)
    train_set, eval_set = (_tokenized(spec, tokenizer, e) for e in (train_examples, eval_examples))
    resume = _restore(work)
    callback = _callback_class()(spec, work, resume, report)
    trainer = SFTTrainer(
        model=model,
        args=_arguments(spec, work, len(eval_set)),
        train_dataset=train_set,
        eval_dataset=eval_set,
        processing_class=tokenizer,
        data_collator=_collator(tokenizer.pad_token_id),
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)  # every step's raw figures; the callback prints the run's log
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    _save_adapter(trainer.model, spec, work)
    result = _result(spec, trainer.state, len(train_set), callback.elapsed())
    if torch.cuda.is_available():
        result["peak_gpu_memory_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
    return result


def _trainable(spec: RunSpec, path: Path) -> tuple[Any, Any]:
    """The base model with fresh LoRA weights (seeded), and its tokenizer."""
    import torch
    from transformers import set_seed

    from cefr_batch.run.model import load_tokenizer, stored_dtype, use_bf16

    lora, training = spec.lora, spec.training
    four_bit = spec.model.load_in_4bit and torch.cuda.is_available()
    dtype = stored_dtype(path) if use_bf16(training.precision) else torch.float32
    set_seed(training.seed)
    if spec.backend == "unsloth":
        from unsloth import FastLanguageModel

        model, _ = FastLanguageModel.from_pretrained(
            str(path), max_seq_length=training.max_length, dtype=dtype, load_in_4bit=four_bit, local_files_only=True
        )
        model = FastLanguageModel.get_peft_model(
            model,
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules,
            use_gradient_checkpointing="unsloth" if training.gradient_checkpointing else False,
            random_state=training.seed,
            max_seq_length=training.max_length,
        )
        return model, load_tokenizer(path)

    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = (
        BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        if four_bit
        else None
    )
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, quantization_config=quantization)
    if four_bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=training.gradient_checkpointing)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config), load_tokenizer(path)


def _tokenized(spec: RunSpec, tokenizer: Any, examples: Sequence[Example]) -> Any:
    """Examples as token ids; the loss is over all tokens, prompt included, as the seed's was."""
    from datasets import Dataset

    from cefr_batch.run.evaluate import encode

    ids = [e.ids for e in encode(tokenizer, examples, spec.training.max_length)]
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def _collator(pad_id: int) -> Any:
    """TRL's collator pads each batch to its longest example, with labels of -100."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    return DataCollatorForLanguageModeling(pad_token_id=pad_id)


def _arguments(spec: RunSpec, work: WorkDir, eval_examples: int) -> Any:
    import torch
    from trl import SFTConfig

    from cefr_batch.run.model import use_bf16

    t, cuda = spec.training, torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(work.trainer),
        num_train_epochs=t.epochs,
        max_steps=t.max_steps or -1,
        per_device_train_batch_size=t.batch_size,
        per_device_eval_batch_size=min(spec.evaluation.batch_size, eval_examples),
        gradient_accumulation_steps=t.gradient_accumulation_steps,
        learning_rate=t.learning_rate,
        warmup_steps=t.warmup_ratio,  # below 1: a share of all steps
        lr_scheduler_type=t.lr_scheduler,
        weight_decay=t.weight_decay,
        optim="adamw_8bit" if t.optimizer == "adamw_8bit" and cuda else "adamw_torch",
        bf16=use_bf16(t.precision),
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        gradient_checkpointing=t.gradient_checkpointing,
        eval_strategy="steps",
        eval_steps=t.eval_steps,
        save_strategy="steps",
        save_steps=t.save_steps,
        save_total_limit=t.keep_checkpoints,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=1,  # of the state; what the run logs is folded from it, so that a resumed log is the same
        seed=t.seed,
        data_seed=t.seed,
        max_length=None,  # encode() cut the examples already
        dataset_kwargs={"skip_prepare_dataset": True},
        report_to="none",
        disable_tqdm=True,
    )


def fold_log(history: Sequence[Mapping[str, Any]], logging_steps: int, last_step: int) -> list[dict[str, Any]]:
    """The run's log from the trainer's per-step history: every ``logging_steps`` the mean loss since the last entry, with
    the step's learning rate and gradient norm; every evaluation; sorted by step.

    The trainer's own windows restart when it is resumed; these do not, so an interrupted run logs the same curve.
    """
    entries: list[dict[str, Any]] = []
    window: list[float] = []
    for row in history:
        at = {"step": row["step"], "epoch": row["epoch"]}
        if "eval_loss" in row:
            entries.append({**at, "eval_loss": row["eval_loss"]})
        if "loss" not in row:
            continue
        window.append(row["loss"])
        if row["step"] % logging_steps == 0 or row["step"] == last_step:
            entries.append(
                {
                    **at,
                    "loss": sum(window) / len(window),
                    "learning_rate": row["learning_rate"],
                    "gradient_norm": float(row["grad_norm"]),
                }
            )
            window = []
    return sorted(entries, key=lambda e: (e["step"], "eval_loss" in e))


def _result(spec: RunSpec, state: Any, examples: int, seconds: float) -> dict[str, Any]:
    log = fold_log(state.log_history, spec.training.logging_steps, state.max_steps)
    evaluations = [e for e in log if "eval_loss" in e]
    losses = [e["loss"] for e in log if "loss" in e]
    epochs = log[-1]["epoch"]
    return {
        "train": {
            "examples": examples,
            "steps": state.global_step,
            "epochs": epochs,
            "duration_seconds": round(seconds, 3),
            "samples_per_second": round(examples * epochs / seconds, 3),
            "final_loss": losses[-1],
        },
        "log": log,
        "best": min(evaluations, key=lambda e: e["eval_loss"]),
    }


def _save_adapter(model: Any, spec: RunSpec, work: WorkDir) -> None:
    """``adapter/``: the PEFT format, naming the model as the spec does rather than a folder of this machine."""
    tmp, target = work.tmp / "adapter", work.path(layout.ADAPTER)
    shutil.rmtree(tmp, ignore_errors=True)
    for config in model.peft_config.values():
        config.base_model_name_or_path = spec.model.name
        config.revision = spec.model.revision
    model.save_pretrained(tmp, safe_serialization=True)
    (tmp / "README.md").unlink(missing_ok=True)  # a template; the run's report says more
    shutil.rmtree(target, ignore_errors=True)
    tmp.rename(target)


# Checkpoints. The trainer writes and rotates trainer/checkpoint-<n>; each complete one is linked to checkpoints/step-<n>
# with its manifest last, which is what is stored and resumed from.


def complete_checkpoints(work: WorkDir) -> list[int]:
    """The steps of the complete checkpoints in ``work``, ascending."""
    folders = work.path(layout.CHECKPOINTS).glob(f"step-*/{layout.CHECKPOINT_MANIFEST}")
    return sorted(int(f.parent.name.removeprefix("step-")) for f in folders)


# What the trainer saves beside a checkpoint's state: said elsewhere, and training_args.bin is a pickle that nobody reads.
_NOT_STATE = {"training_args.bin", "README.md", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def _publish_checkpoint(work: WorkDir, state: Any, elapsed: float) -> None:
    source = work.trainer / f"checkpoint-{state.global_step}"
    target = work.path(layout.checkpoint_name(state.global_step))
    if (target / layout.CHECKPOINT_MANIFEST).is_file():
        return  # saved twice in one step
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    files = []
    for file in sorted(f for f in source.iterdir() if f.is_file() and f.name not in _NOT_STATE):
        os.link(file, target / file.name)
        files.append({"name": file.name, "size": file.stat().st_size, "sha256": sha256_file(file)})
    manifest = {
        "step": state.global_step,
        "best_step": state.best_global_step,
        "elapsed_seconds": round(elapsed, 3),
        "files": files,
    }
    write_json(target / layout.CHECKPOINT_MANIFEST, manifest)


def _restore(work: WorkDir) -> Path | None:
    """The newest complete checkpoint as the trainer wants it, with the best one beside it; None to start afresh."""
    shutil.rmtree(work.trainer, ignore_errors=True)
    steps = complete_checkpoints(work)
    if not steps:
        return None
    newest = steps[-1]
    best = read_json(work.path(layout.checkpoint_name(newest)) / layout.CHECKPOINT_MANIFEST)["best_step"]
    for step in {newest, best} & set(steps):
        source = work.path(layout.checkpoint_name(step))
        shutil.copytree(source, work.trainer / f"checkpoint-{step}", copy_function=os.link)
    resumed = work.trainer / f"checkpoint-{newest}"
    _relocate_best(resumed, work.trainer, best)
    return resumed


def _relocate_best(checkpoint: Path, trainer: Path, best: int | None) -> None:
    """The trainer's state names its best checkpoint by absolute path: make that a path of this machine."""
    state_file = checkpoint / "trainer_state.json"
    state = json.loads(state_file.read_text(encoding="utf-8"))
    folder = trainer / f"checkpoint-{best}"
    state["best_model_checkpoint"] = str(folder) if folder.is_dir() else None
    state_file.unlink()  # a link: the stored checkpoint stays as it is
    state_file.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def _callback_class() -> type[Any]:
    """Made here because its base class comes with transformers, which the backend has to precede."""
    from transformers import TrainerCallback

    class _Steps(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
        """Progress, TensorBoard, checkpoints; stops at a step's end after SIGTERM."""

        def __init__(self, spec: RunSpec, work: WorkDir, resume: Path | None, report: Callable[..., None]) -> None:
            from torch.utils.tensorboard import SummaryWriter

            manifest = read_json(resume / layout.CHECKPOINT_MANIFEST) if resume else {"step": 0, "elapsed_seconds": 0.0}
            self._spec, self._work, self._report = spec, work, report
            self._before = float(manifest["elapsed_seconds"])
            self._first_step = int(manifest["step"])
            self._started = time.monotonic()
            self._stopping = False
            self._tensorboard = SummaryWriter(
                work.path(layout.TENSORBOARD), purge_step=self._first_step + 1 if resume else None, flush_secs=5
            )
            signal.signal(signal.SIGTERM, self._stop)

        def _stop(self, number: int, frame: FrameType | None) -> None:
            self._stopping = True

        def elapsed(self) -> float:
            """Seconds of training, those before the resumed checkpoint included."""
            return self._before + time.monotonic() - self._started

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._started = time.monotonic()
            self._progress(state)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if control.should_evaluate and state.global_step % args.eval_steps:
                # the trainer's extra evaluation at the end; the seed had none. Kept where it would be the only one.
                control.should_evaluate = state.global_step < args.eval_steps
            if self._stopping:
                control.should_save = True

        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            latest, every = state.log_history[-1], self._spec.training.logging_steps
            at_entry = state.global_step % every == 0 or state.global_step == state.max_steps
            if "eval_loss" in latest or ("loss" in latest and at_entry):
                folded = fold_log(state.log_history, every, state.max_steps)
                newest = (e for e in folded[-2:] if e["step"] == state.global_step)
                self._write_entries(e for e in newest if ("eval_loss" in e) == ("eval_loss" in latest))
            self._progress(state)

        def _write_entries(self, entries: Iterable[Mapping[str, Any]]) -> None:
            for entry in entries:
                values = {key: entry[key] for key in _TAGS if key in entry}
                print(f"step {entry['step']} epoch {entry['epoch']:.2f}", *(f"{k} {v:.4g}" for k, v in values.items()))
                for key, value in values.items():
                    self._tensorboard.add_scalar(_TAGS[key], value, entry["step"])

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            _publish_checkpoint(self._work, state, self.elapsed())
            if self._stopping and state.global_step < state.max_steps:
                raise Interrupted(f"stopped on request after step {state.global_step}; its checkpoint is written")

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._tensorboard.close()

        def _progress(self, state: Any) -> None:
            done = state.global_step - self._first_step
            left = state.max_steps - state.global_step
            rate = (time.monotonic() - self._started) / done if done else None
            history = state.log_history
            self._report(
                step=state.global_step,
                steps=state.max_steps,
                epoch=state.epoch,
                loss=next((row["loss"] for row in reversed(history) if "loss" in row), None),
                eval_loss=next((row["eval_loss"] for row in reversed(history) if "eval_loss" in row), None),
                eta_seconds=round(rate * left, 1) if rate is not None else None,
            )

    return _Steps


_TAGS = {
    "loss": "train/loss",
    "eval_loss": "eval/loss",
    "learning_rate": "train/learning_rate",
    "gradient_norm": "train/gradient_norm",
}
