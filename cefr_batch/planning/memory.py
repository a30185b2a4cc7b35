"""How much memory training and evaluation take at their peak: arithmetic on the model's sizes, no weights. In bytes.

Each term says where its formula comes from. "Counted" means: read off the tensors that autograd keeps with transformers
5.17, peft 0.21 and trl 1.14; ``tests/planning/test_memory.py`` holds the sum to within 15 % of what torch's profiler
measures.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from cefr_batch.config.schema import RunSpec
from cefr_batch.models.architecture import Architecture

GIB = 2**30
FP32, BF16 = 4, 2

# NF4 with double quantization: 4 bits a weight and 0.127 bits for its share of the quantization constants (Dettmers et
# al. 2023, arXiv:2305.14314, section 3).
NF4 = (4 + 0.127) / 8
# Two states of one byte, and for each a 4-byte constant every 256 values (Dettmers et al. 2022, arXiv:2110.02861, section
# 2; the block size of bitsandbytes' AdamW8bit).
ADAMW_8BIT = 2 * (1 + 4 / 256)
# What a process takes of a GPU outside torch's allocator: "memory in use" less "allocated" and "reserved" in torch's
# messages. 0.49 GiB (3DTopia/Phidias-Diffusion#8) and 0.46 (pinokiofactory/flux-webui#11) on RTX 4090s, 0.49 on A100s
# (lianqi1008/Control-GIC#6, TianheWu/CoSeR#10).
CUDA_CONTEXT = GIB // 2
# Of what torch reserves, the share that fits no request: "reserved but unallocated" in the same messages, 2 to 6 %.
FRAGMENTATION = 0.05

EVALUATION_LOGITS = 16 << 20  # bytes of the logits that an evaluation has at once
HEAD_ROWS = 256  # tokens whose logits a step of training has at once, as TRL (_CHUNKED_LM_HEAD_CHUNK_SIZE)
_UNSLOTH_ROWS = 512  # the least that Unsloth has at once: UNSLOTH_LOGPROB_MIN_ROWS in unsloth_zoo.fused_losses,
_UNSLOTH_BYTES = 2 * GIB  # and the most: UNSLOTH_LOGPROB_CHUNK_GB


@dataclass(frozen=True)
class TargetDevice:
    """What a backend's choice of types depends on."""

    cuda: bool
    bf16: bool  # training computes in bf16


@dataclass(frozen=True)
class BatchShape:
    """A micro-batch: rows, all padded to the longest."""

    rows: int
    length: int  # tokens

    @property
    def tokens(self) -> int:
        """Padding included."""
        return self.rows * self.length


