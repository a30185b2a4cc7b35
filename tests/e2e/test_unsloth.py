"""Must show: the published B1 data, SmolLM2 and Unsloth's CPU backend, from submit to the merged model."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.published import published
from support.runs import ROOT, UNSLOTH_PYTHON, cefr_batch, full_loss, needs_unsloth, read, runs, settings

from cefr_batch.config.load import load_spec
from cefr_batch.data.examples import read_examples
from cefr_batch.records import layout

pytestmark = pytest.mark.e2e


def test_b1_with_unsloth(tmp_path: Path) -> None:
    needs_unsloth()
    files = {side: published(f"training_data_b1_list_format_{side}.json") for side in ("train", "eval")}
    overrides = settings(
        "backend=unsloth",
        *(f"data.{side}={file}" for side, file in files.items()),
        "training.max_steps=24",
        "training.batch_size=2",
        "training.eval_steps=12",
        "evaluation.max_examples=8",
        "generation.examples=2",
        "generation.max_new_tokens=8",
    )
    store = tmp_path / "store"
    cefr_batch(
        "submit", "--level", "B1", "--profile", "smoke", *overrides, "--wait", store=store, python=UNSLOTH_PYTHON
    )
    folder = runs(store)["smollm2-b1-unsloth-v1"]
    metrics = read(folder, layout.METRICS)

    assert metrics["backend"] == "unsloth"
    assert metrics["versions"]["unsloth"]
    assert metrics["train"]["steps"] == 24
    assert metrics["train"]["examples"] == 1800
    for kind in ("full", "response", "seed_protocol"):
        before, after = metrics["baseline"][kind], metrics["tuned"][kind]
        assert after["loss"] < before["loss"]
        for what in ("loss", "perplexity"):
            expected = 100 * (1 - after[what] / before[what])
            assert metrics["reduction"][kind][f"{what}_percent"] == pytest.approx(expected)
    assert round(metrics["leakage"]["sentences_percent"]) == 99
    seen, unseen = (metrics["tuned"][part] for part in ("seen", "unseen"))  # 79 sentences, and one
    assert seen["tokens"] > 40 * unseen["tokens"] > 0
    assert seen["loss"] < metrics["baseline"]["seen"]["loss"]
    assert unseen["loss"] < metrics["baseline"]["unseen"]["loss"]
    assert metrics["data"]["unique_words"] == 806
    print(metrics["baseline"], metrics["tuned"], metrics["reduction"], metrics["leakage"], metrics["train"], sep="\n")

    stored = {o["key"] for o in read(folder, layout.MANIFEST)["objects"]}
    assert {f"{layout.PLOTS}/{name}.png" for name in layout.PLOT_NAMES} <= stored
    assert {"adapter/adapter_model.safetensors", "merged/model.safetensors", "metrics.json", "spec.json"} <= stored
    assert any(key.startswith("tensorboard/") for key in stored)
    assert not [key for key in stored if key.endswith((".bin", ".pkl", ".pickle"))]

    loss = full_loss(folder / layout.MERGED, read_examples(files["eval"])[:8])
    assert loss == pytest.approx(metrics["tuned"]["full"]["loss"], abs=0.02)


def test_both_backends_train_on_the_response_from_another_runs_adapter(tiny_model: Path, tmp_path: Path) -> None:
    """Without dropout they compute the same, so every step's loss is: over the same tokens, from the same weights."""
    needs_unsloth()
    store = tmp_path / "store"
    values = [
        f"model.name={tiny_model}",
        "model.alias=tiny",
        "data.examples=40",
        "data.words_per_example=3",
        "lora.rank=4",
    ]
    values += ["lora.dropout=0.0", "evaluation.max_examples=4", "generation.examples=0", "training.precision=fp32"]
    values += ["training.batch_size=2", "training.gradient_accumulation_steps=2", "training.max_steps=4"]
    values += ["training.eval_steps=2", "training.logging_steps=1", "training.learning_rate=1e-3"]
    cefr_batch("submit", "--level", "A1", *settings(*values, "backend=peft"), "--wait", store=store)
    values += ["model.adapter=tiny-a1-peft-v1", "training.loss_on=response"]
    logs = {}
    for backend in ("peft", "unsloth"):
        overrides = settings(*values, f"backend={backend}")
        cefr_batch("submit", "--level", "B1", *overrides, "--wait", store=store, python=UNSLOTH_PYTHON)
        found = read(runs(store)[f"tiny-b1-{backend}-v1"], layout.METRICS)
        assert found["adapter"]["run"] == "tiny-a1-peft-v1"
        logs[backend] = [entry.get("loss", entry.get("eval_loss")) for entry in found["log"]]
    assert len(logs["peft"]) == 6
    assert logs["unsloth"] == pytest.approx(logs["peft"], abs=1e-4)


