"""Training: Unsloth's or PEFT's LoRA model under TRL's SFTTrainer, resumed exactly."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from cefr_batch.config.schema import RunSpec
from cefr_batch.data import Example, PromptFormat, prompt_format
from cefr_batch.errors import JobFailed, ModelError
from cefr_batch.records import layout
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.training import BestCheckpoint, EarlyStop, OomEvent, TrainingFigures
from cefr_batch.training.micro_batches import batch_of, known_oom_events, out_of_memory
from cefr_batch.training.progress import ProgressFile
from cefr_batch.training.task import Trained, TrainingTask

STAGE = "train"


def import_backend(backend: str) -> None:
    """Import Unsloth before the libraries that it patches: transformers, trl and peft. One process trains with one backend.

    Raises ``ModelError`` where Unsloth cannot be imported.
    """
    if backend == "unsloth":
        os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
        try:
            import unsloth  # noqa: F401
        except Exception as exc:  # it raises various types when the machine does not suit it
            raise ModelError(
                f"Unsloth cannot be used here ({exc}); set backend=peft or install it (see docs/unsloth.md)"
            ) from exc


def train(task: TrainingTask, resume: Path | None) -> Trained:
    """Train until done, from the checkpoint ``resume`` on; write ``adapter/`` from the best checkpoint.

    In a process group each process trains its share, and the first one writes. Blocks. Raises ``Interrupted`` after
    SIGTERM, with a checkpoint of the last finished step written, ``Paused`` likewise after the task's ``pause_after``,
    ``OutOfMemory`` where smaller batches may fit, and ``JobFailed`` where training diverged or not even one example fits.
    """
    spec, work = task.spec, task.work
    import_backend(spec.backend)
    from accelerate.utils.memory import should_reduce_batch_size
    from transformers import PrinterCallback

    from cefr_batch.models.device import reuse_freed_memory
    from cefr_batch.training.callbacks import Steps
    from cefr_batch.training.head_loss import HeadLossTrainer
    from cefr_batch.training.trackers import Trackers

    oom_events = known_oom_events(work, resume)
    model, tokenizer = _trainable(spec, task.model_path)
    if task.adapter and not resume:
        load_weights(model, task.adapter)
    prompts = prompt_format(spec.model.prompt, task.model_path)
    train_set, eval_set = (_tokenized(spec, tokenizer, prompts, e) for e in (task.train, task.evaluation))
    callback = Steps(spec, work, resume, ProgressFile(work.progress, STAGE), oom_events, task.pause_after)
    trainer = HeadLossTrainer(
        lean=spec.backend == "peft",
        model=model,
        args=_arguments(spec, work, len(eval_set), oom_events),
        train_dataset=train_set,
        eval_dataset=eval_set,
        processing_class=tokenizer,
        data_collator=_collator(tokenizer.pad_token_id),
        callbacks=[callback],
    )
    if spec.training.report_to:
        trainer.add_callback(Trackers(spec.training.report_to, work, resume))
    # TRL writes a model card beside each checkpoint, for which it imports whatever trackers are installed.
    trainer.create_model_card = lambda **_: None
    trainer.remove_callback(PrinterCallback)  # every step's raw figures; Steps logs the run's own
    reuse_freed_memory()
    try:
        with _inputs_as_autocast_has_them(trainer.model, spec):
            _train_to_the_end(trainer, spec, resume)
    except RuntimeError as exc:  # torch.OutOfMemoryError is one
        if not should_reduce_batch_size(exc):
            raise
        raise out_of_memory(spec, work, oom_events, trainer.state.global_step + 1) from exc
    if trainer.is_world_process_zero():
        _save_adapter(trainer.model, task, tokenizer, prompts)
    return _trained(spec, trainer.state, len(train_set), callback.elapsed(), oom_events)


def _train_to_the_end(trainer: Any, spec: RunSpec, resume: Path | None) -> None:
    """Leaves the weights of the best checkpoint. Where ``resume`` is the last checkpoint already (the job was killed before
    it recorded that), nothing is trained: the trainer itself would take one step more."""
    from transformers import TrainerState

    from cefr_batch.training.early_stopping import stops_early

    state = TrainerState.load_from_json(str(resume / "trainer_state.json")) if resume else None
    if resume and state and (state.global_step >= state.max_steps or stops_early(state, spec.training.early_stopping)):
        trainer.state = state
        load_weights(trainer.model, Path(state.best_model_checkpoint or resume))
    else:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)


def load_weights(model: Any, adapter: Path) -> None:
    """Take a LoRA model's weights from the folder of an adapter of the same shape. Raises ``ModelError`` for another."""
    from peft import load_peft_weights, set_peft_model_state_dict

    weights = load_peft_weights(str(adapter), device="cpu")
    try:
        loaded = set_peft_model_state_dict(model, weights)
    except RuntimeError as exc:  # of torch, for weights of another shape
        raise _unfit(adapter, str(exc)) from exc
    missing = [name for name in loaded.missing_keys if "lora_" in name]
    if missing or loaded.unexpected_keys:
        odd = next(iter([*missing, *loaded.unexpected_keys]))
        raise _unfit(adapter, f"{odd} is in only one of them")


def _unfit(adapter: Path, why: str) -> ModelError:
    same = "start from the adapter of a run with the same base model and the same `lora` settings"
    return ModelError(f"the adapter in {adapter} does not fit the model: {why}; {same}")


