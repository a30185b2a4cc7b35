"""The training stage: Unsloth's or PEFT's LoRA model under TRL's SFTTrainer, resumed exactly."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cefr_batch import layout
from cefr_batch.data import Example
from cefr_batch.errors import ModelError
from cefr_batch.layout import WorkDir
from cefr_batch.levels import RunSpec
from cefr_batch.run.batches import TooLarge, batch_of, known_too_large, out_of_memory


def import_backend(backend: str) -> None:
    """Unsloth patches transformers, trl and peft, so it has to come before them; one process trains with one backend."""
    if backend == "unsloth":
        os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
        try:
            import unsloth  # noqa: F401
        except Exception as exc:  # it raises various types when the machine does not suit it
            raise ModelError(
                f"Unsloth cannot be used here ({exc}); set backend=peft or install it (see README)"
            ) from exc


def train(
    spec: RunSpec,
    model_path: Path,
    train_examples: Sequence[Example],
    eval_examples: Sequence[Example],
    work: WorkDir,
    resume: Path | None,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Train until done, from the checkpoint ``resume`` on; write ``adapter/`` from the best checkpoint.

    In a process group each process trains its share, and the first one writes. ``report(**progress)`` is called after
    every step. Returns the stage's result: ``train``, ``log``, ``best``. Raises ``Interrupted`` after SIGTERM, with a
    checkpoint of the last finished step written, and ``OutOfMemory`` where smaller batches may fit.
    """
    import_backend(spec.backend)
    import torch
    from accelerate.utils.memory import should_reduce_batch_size
    from transformers import PrinterCallback
    from trl import SFTTrainer

    from cefr_batch.run.model import reuse_freed_memory
    from cefr_batch.run.steps import Steps

    too_large = known_too_large(work, resume)
    model, tokenizer = _trainable(spec, model_path)
    train_set, eval_set = (_tokenized(spec, tokenizer, e) for e in (train_examples, eval_examples))
    callback = Steps(spec, work, resume, report, too_large)
    trainer = SFTTrainer(
        model=model,
        args=_arguments(spec, work, len(eval_set), too_large),
        train_dataset=train_set,
        eval_dataset=eval_set,
        processing_class=tokenizer,
        data_collator=_collator(tokenizer.pad_token_id),
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)  # every step's raw figures; the callback prints the run's log
    reuse_freed_memory()
    try:
        with _inputs_as_autocast_has_them(trainer.model, spec):
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except RuntimeError as exc:  # torch.OutOfMemoryError is one
        if not should_reduce_batch_size(exc):
            raise
        raise out_of_memory(spec, work, too_large, trainer.state.global_step + 1) from exc
    if trainer.is_world_process_zero():
        _save_adapter(trainer.model, spec, work)
    result = _result(spec, trainer.state, len(train_set), callback.elapsed(), too_large)
    if torch.cuda.is_available():
        result["peak_gpu_memory_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
    return result


def _trainable(spec: RunSpec, path: Path) -> tuple[Any, Any]:
    """The base model with fresh LoRA weights (seeded), and its tokenizer."""
    import torch
    from transformers import set_seed

    from cefr_batch.run.model import device, load_tokenizer, stored_dtype, use_bf16

    four_bit = spec.model.load_in_4bit and device().type == "cuda"
    dtype = stored_dtype(path) if use_bf16(spec.training.precision) else torch.float32
    set_seed(spec.training.seed)
    build = _with_unsloth if spec.backend == "unsloth" else _with_peft
    return build(spec, path, dtype, four_bit), load_tokenizer(path)


def _with_unsloth(spec: RunSpec, path: Path, dtype: Any, four_bit: bool) -> Any:
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        model_name=str(path),
        max_seq_length=spec.training.max_length,
        dtype=dtype,
        load_in_4bit=four_bit,
        local_files_only=True,
    )
    return FastLanguageModel.get_peft_model(
        model,
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        target_modules=spec.lora.target_modules,
        use_gradient_checkpointing="unsloth" if spec.training.gradient_checkpointing else False,
        random_state=spec.training.seed,
        max_seq_length=spec.training.max_length,
    )


def _with_peft(spec: RunSpec, path: Path, dtype: Any, four_bit: bool) -> Any:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM

    quantization = _four_bit_config(dtype) if four_bit else None
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, quantization_config=quantization)
    if four_bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=spec.training.gradient_checkpointing)
    config = LoraConfig(
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        target_modules=list(spec.lora.target_modules),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _inputs_as_autocast_has_them(model: Any, spec: RunSpec) -> AbstractContextManager[None]:
    """Plain PEFT casts each LoRA layer's input to fp32, the type of its weights, and draws the dropout there; autocast then
    casts it back to bf16 for the product. Without this detour the loss is the same and a step takes less time. Unsloth has
    layers of its own."""
    from peft.helpers import disable_input_dtype_casting

    from cefr_batch.run.model import use_bf16

    detour = spec.backend == "peft" and use_bf16(spec.training.precision)
    direct: AbstractContextManager[None] = disable_input_dtype_casting(model, active=detour)
    return direct


def _four_bit_config(dtype: Any) -> Any:
    """NF4 with double quantization: QLoRA's, as Unsloth's 4-bit weights have it (Dettmers et al. 2023, section 3)."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


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


def _arguments(spec: RunSpec, work: WorkDir, eval_examples: int, too_large: Sequence[TooLarge]) -> Any:
    import torch
    from trl import SFTConfig

    from cefr_batch.run.model import use_bf16

    t, cuda = spec.training, torch.cuda.is_available()
    batch = batch_of(spec, too_large)
    eval_batch = min(spec.evaluation.batch_size, eval_examples)
    return SFTConfig(
        output_dir=str(work.trainer),
        num_train_epochs=t.epochs,
        max_steps=t.max_steps or -1,
        per_device_train_batch_size=batch.rows,
        per_device_eval_batch_size=min(eval_batch, batch.rows) if too_large else eval_batch,
        gradient_accumulation_steps=batch.accumulation,
        ddp_find_unused_parameters=False,
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
        save_steps=t.eval_steps,  # so that the best evaluated step has a checkpoint
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


def _result(spec: RunSpec, state: Any, examples: int, seconds: float, too_large: Sequence[TooLarge]) -> dict[str, Any]:
    from cefr_batch.run.steps import fold_log

    log = fold_log(state.log_history, spec.training.logging_steps, state.max_steps)
    evaluations = [e for e in log if "eval_loss" in e]
    losses = [e["loss"] for e in log if "loss" in e]
    epochs = log[-1]["epoch"]
    batch = batch_of(spec, too_large)
    return {
        "train": {
            "examples": examples,
            "steps": state.global_step,
            "epochs": epochs,
            "duration_seconds": round(seconds, 3),
            "samples_per_second": round(examples * epochs / seconds, 3),
            "final_loss": losses[-1],
            "batch_size": batch.rows,
            "gradient_accumulation_steps": batch.accumulation,
            "gpus": spec.resources.gpus,
            "out_of_memory": [asdict(one) for one in too_large],
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