@dataclass(frozen=True)
class Memory:
    """A process's memory at the peak of a training step, by what it is for."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    overhead: int  # CUDA's context, and what the allocator cannot use

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class _Types:
    """Bytes of a number, by what it is."""

    unsloth: bool
    compute: int
    linear: float  # the base model's linear weights
    other: int  # its embedding and norms
    adapter: int
    adapter_copy: int  # autocast keeps a 16-bit copy of 32-bit adapter weights from the forward to the backward pass
    gated: int  # gate, up and their product
    dropout_mask: int

    @classmethod
    def of(cls, spec: RunSpec, device: TargetDevice) -> _Types:
        """Unsloth and PEFT keep adapters in fp32 (``autocast_adapter_dtype``); TRL makes those of a 4-bit model bf16.

        ``prepare_model_for_kbit_training`` of PEFT makes all that is not 4-bit fp32, and bitsandbytes' ``Linear4bit``
        returns what it was given. Dropout's mask is a byte a number on CUDA (``native_dropout``) and a number on the CPU.
        """
        unsloth = spec.backend != "peft"
        four_bit = device.cuda and spec.model.load_in_4bit
        compute = BF16 if device.bf16 else FP32
        adapter = BF16 if four_bit and not unsloth else FP32
        wide = four_bit and not unsloth
        return cls(
            unsloth=unsloth,
            compute=compute,
            linear=NF4 if four_bit else compute,
            other=FP32 if wide else compute,
            adapter=adapter,
            adapter_copy=compute if compute < adapter else 0,
            gated=FP32 if wide else compute,
            dropout_mask=1 if device.cuda else compute,
        )


def training_memory(model: Architecture, spec: RunSpec, batch: BatchShape, device: TargetDevice) -> Memory:
    """The peak of training on one GPU (or in one process on the CPU).

    It is at the start of the backward pass, when everything is alive: weights, adapter, gradients of the micro-batches
    before, optimizer states, and all that the forward pass kept; on top of it come the logits, or what a layer's backward
    pass works with if that is more. Data-parallel training keeps gradients a second time, in buckets
    (``DistributedDataParallel``, ``gradient_as_bucket_view=False``).
    """
    types = _Types.of(spec, device)
    lora = model.lora_parameters(spec.lora.rank, spec.lora.target_modules)
    logits = _logits(model, batch, types)
    kept, working = _activations(model, spec, batch, types)
    parts = {
        "weights": round(model.linear_parameters * types.linear) + model.other_parameters * types.other,
        "adapter": lora * (types.adapter + types.adapter_copy),
        "gradients": lora * types.adapter * (2 if spec.resources.gpus > 1 else 1),
        "optimizer": round(lora * _optimizer_state(spec, types, device)),
        "activations": kept + max(working - logits, 0),
        "logits": logits,
    }
    return Memory(**parts, overhead=_overhead(sum(parts.values()), device))


def evaluation_memory(model: Architecture, spec: RunSpec, batch: BatchShape, device: TargetDevice) -> int:
    """The peak of ``evaluation.losses.evaluate``: fp32 weights and adapter, and the larger of two: what a layer works with
    (its input, the norm of it, and three of the gated part's width), and a piece of the logits with its log-softmax beside
    the last hidden states, before and after they are picked."""
    lora = model.lora_parameters(spec.lora.rank, spec.lora.target_modules)
    words = min(model.vocabulary, EVALUATION_LOGITS // (FP32 * batch.tokens))
    logits = 2 * words * batch.tokens + 2 * batch.tokens * model.hidden
    layer = batch.tokens * (2 * model.hidden + 3 * model.intermediate)
    total = FP32 * (model.parameters + lora + max(logits, layer))
    return total + _overhead(total, device)


def _optimizer_state(spec: RunSpec, types: _Types, device: TargetDevice) -> float:
    """Bytes a trained parameter. AdamW's two states have the parameter's type (torch.optim.AdamW)."""
    eight_bit = spec.training.optimizer == "adamw_8bit" and device.cuda
    return ADAMW_8BIT if eight_bit else 2 * types.adapter


def _logits(model: Architecture, batch: BatchShape, types: _Types) -> int:
    """Neither backend has all logits at once (16 x 512 x 128,256 of them in fp32 would be 4.2 GB).

    ``training.head_loss`` takes 256 tokens, each of whose logits exists up to three times in fp32 (log-softmax, and the
    gradients of it and of the logits; counted). Unsloth's fused loss takes an eighth of the tokens, at least 512, and
    counts 8 bytes a logit (``_BYTES_PER_LOGIT``). The output matrix is copied where it is wider than the arithmetic.
    """
    if types.unsloth:
        rows = max(_UNSLOTH_ROWS, -(-batch.tokens // 8))
        return min(min(rows, batch.tokens) * model.vocabulary * 8, _UNSLOTH_BYTES)
    copy = model.vocabulary * model.hidden * types.compute if types.other > types.compute else 0
    return HEAD_ROWS * model.vocabulary * 3 * FP32 + copy


def _activations(model: Architecture, spec: RunSpec, batch: BatchShape, types: _Types) -> tuple[int, int]:
    """What the forward pass keeps of a batch, and what a layer's backward pass works with besides.

    With gradient checkpointing only each layer's input is kept and one layer at a time is computed again (Chen et al.
    2016, arXiv:1604.06174); Unsloth moves those inputs to the host.
    """
    layer = batch.tokens * _layer(model, spec, batch, types)
    last = batch.tokens * model.hidden * (FP32 + 2 * types.compute)  # the final norm, and the loss's copy of its output
    working = 2 * batch.tokens * (model.intermediate + model.hidden) * (types.compute if types.unsloth else FP32)
    if not spec.training.gradient_checkpointing:
        return model.layers * layer + last, working
    inputs = (1 if types.unsloth else model.layers) * batch.tokens * model.hidden * types.compute
    return inputs + last, layer + working


def _layer(model: Architecture, spec: RunSpec, batch: BatchShape, types: _Types) -> int:
    """Bytes that a layer keeps for each token, in the manner of Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1)
    for Llama's layer with frozen weights; counted for PEFT, read off ``save_for_backward`` in unsloth.kernels for Unsloth.

    Attention is fused (``scaled_dot_product_attention``): queries, keys, values, output and a log-sum a head. A padded
    batch has a mask, with which keys and values are repeated for every query head, and which is converted each time.
    """
    s, padded = types.compute, batch.rows > 1
    inputs = [width for width, _ in model.adapted(spec.lora.target_modules).values()]
    masks = sum(inputs) * types.dropout_mask if spec.lora.dropout else 0
    if types.unsloth:  # inputs of both norms, of attention and of the gated part; gate and up
        return s * (4 * model.hidden + 2 * model.intermediate + 2 * model.query + 2 * model.key_value) + masks
    attention = 2 * model.query + 2 * (model.query if padded else model.key_value) + (batch.length if padded else 0)
    norms = model.normed * FP32
    gated = 3 * model.intermediate * types.gated
    each_own = spec.lora.dropout > 0  # adapters of one input share it unless it is changed for each
    lora = sum(inputs) if each_own else 2 * model.hidden + model.intermediate
    ranks = len(inputs) * spec.lora.rank
    return s * (attention + lora + ranks) + gated + norms + masks + FP32 * model.heads


def _overhead(tensors: int, device: TargetDevice) -> int:
    return CUDA_CONTEXT + round(FRAGMENTATION * tensors) if device.cuda else 0
