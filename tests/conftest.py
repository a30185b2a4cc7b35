"""What many tests share: isolated folders, and a tiny model in Llama's architecture with a real tokenizer."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import hypothesis
import pytest

from cefr_batch.job.environment import without_process_group

# How long an example takes says nothing here: other tests compute beside it.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

pytest.register_assert_rewrite("support.goldens")  # so that a failure shows the difference

pytest_plugins = [
    "support.chromium_fixtures",
    "support.image_fixtures",
    "support.stand_in_fixtures",
    "support.store_fixtures",
]


def pytest_configure() -> None:
    """Signals that nohup, cron or a background job of a shell had ignored work here and in the programs under test. The
    variables of torchrun or an allocation are left out: some tests train in this process, where no job scrubs them."""
    kept = without_process_group(os.environ)
    for name in set(os.environ) - set(kept):
        del os.environ[name]
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The clusters' tests come first: they take longest, mostly waiting, while others compute beside them."""
    items.sort(key=lambda item: item.path.stem not in ("test_k8s", "test_slurm"))


@pytest.fixture(autouse=True)
def isolated(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No test sees or touches the user's cache, work folders, store or queue. Whole runs share converted models."""
    for name in ("CEFR_BATCH_STORE", "CEFR_BATCH_JOBS", "CEFR_BATCH_WORK", "CEFR_BATCH_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CEFR_BATCH_CACHE", str(tmp_path / "cache"))
    # Threads of a small model, or of two test processes on two cores, mostly wait for each other.
    if "tiny_model" in request.fixturenames or "PYTEST_XDIST_WORKER" in os.environ:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if request.node.get_closest_marker("e2e"):
        models = tmp_path_factory.getbasetemp() / "converted-models"
        models.mkdir(exist_ok=True)
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "models").symlink_to(models)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a two-layer Llama of random weights (seeded) and a byte-level BPE tokenizer: trains in seconds."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from cefr_batch.config.schema import Level
    from cefr_batch.data.pairs import read_pairs

    folder = tmp_path_factory.mktemp("model") / "tiny-llama"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<eos>", "<pad>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator((pair.sentence for pair in read_pairs("starter", Level.B1)), trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>").save_pretrained(folder)

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.3,  # far from uniform predictions
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    return folder
