"""The loss of a step without work in vain: each counted token's logits once, and their gradient while they are there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch.nn.functional import log_softmax, nll_loss
from transformers import Trainer
from transformers.modeling_outputs import CausalLMOutput
from trl import SFTTrainer
from typing_extensions import override

from cefr_batch.data.encoding import IGNORED
from cefr_batch.models.architecture import FAMILIES
from cefr_batch.planning.memory import HEAD_ROWS


class HeadLossTrainer(SFTTrainer):  # type: ignore[misc]  # TRL is not typed here
    """TRL's trainer. ``lean``: a model of a known family computes its loss by ``HeadLoss``, not by TRL's ``chunked_nll``,
    which computes every logit twice, since it has dropped them when it comes to their gradient: a tenth of a step of a model
    of 1B parameters with 128,256 words. Unsloth's models have a loss of their own."""

    @override
    def __init__(self, *, lean: bool, **arguments: Any) -> None:
        super().__init__(**arguments)
        causal = self.model.get_base_model()
        self._lean = lean and causal.config.model_type in FAMILIES
        if self._lean:
            causal.forward = MethodType(partial(_forward, causal.forward), causal)

    @override
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Without what TRL measures besides, entropy and accuracy, which no run shows."""
        if not self._lean:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs.pop("_prediction_loss_only", None)
        return Trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)


def _forward(logits: Callable[..., Any], model: Any, *, labels: Any = None, **inputs: Any) -> Any:
    """The model's forward pass: the loss where there are labels, else what ``logits`` makes of its inputs."""
    return logits(**inputs) if labels is None else _with_loss(model, labels, **inputs)


def _with_loss(
    model: Any, labels: Any, input_ids: Any, attention_mask: Any, num_items_in_batch: Any = None, **_: Any
) -> CausalLMOutput:
    """``num_items_in_batch``: the labels of the whole step, by which its losses are divided; None: those of this batch."""
    states = model.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    wanted = labels[:, 1:]
    counted = wanted != IGNORED
    number = counted.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    number = torch.as_tensor(number, device=states.device)
    head, cap = model.get_output_embeddings(), getattr(model.config, "final_logit_softcapping", None)
    loss = HeadLoss.apply(states[:, :-1][counted], head.weight, head.bias, wanted[counted], number, cap)
    return CausalLMOutput(loss=loss)


class HeadLoss(torch.autograd.Function):  # type: ignore[misc]  # not typed
    """The summed cross-entropy of tokens (tokens x width) under a frozen head (words x width), divided by a number."""

    @staticmethod
    @override
    def forward(
        ctx: Any, states: Any, weight: Any, bias: Any, wanted: Any, number: torch.Tensor, cap: float | None
    ) -> Any:
        """Some rows at a time, so that their logits are few at once. The gradient of the states is taken here already."""
        total = states.new_zeros((), dtype=torch.float32)
        gradients = []
        for rows, labels in zip(states.split(HEAD_ROWS), wanted.split(HEAD_ROWS), strict=True):
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                leaf = rows.detach().requires_grad_(ctx.needs_input_grad[0])
                loss = _summed(leaf, weight.detach(), bias, labels, cap)
            total += loss.detach()
            if ctx.needs_input_grad[0]:
                gradients += torch.autograd.grad(loss, leaf, torch.ones_like(loss) / number)
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return total / number

    @staticmethod
    @override
    def backward(ctx: Any, *given: Any) -> Any:
        """``given``: the gradient of the loss, 1 in a single process."""
        (gradient,) = ctx.saved_tensors
        return gradient * given[0], None, None, None, None, None


def _summed(rows: Any, weight: Any, bias: Any, labels: Any, cap: float | None) -> torch.Tensor:
    """As TRL computes it, so that a run that an earlier version began goes on as it would have."""
    logits = (rows @ weight.to(rows.dtype).t()).float()
    if bias is not None:
        logits = logits + bias.float()
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return nll_loss(log_softmax(logits, dim=-1), labels, reduction="sum")
