"""The page to try models, over HTTP: what it streams is what the runs' models write, and nobody keeps them busy unread."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.serving import WORDS, Free, Reply, Scripted, Site, add_adapter_run, running
from support.stand_in import until

from cefr_batch.config.schema import Level
from cefr_batch.data import Example, prompt_format
from cefr_batch.data.build import instruction_for
from cefr_batch.errors import ModelError, UsageError
from cefr_batch.evaluation.generation import Sampling, generate
from cefr_batch.models.loading import load_for_evaluation, load_tokenizer
from cefr_batch.runner import Session
from cefr_batch.serve.writers import RunsWriter
from cefr_batch.serve.writing import Writing
from cefr_batch.store.local import LocalStore

RUNS = {"A1": "tiny-a1-peft-v1", "B1": "tiny-b1-peft-v1"}
DRAW: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "seed": 7}


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """Runs of two levels on the tiny model, with adapters of two ranks."""
    folder = tmp_path_factory.mktemp("serve")
    store = LocalStore(folder / "store")
    add_adapter_run(store, tiny_model, "A1", folder, rank=4, seed=1)
    add_adapter_run(store, tiny_model, "B1", folder, rank=8, seed=2)
    return store


@pytest.fixture(scope="module")
def writer(trained: LocalStore, tmp_path_factory: pytest.TempPathFactory) -> RunsWriter:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CEFR_BATCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return RunsWriter(Session(trained), list(RUNS.values()))


@pytest.fixture(scope="module")
def site(trained: LocalStore, writer: RunsWriter) -> Iterator[Site]:
    with running(trained, Writing(writer)) as site:
        yield site


def write(
    site: Site, voices: Sequence[int], *, words: str = ", ".join(WORDS), language: str = "en", **more: Any
) -> Reply:
    return site.post(f"/write?lang={language}", {"words": words, "voices": voices, **more})


def answers(reply: Reply) -> list[str]:
    return [event["text"] for event in reply.events if event["kind"] == "answer"]


def expected(
    trained: LocalStore, tiny_model: Path, level: str, run: str | None, sampling: Sampling | None = None
) -> str:
    """What PEFT and ``generate`` make of it, one model at a time."""
    from peft import PeftModel

    model: Any = load_for_evaluation(tiny_model)
    if run:
        model = PeftModel.from_pretrained(model, trained.root / "runs" / run / "adapter").eval()
    asked = Example(instruction_for(WORDS, Level(level)), "", "")
    (text,) = generate(
        model, load_tokenizer(tiny_model), prompt_format("alpaca", tiny_model), [asked],
        max_new_tokens=120, batch_size=1, sampling=sampling,
    )  # fmt: skip
    return text.strip()


def test_the_untrained_model_and_each_level_write_what_they_write_alone(
    site: Site, trained: LocalStore, tiny_model: Path
) -> None:
    reply = write(site, [2, 0, 1])
    assert (reply.status, reply.headers["content-type"]) == (200, "application/x-ndjson")
    assert reply.events[0] == {
        "kind": "began",
        "words": WORDS,
        "columns": [
            {"name": RUNS["A1"], "level": "A1", "trained": True},
            {"name": RUNS["B1"], "level": "B1", "trained": True},
            {"name": str(tiny_model), "level": "A1", "trained": False},
        ],
    }
    by_column = {event["column"]: event["text"] for event in reply.events if event["kind"] == "answer"}
    assert by_column == {
        0: expected(trained, tiny_model, "A1", RUNS["A1"]),
        1: expected(trained, tiny_model, "B1", RUNS["B1"]),
        2: expected(trained, tiny_model, "A1", None),
    }
    assert len(set(by_column.values())) == 3


def test_sampled_text_is_the_seeds_whoever_writes_beside(site: Site, trained: LocalStore, tiny_model: Path) -> None:
    alone = answers(write(site, [1], draw=DRAW))
    beside = {
        event["column"]: event["text"] for event in write(site, [0, 1], draw=DRAW).events if event["kind"] == "answer"
    }
    assert [beside[1]] == alone == [expected(trained, tiny_model, "B1", RUNS["B1"], Sampling(**DRAW))]
    assert answers(write(site, [1], draw={**DRAW, "seed": 8})) != alone


def test_the_page_offers_every_model_and_the_words_of_an_evaluation_example(site: Site, tiny_model: Path) -> None:
    page = site.get("/").text
    for name in (*RUNS.values(), str(tiny_model)):
        assert name in page
    assert "Trained with 3 words at a time" in page
    first, second = (site.get(f"/words?n={n}").text for n in (0, 1))
    assert first != second
    assert "\n".join(json.loads(first)["words"]) in page
    assert len(json.loads(second)["words"]) == 3
    assert site.get("/words?n=x").status == 404


@pytest.mark.parametrize(
    ("asked", "language", "said"),
    [
        ({"words": " ,\n,", "voices": [0]}, "en", "Give 1 to 100 words, separated by commas or one per line (there are 0)."),
        ({"words": "a," * 101, "voices": [0]}, "tr", "En az 1, en çok 100 kelime yazın; virgülle ayırın ya da her satıra "
         "bir tane yazın (şu anda 101 kelime var)."),
        ({"words": "go", "voices": []}, "en", "Choose at least one model."),
        ({"words": "go", "voices": [3]}, "tr", "En az bir model seçin."),
        ({"words": "go <eos>", "voices": [0]}, "en", "The words contain <eos>, which a model would take for a control "
         "token; remove it."),
        ({"words": "go\x07", "voices": [0]}, "en", "The words contain the control or broken character U+0007; remove it."),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_said_in_the_readers_language(
    asked: dict[str, Any], language: str, said: str, site: Site
) -> None:
    reply = site.post(f"/write?lang={language}", asked)
    assert (reply.status, json.loads(reply.text)) == (422, {"message": said})


@pytest.mark.parametrize(
    "asked",
    [
        {},
        [],
        {"words": "go", "voices": [-1]},
        {"words": "go", "voices": ["0"] * 200},
        {"words": 3, "voices": [0]},
        {"words": "go", "voices": [0], "folder": "/etc"},
        {"words": "go", "voices": [0], "draw": {"temperature": 0, "top_p": 1, "seed": 1}},
        {"words": "go", "voices": [0], "draw": {"temperature": 1, "top_p": 1, "seed": -1}},
        {"words": "x" * 30_000, "voices": [0]},
    ],
)
def test_a_request_that_the_page_does_not_make_is_refused(asked: Any, site: Site) -> None:
    assert site.post("/write", asked).status == 422


def test_more_than_the_model_can_read_is_said(site: Site) -> None:
    (began, failed) = write(site, [0], words=",".join(f"word{n}" for n in range(100))).events
    assert began["kind"] == "began"
    assert failed["kind"] == "failed"
    assert failed["message"].startswith("100 words are more than ")


def test_a_sentence_is_told_as_it_grows_and_whole_when_the_next_begins(store: LocalStore) -> None:
    text = "1. I travelled\n2. Nothing"
    with running(store, Writing(Free(text))) as site:
        events = write(site, [0], words="travel, decide").events
    first = [event for event in events if event.get("row") == 0]
    told = [event["text"] for event in first if event["kind"] == "beginning"]
    assert told == ["I travelled"[:end] for end in range(1, 12) if end != 2]  # a blank at the end changes nothing
    (whole, other) = (event for event in events if event["kind"] == "sentence")
    assert (whole["text"], whole["uses_word"], other["uses_word"]) == ("I travelled", True, False)
    assert [piece["text"] for piece in whole["pieces"] if piece["asked"]] == ["travelled"]
    assert events[-1]["kept"] is True
    assert events[-1]["cut"] is False


def test_a_reader_who_leaves_ends_the_generation(store: LocalStore) -> None:
    writer = Scripted("1. I travel to school every day.\n" * 50)
    with running(store, writing := Writing(writer)) as site:
        connection = site.connect()
        body = json.dumps({"words": "travel", "voices": [0]})
        connection.request("POST", "/write", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        writer.may_go_on.release(5)
        assert json.loads(answer.readline())["kind"] == "began"
        assert json.loads(answer.readline())["kind"] == "beginning"
        answer.close()
        connection.close()
        until(lambda: writing.active == 0)
        writer.may_go_on.release(1)  # the next token finds that nobody reads
        assert writer.ended.wait(20)
        assert writer.written <= 6
        writer.may_go_on.release(10_000)
        assert write(site, [1], words="travel").events[-1]["kind"] == "answer"


def test_warming_up_writes_one_token_and_the_first_request_waits_for_it(store: LocalStore) -> None:
    writer = Scripted("1. I go.")
    with running(store, writing := Writing(writer)) as site:
        writing.warm_up()
        writer.may_go_on.release(1)
        assert writer.ended.wait(120)
        assert writer.written == 1
        writer.may_go_on.release(100)
        assert write(site, [0], words="go").events[-1]["text"] == "1. I go."


def test_warming_up_fails_without_harm(store: LocalStore) -> None:
    writer = Scripted("", fails=ModelError("no memory"))
    with running(store, writing := Writing(writer)) as site:
        writing.warm_up()
        assert writer.ended.wait(120)
        assert write(site, [0], words="go").events[-1] == {"kind": "failed", "message": "no memory"}


def test_requests_wait_for_each_other_and_say_so(store: LocalStore) -> None:
    writer = Scripted("1. I go.")
    with running(store, writing := Writing(writer)) as site:
        replies: list[Reply] = []
        first = threading.Thread(target=lambda: replies.append(write(site, [0], words="go")))
        first.start()
        until(lambda: writing.active == 1)
        second = threading.Thread(target=lambda: replies.append(write(site, [1], words="go")))
        second.start()
        until(lambda: writing.active == 2)
        writer.may_go_on.release(100)
        first.join(30)
        second.join(30)
    kinds = sorted(reply.events[0]["kind"] for reply in replies)
    assert kinds == ["began", "waiting"]
    assert all(reply.events[-1]["kind"] == "answer" for reply in replies)


def test_a_server_that_stops_ends_what_is_being_written(store: LocalStore) -> None:
    writer = Scripted("1. I go.\n" * 1000)
    replies: list[Reply] = []
    with running(store, writing := Writing(writer)) as site:
        reader = threading.Thread(target=lambda: replies.append(write(site, [0], words="go")))
        reader.start()
        assert writer.begun.wait(30)
        writing.close()
        writer.may_go_on.release(1)
        reader.join(30)
    assert writer.ended.is_set()
    assert [event["kind"] for event in replies[0].events] == ["began"]


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (UsageError("give fewer"), "give fewer"),
        (ModelError("no memory"), "no memory"),
        (ZeroDivisionError("secret"), "Something went wrong here; the terminal in which the server runs shows what."),
    ],
)
def test_a_failure_is_told_and_the_next_request_answered(failure: Exception, said: str, store: LocalStore) -> None:
    writer = Free("1. I go.", fails=failure)
    with running(store, Writing(writer)) as site:
        assert write(site, [0], words="go").events[-1] == {"kind": "failed", "message": said}
        writer.fails = None
        assert write(site, [0], words="go").events[-1]["kind"] == "answer"


def test_what_a_model_or_a_word_says_never_is_html(store: LocalStore) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    with running(store, Writing(Free(f"1. {hostile}"))) as site:
        reply = write(site, [0], words=hostile)
        assert reply.headers["content-type"] == "application/x-ndjson"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.events[-1]["text"] == f"1. {hostile}"
    scripts = Path(__file__).parents[2] / "cefr_batch" / "serve" / "static"
    assert not [word for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(")
                if word in "".join(file.read_text() for file in scripts.glob("*.js"))]  # fmt: skip
