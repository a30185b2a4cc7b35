"""How much a run writes to the disk of its machine: arithmetic on the model's sizes."""

from __future__ import annotations

from cefr_batch.config.schema import RunSpec
from cefr_batch.models.architecture import Architecture
from cefr_batch.planning.memory import BF16, FP32


def disk_needed(spec: RunSpec, model: Architecture) -> int:
    """Bytes that a run writes below its folder: the merged model in 16 bits, the adapter in 32, and the checkpoints that
    exist at once (those kept, the best, and the one being written), each with AdamW's two states."""
    lora = model.lora_parameters(spec.lora.rank, spec.lora.target_modules)
    checkpoints = spec.training.keep_checkpoints + 2
    return BF16 * model.parameters + FP32 * lora * (1 + 3 * checkpoints)
