"""Must show: a card that the hub's library reads, with the run's own figures, whose examples run as they stand there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from support.exports import check, export_record
from support.prompts import CHATML, make_chat_model
from support.report_stores import B1, metrics

from cefr_batch.cards.model_card import CardFacts, ModelPart, model_card
from cefr_batch.config.load import load_spec
from cefr_batch.data import Example, prompt_format
from cefr_batch.evaluation.generation import generate_from
from cefr_batch.models.licence import licence_in
from cefr_batch.records.exports import TextDifference
from cefr_batch.records.losses import EvaluatedExample, EvaluationRecord, PartCounts, PartSums
from cefr_batch.records.metrics import Metrics
from cefr_batch.records.stages import Licence

RUN = "llama1b-b1-peft-v1"
BASE = "unsloth/Llama-3.2-1B-Instruct"


def facts(*settings: str, licence: Licence | None = None, revision: str | None = None, rows: int = 0) -> CardFacts:
    spec = load_spec("B1", overrides=["backend=peft", *settings])
    found = Metrics.model_validate(metrics(RUN, "B1", B1))
    found = found.model_copy(update={"model_licence": licence, "model_revision": revision})
    examples = [example(i) for i in range(rows)]
    return CardFacts(RUN, spec, found, EvaluationRecord(examples=examples) if rows else None)


def example(i: int) -> EvaluatedExample:
    def sums(nll: float) -> PartSums:
        return PartSums(full=nll, response=nll, seen=0.0, unseen=nll)

    tokens = PartCounts(full=100, response=50, seen=0, unseen=50)
    return EvaluatedExample(index=i, tokens=tokens, baseline=sums(200 + i), tuned=sums(100 + i % 7))


def head_of(text: str) -> dict[str, Any]:
    """As the hub's library reads it."""
    data: Any = ModelCard(text, ignore_metadata_errors=False).data
    return dict(data.to_dict())


@pytest.mark.parametrize("kind", ["adapter", "merged", "gguf"])
def test_the_hubs_library_reads_the_head(kind: Any) -> None:
    licence = Licence(id="llama3.2")
    text = model_card(facts(licence=licence, revision="a" * 40), export_record() if kind == "gguf" else kind)
    assert head_of(text) == {
        "language": "en",
        "license": "llama3.2",
        "library_name": {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}[kind],
        "pipeline_tag": "text-generation",
        "tags": ["cefr", "cefr-b1", "english", "education", "lora", "cefr-batch"],
        "base_model": BASE,
        "base_model_relation": {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}[kind],
    }
    assert f"| base model | [{BASE}](https://huggingface.co/{BASE}), revision `{'a' * 40}` |" in text
    assert "| licence of the base model | `llama3.2` |" in text


def test_a_licence_of_the_models_own_keeps_its_name_and_link() -> None:
    licence = Licence(id="other", name="qwen-research", link="https://example.org/LICENSE")
    head = head_of(model_card(facts(licence=licence), "merged"))
    assert (head["license"], head["license_name"], head["license_link"]) == ("other", licence.name, licence.link)
    assert head_of(model_card(facts(), "merged"))["license"] == "unknown"


def test_the_figures_are_the_runs_with_their_intervals() -> None:
    text = model_card(facts(rows=40), "merged")
    row = re.search(r"\| responses .*\| 1\.999 \| 0\.508 \| (\d+\.\d) % \((\d+\.\d) … (\d+\.\d)\) \|", text)
    assert row, text
    share, low, high = map(float, row.groups())
    assert share == 74.6
    expected = 100 * (1 - sum(100 + i % 7 for i in range(40)) / sum(200 + i for i in range(40)))
    assert low < expected < high, "the examples' own reduction"
    assert f"`{B1_SHA}`" in text
    assert "| 1800 | 200 |" in text
    assert "99.0 % occur word for word in the" in text


B1_SHA = metrics(RUN, "B1", B1)["data"]["eval_sha256"]


def test_no_folder_of_the_machine_is_in_a_card() -> None:
    own = ["data.source=/home/ann/private/my words.csv", "model.name=/home/ann/models/tiny|`x`/"]
    export = export_record(
        not_verified="llama.cpp cannot be used here (/home/ann/lib/libllama.so: no such file); build it"
    )
    for model in ("adapter", "merged", export):
        text = model_card(facts(*own), model)
        assert "/home" not in text
        assert "my words.csv" in text
        assert "base_model" not in head_of(text)
        assert "The base model is not on the hub" in text
        assert "`` local:tiny\\|`x` ``" in text