def test_the_calls_that_only_cuda_makes_fit_the_installed_unsloth() -> None:
    """No GPU here: the keyword arguments are held against the signatures in Unsloth's source for CUDA."""
    needs_unsloth()
    (models,) = UNSLOTH_PYTHON.parents[1].glob("lib/python*/site-packages/unsloth/models")
    accepted = {
        "from_pretrained": parameters(models / "loader.py", "FastLanguageModel", "from_pretrained"),
        "get_peft_model": parameters(models / "llama.py", "FastLlamaModel", "get_peft_model"),
    }
    used = keywords(ROOT / "cefr_batch" / "training" / "trainer.py", "FastLanguageModel")
    assert set(used) == set(accepted)
    named_elsewhere = {"local_files_only"}  # taken by **kwargs, handed on to transformers
    for call, names in used.items():
        assert len(names) >= 5
        assert names - named_elsewhere <= accepted[call]


def parameters(file: Path, owner: str, function: str) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    classes = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == owner]
    (found,) = [n for c in classes for n in c.body if isinstance(n, ast.FunctionDef) and n.name == function]
    return {a.arg for a in (*found.args.args, *found.args.kwonlyargs)}


def keywords(file: Path, owner: str) -> dict[str, set[str]]:
    """The keyword arguments of this file's calls ``owner.name(…)``, by name."""
    calls = [n for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
    return {
        c.func.attr: {str(k.arg) for k in c.keywords}
        for c in calls
        if isinstance(c.func, ast.Attribute) and isinstance(c.func.value, ast.Name) and c.func.value.id == owner
    }


def test_no_argument_of_ours_disables_unsloths_fused_lora() -> None:
    """Unsloth's own function gives the reasons; it runs on CUDA only, so its source is asked, with the level's defaults."""
    needs_unsloth()
    (package,) = UNSLOTH_PYTHON.parents[1].glob("lib/python*/site-packages/unsloth")
    source = ast.parse((package / "models" / "llama.py").read_text(encoding="utf-8"))
    (function,) = [n for n in source.body if isinstance(n, ast.FunctionDef) and n.name == "_fused_lora_skip_reason"]
    assert [a.arg for a in function.args.args] == [
        "lora_dropout",
        "bias",
        "float32_base",
        "fsdp",
    ]  # a new one: look at it
    kernels = (package / "kernels" / "fast_lora.py").read_text(encoding="utf-8")
    assert 'FUSED_LORA_DROPOUT = os.environ.get("UNSLOTH_FUSED_LORA_DROPOUT", "1") != "0"' in kernels
    names: dict[str, Any] = {"_fast_lora": SimpleNamespace(FUSED_LORA_DROPOUT=True)}
    exec(compile(ast.Module([function], []), "llama.py", "exec"), names)
    spec = load_spec("B1", overrides=["backend=unsloth"])
    assert spec.lora.dropout == 0.05
    assert names["_fused_lora_skip_reason"](spec.lora.dropout, "none", float32_base=False) == ""
    assert "bias = 'all'" in names["_fused_lora_skip_reason"](spec.lora.dropout, "all")
    given = keywords(ROOT / "cefr_batch" / "training" / "trainer.py", "FastLanguageModel")["get_peft_model"]
    assert not given & {"bias", "use_dora", "use_rslora", "modules_to_save", "loftq_config", "init_lora_weights"}
