"""Several adapters in one batch do to each row what PEFT does with that adapter alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.serving import make_adapter

from cefr_batch.errors import ModelError
from cefr_batch.models.adapters import AdaptedModel


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of two ranks."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: make_adapter(tiny_model, folder / name, rank=rank, seed=rank) for name, rank in (("one", 4), ("two", 8))
    }


@pytest.fixture(scope="module")
def adapted(tiny_model: Path, adapters: dict[str, Path]) -> AdaptedModel:
    model = AdaptedModel(tiny_model)
    for name, folder in adapters.items():
        model.add(name, folder)
    return model


def logits(model: Any, rows: int) -> torch.Tensor:
    ids = torch.arange(10, 40).repeat(rows, 1)
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids).logits
    return found


def test_each_row_is_what_peft_computes_with_that_adapter(
    adapted: AdaptedModel, adapters: dict[str, Path], tiny_model: Path
) -> None:
    from peft import PeftModel

    from cefr_batch.models.loading import load_for_evaluation

    base = logits(load_for_evaluation(tiny_model), 1)[0]
    expected = {
        name: logits(PeftModel.from_pretrained(load_for_evaluation(tiny_model), folder), 1)[0]
        for name, folder in adapters.items()
    }
    with adapted.adapted(["two", None, "one", "two"]):
        rows = logits(adapted.model, 4)
    for row, one in zip(rows, (expected["two"], base, expected["one"], expected["two"]), strict=True):
        torch.testing.assert_close(row, one, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(rows[0], rows[1], atol=0.1)
    assert not torch.allclose(rows[0], rows[2], atol=0.1)


def test_the_model_is_untouched_outside_even_after_a_failure(adapted: AdaptedModel) -> None:
    before = logits(adapted.model, 2)
    with pytest.raises(RuntimeError), adapted.adapted(["one"]):
        logits(adapted.model, 2)  # two rows, but one adapter
    assert torch.equal(logits(adapted.model, 2), before)


def test_an_adapter_of_another_model_is_refused_by_its_name(
    adapted: AdaptedModel, adapters: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(adapters["one"] / "adapter_model.safetensors")
    key = next(key for key in weights if key.endswith("lora_A.weight"))
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "adapter_config.json").write_bytes((adapters["one"] / "adapter_config.json").read_bytes())
    save_file({**weights, key: torch.zeros(4, 999)}, wrong / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="the adapter of tiny-b1-peft-v1 does not fit its pretrained model at model"):
        adapted.add("tiny-b1-peft-v1", wrong)