def test_the_card_of_an_export_has_its_verification_and_asks_its_file() -> None:
    tie = TextDifference(example=3, token=9, ours=" a", theirs=" the", our_gap=0.01, their_gap=0.0)
    found = check(equal_texts=19, differences=[tie], exported_loss=1.0612, merged_loss=1.061)
    text = model_card(facts(), export_record(kind="q8_0", check=found))
    assert "llama.cpp (llama-cpp-python 0.3.36) ran this file on 20 evaluation examples" in text
    for row in (
        "| weights | q8_0 |",
        "| prompts that are the trained ones, token by token | 20 of 20 |",
        "| greedy texts equal to the merged model's | 19 of 20 |",
        "(a tie) | 1 of 20 |",
        "| loss of this file, nats per token | 1.0612 |",
        "| loss of the merged model | 1.0610 |",
    ):
        assert row in text
    assert f"llama-server --model {RUN}-q8_0.gguf --jinja" in text
    assert f"ollama create {RUN} -f Modelfile" in text
    assert "temperature to 0 and the repeat penalty to 1 (off) there." in text
    assert "safetensors" not in text
    assert "(a tie)" not in model_card(facts(), export_record(check=check()))


def test_the_card_of_an_export_that_was_not_verified_says_why() -> None:
    text = model_card(facts(), export_record(not_verified="llama.cpp is not installed here"))
    assert "\n## Verification\n\nNot verified: llama.cpp is not installed here.\n\n## Limits\n" in text
    assert "before its weights were converted to f16; how close this file comes to it was not measured.\n" in text


def test_the_card_in_a_repository_says_how_to_get_the_files() -> None:
    assert f"hf download me/model --local-dir {RUN}/adapter\n" in model_card(facts(), "adapter", "me/model")
    assert f"hf download me/model --local-dir {RUN}\n" in model_card(facts(), export_record(), "me/model")
    assert "hf download" not in model_card(facts(), "adapter")


def test_a_folder_without_a_chat_template_is_asked_in_plain_text() -> None:
    text = model_card(replace(facts(), chat_template=False), "merged")
    assert "the base model's own is not the trained prompt" in text
    assert "Ask it with the prompt as plain text" in text
    assert "apply_chat_template" not in text
    assert "vllm serve" not in text


def code_block(text: str) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return str(block)


@pytest.mark.parametrize(("words", "said"), [(1, "1 word"), (3, "3 words"), (12, "12 words")])
def test_the_request_that_a_card_shows_has_as_many_words_as_it_says(words: int, said: str) -> None:
    text = model_card(facts(f"data.words_per_example={words}"), "merged")
    shown = re.search(
        r"with (\d+ words?) at a time \(the code below calls it `REQUEST`\):\n\n```text\n(.*?)```", text, re.DOTALL
    )
    assert shown
    assert shown[1] == said
    assert re.findall(r"^(\d+)\. \w+$", shown[2], re.MULTILINE) == [str(number) for number in range(1, words + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["alpaca", "chat"])
def test_the_cards_example_gives_our_text(
    prompt: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the adapter and of the merged model, as ``pull`` lays them down."""
    from support.job_runs import SETTINGS, work_folder

    from cefr_batch.job.context import StageContext
    from cefr_batch.job.stages import run_stage

    base = make_chat_model(tiny_model, tmp_path / "base", "{{ bos_token }}" + CHATML, around="<bos> $A")
    settings = [f"model.name={base}", f"model.prompt={prompt}", *SETTINGS, "generation.examples=0"]
    spec = load_spec("B1", overrides=[*settings, "training.max_steps=2", "generation.max_new_tokens=8"])
    context = StageContext(work_folder(tmp_path / RUN, spec))
    for stage in ("data", "baseline", "train", "tuned", "merge"):
        run_stage(context, stage)
    found = CardFacts(RUN, spec, facts().metrics)
    expected = generate_from(
        context.work.path("merged"), prompt_format(prompt, base), Example(found.request, "", ""), 8, None
    )
    monkeypatch.chdir(tmp_path)
    kinds: tuple[ModelPart, ...] = ("merged", "adapter")
    for kind in kinds:
        block = code_block(model_card(found, kind))
        block = block.replace("/path/to/the/base/model", str(base)).replace('dtype="auto"', 'dtype="float32"')
        capsys.readouterr()
        exec(block, {"REQUEST": found.request})
        assert capsys.readouterr().out == f"{expected.text}\n", kind


def test_a_models_own_card_tells_its_licence(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    assert licence_in(tmp_path) is None
    card.write_text("---\nlicense: other\nlicense_name: llama3\nlicense_link: 3\ntags: [a]\n---\n# A model\n")
    assert licence_in(tmp_path) == Licence(id="other", name="llama3")
    for unusable in (
        "",
        "# no head",
        "---\n- a list\n---\n",
        "---\nlicense: [a\n---\n",
        "---\nlicense: 3\n---\n",
        "---",
    ):
        card.write_text(unusable)
        assert licence_in(tmp_path) is None
    card.write_bytes(b"---\nlicense: \xff\n---\n")
    assert licence_in(tmp_path) is None