def _trainable(spec: RunSpec, path: Path) -> tuple[Any, Any]:
    """The base model with fresh LoRA weights (seeded), and its tokenizer."""
    import torch
    from transformers import set_seed

    from cefr_batch.models.device import device, use_bf16
    from cefr_batch.models.loading import load_tokenizer, stored_dtype

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
        trust_remote_code=False,
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

    from cefr_batch.models.loading import ends_of_text

    quantization = _four_bit_config(dtype) if four_bit else None
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=dtype,
        quantization_config=quantization,
        generation_config=ends_of_text(path),
        trust_remote_code=False,
    )
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

    from cefr_batch.models.device import use_bf16

    detour = spec.backend == "peft" and use_bf16(spec.training.precision)
    direct: AbstractContextManager[None] = disable_input_dtype_casting(model, active=detour)
    return direct


def _four_bit_config(dtype: Any) -> Any:
    """NF4 with double quantization: QLoRA's, as Unsloth's 4-bit weights have it (Dettmers et al. 2023, section 3)."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _tokenized(spec: RunSpec, tokenizer: Any, prompts: PromptFormat, examples: Sequence[Example]) -> Any:
    """Examples as token ids, with the labels that the loss counts: all of them, prompt included, as in the first report, or
    those of the response alone. The trainer divides a step's loss by the number of its labels, whatever micro-batches and
    processes share them.
    """
    from datasets import Dataset

    from cefr_batch.data.encoding import IGNORED, encode

    encoded = encode(tokenizer, prompts, examples, spec.training.max_length)
    ids = [e.ids for e in encoded]
    if spec.training.loss_on == "all":
        return Dataset.from_dict({"input_ids": ids, "labels": ids})
    labels = [[IGNORED] * e.response_start + e.ids[e.response_start :] for e in encoded]
    if empty := sum(all(label == IGNORED for label in one) for one in labels):
        raise JobFailed(
            f"{empty} of {len(examples)} examples have no response left after training.max_length cut them, and "
            "training.loss_on is response; raise training.max_length, or remove these examples"
        )
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def _collator(pad_id: int) -> Any:
    """TRL's collator pads each batch to its longest example, with labels of -100."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    return DataCollatorForLanguageModeling(pad_token_id=pad_id)


def _arguments(spec: RunSpec, work: WorkDir, eval_examples: int, oom_events: Sequence[OomEvent]) -> Any:
    import torch
    from trl import SFTConfig

    from cefr_batch.models.device import use_bf16

    t, cuda = spec.training, torch.cuda.is_available()
    batch = batch_of(spec, oom_events)
    eval_batch = min(spec.evaluation.batch_size, eval_examples)
    arguments = SFTConfig(
        output_dir=str(work.trainer),
        num_train_epochs=t.epochs,
        max_steps=t.max_steps or -1,
        per_device_train_batch_size=batch.rows,
        per_device_eval_batch_size=min(eval_batch, batch.rows) if oom_events else eval_batch,
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
        report_to="none",  # TensorBoard is written by Steps, and other trackers by Trackers
        run_name=work.root.name,
        project="cefr-batch",  # trackio's
        disable_tqdm=True,
    )
    if arguments.n_gpu > 1:
        # Else the trainer of a single process gives each GPU that it sees a batch of its own (torch.nn.DataParallel).
        arguments._n_gpu = 1
    return arguments


def _trained(spec: RunSpec, state: Any, examples: int, seconds: float, oom_events: Sequence[OomEvent]) -> Trained:
    """``state``: the trainer's; ``seconds``: of training, all attempts together."""
    import torch

    from cefr_batch.training.callbacks import fold_log

    log = fold_log(state.log_history, spec.training.logging_steps, state.global_step)
    evaluations = [(e.eval_loss, e) for e in log if e.eval_loss is not None]
    best_loss, best = min(evaluations, key=lambda one: one[0])
    epochs = log[-1].epoch
    batch = batch_of(spec, oom_events)
    figures = TrainingFigures(
        examples=examples,
        steps=state.global_step,
        epochs=epochs,
        duration_seconds=round(seconds, 3),
        samples_per_second=round(examples * epochs / seconds, 3),
        final_loss=[e.loss for e in log if e.loss is not None][-1],
        batch_size=batch.rows,
        gradient_accumulation_steps=batch.accumulation,
        gpus=spec.resources.gpus,
        out_of_memory=list(oom_events),
    )
    if state.global_step < state.max_steps and spec.training.early_stopping:
        early = EarlyStop(evaluations=spec.training.early_stopping, planned_steps=state.max_steps)
        figures = figures.model_copy(update={"stopped_early": early})
    peak = round(torch.cuda.max_memory_reserved() / 1e9, 2) if torch.cuda.is_available() else None
    return Trained(figures, log, BestCheckpoint(step=best.step, epoch=best.epoch, eval_loss=best_loss), peak)


def _save_adapter(model: Any, task: TrainingTask, tokenizer: Any, prompts: PromptFormat) -> None:
    """``adapter/``: the PEFT format, with the base model's name as others know it; and how the tuned model is asked."""
    from cefr_batch.models.prompt_files import save_prompt_files
    from cefr_batch.models.resolve import commit_of, public_name

    spec, tmp, target = task.spec, task.work.tmp / "adapter", task.work.path(layout.ADAPTER)
    shutil.rmtree(tmp, ignore_errors=True)
    for config in model.peft_config.values():
        config.base_model_name_or_path = public_name(spec.model)
        config.revision = commit_of(task.model_path) or spec.model.revision
    with warnings.catch_warnings():  # PEFT looks on the hub for what `public_name` says is not there
        warnings.filterwarnings("ignore", "Could not find a config file in local:")
        model.save_pretrained(tmp, safe_serialization=True)
    (tmp / layout.CARD).unlink(missing_ok=True)  # a template; the job writes the model's card
    save_prompt_files(task.model_path, tokenizer, prompts, tmp)
    shutil.rmtree(target, ignore_errors=True)
    tmp.rename(target)
