"""Which sentences are rated, that nothing on the page says whose they are, and that the page is safe and whole."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rating_stores import RUNS, add_generated, example

from cefr_batch.errors import RatingError, UsageError
from cefr_batch.human_eval import page as page_module
from cefr_batch.human_eval.criteria import CRITERIA
from cefr_batch.human_eval.form import Generated, SentencePair, make_form
from cefr_batch.human_eval.generated import read_generated
from cefr_batch.human_eval.page import form_html
from cefr_batch.human_eval.texts import CRITERION_TEXTS, LEVEL_TEXTS, SCRIPT_TEXTS
from cefr_batch.i18n.language import LANGUAGES, Language
from cefr_batch.records.level_figures import SCALE
from cefr_batch.records.ratings import Form
from cefr_batch.store.local import LocalStore


def generated(run: str, *texts: tuple[str, str]) -> Generated:
    pairs = (
        SentencePair(0, position, f"word{position}", before, after) for position, (before, after) in enumerate(texts, 1)
    )
    return Generated(run, "B1", tuple(pairs))


def runs(count: int = 3, words: int = 20) -> list[Generated]:
    return [
        generated(f"tiny-b1-peft-v{run}", *((f"plain {run} {word}", f"fine {run} {word}") for word in range(words)))
        for run in range(1, count + 1)
    ]


def exchanged(run: Generated) -> Generated:
    """The same sentences, said to be the other model's."""
    return replace(run, pairs=tuple(replace(pair, baseline=pair.tuned, tuned=pair.baseline) for pair in run.pairs))


def page(form: Form, language: str = "en") -> str:
    return form_html(form, language).replace(form.id, "FORM")


# The choice.


def test_every_run_gives_the_same_number_of_words_and_each_word_both_models() -> None:
    form = make_form(runs(3), 26, seed=1)
    sources = [source for item in form.items for source in item.sources]
    assert len(form.items) == 24  # 4 words of 3 runs
    assert Counter((source.run, source.model) for source in sources) == {
        (f"tiny-b1-peft-v{run}", model): 4 for run in (1, 2, 3) for model in ("baseline", "tuned")
    }
    words = Counter((source.run, source.answer, source.position) for source in sources)
    assert set(words.values()) == {2}


def test_the_same_seed_gives_the_same_form_whatever_the_order_of_the_runs_and_another_seed_another() -> None:
    first = make_form(runs(3), 24, seed=1)
    assert make_form(list(reversed(runs(3))), 24, seed=1) == first
    other = make_form(runs(3), 24, seed=2)
    assert other.id != first.id
    assert {item.sentence for item in other.items} != {item.sentence for item in first.items}


def test_a_sentence_that_several_wrote_is_rated_once_for_all_of_them() -> None:
    same = generated("tiny-b1-peft-v1", ("the same", "the same"))
    form = make_form([same, replace(same, run="tiny-b1-peft-v2")], 4, seed=1)
    (item,) = form.items
    assert [(source.run, source.model) for source in item.sources] == [
        (f"tiny-b1-peft-v{run}", model) for run in (1, 2) for model in ("baseline", "tuned")
    ]


def test_a_run_with_few_words_gives_what_it_has() -> None:
    form = make_form([*runs(1), generated("tiny-a1-peft-v1", ("a", "b"))], 40, seed=1)
    assert len(form.items) == 22


def test_too_few_items_for_the_runs_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"--items 5 is too small for 3 runs; give at least 6 \(two per run\)"):
        make_form(runs(3), 5, seed=1)


def test_only_words_with_a_sentence_of_both_models_are_rated(store: LocalStore) -> None:
    answer = example(["travel", "decide", "garden"], ["I travel.", "", "A garden."], ["We travel."])
    answer["tuned"]["greedy"] = "3) My garden.\nloose\n1. We travel.\n1. Again."
    add_generated(store, RUNS[0], [answer])
    (found,) = read_generated(store, RUNS[:1])
    assert found.level == "A1"
    assert found.pairs == (
        SentencePair(0, 1, "travel", "I travel.", "We travel."),
        SentencePair(0, 3, "garden", "A garden.", "My garden."),
    )


def test_runs_without_sentences_are_named_together(store: LocalStore) -> None:
    add_generated(store, RUNS[0], [example(["travel"], [], [])])
    add_generated(store, RUNS[1])
    store.put(f"runs/{RUNS[1]}/generation.json", b'{"examples": [{"words": 3}]}')
    with pytest.raises(RatingError) as caught:
        read_generated(store, [*RUNS, "tiny-c1-peft-v1"])
    text = str(caught.value)
    assert f"{RUNS[0]}: there is no word for which both the untrained and the tuned model wrote a sentence" in text
    assert f"{RUNS[1]}: generation.json cannot be used" in text
    assert "tiny-c1-peft-v1: has no generated sentences (generation.json); run the level again with" in text


# Blindness.


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=2, max_size=12), st.integers(0, 99))
def test_the_page_is_the_same_whichever_model_wrote_what(texts: list[tuple[str, str]], seed: int) -> None:
    run = generated("tiny-b1-peft-v1", *texts)
    assert page(make_form([run], 24, seed)) == page(make_form([exchanged(run)], 24, seed))


def test_the_page_names_no_run_and_no_model_but_holds_every_sentence() -> None:
    form = make_form(runs(3), 24, seed=1)
    for language in LANGUAGES:
        text = form_html(form, language)
        assert re.search("baseline|tuned|peft|tiny", text) is None
        assert all(item.sentence in text for item in form.items)


def test_the_first_part_and_the_instructions_say_nothing_of_the_target_or_the_word() -> None:
    """They are the same for whichever level and words the sentences were written, but for the order."""
    texts = [(f"plain {n}", f"fine {n}") for n in range(4)]
    run = generated("tiny-b1-peft-v1", *texts)
    words = tuple(replace(pair, word="other") for pair in run.pairs)
    shown = []
    for other in (run, replace(run, level="C1"), replace(run, pairs=words)):
        form = make_form([other], 8, seed=1)
        first = page(form).split('<section id="second"')[0]
        assert all(item.sentence in first for item in form.items)
        shown.append(
            {re.sub(r"s\d+|sentence \d", "", part) for part in re.split(r"(<p class=\"sentence\".*?</p>)", first)}
        )
    assert shown[0] == shown[1] == shown[2]


def test_order_says_nothing_of_the_model() -> None:
    """Over many seeds, a word's tuned sentence comes first as often as its baseline (binomial, five standard deviations)."""
    first = 0
    for seed in range(200):
        models: dict[str, list[str]] = {}
        for item in make_form(runs(1, 6), 12, seed).items:
            models.setdefault(item.word, []).append(item.sources[0].model)
        first += sum(order[0] == "tuned" for order in models.values())
    assert abs(first - 600) < 5 * (1200 * 0.25) ** 0.5


# The page.

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(1)">{{ 7*7 }}&amp;\u202e'


def test_hostile_sentences_and_words_are_text() -> None:
    run = generated("tiny-b1-peft-v1", (HOSTILE, "]]>-->" + HOSTILE))
    run = replace(run, pairs=(replace(run.pairs[0], word=HOSTILE),))
    text = form_html(make_form([run], 2, seed=1), "en")
    assert "<img" not in text
    assert text.count("<script") == text.count("</script") == 2
    assert (
        text.count(str(html.escape(HOSTILE, quote=True)).replace("&quot;", "&#34;")) == 6
    )  # 2 words, 2 sentences in 2 parts


def test_the_policy_allows_this_script_and_style_alone() -> None:
    text = form_html(make_form(runs(1), 4, seed=1), "tr")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(content) == 1
        digest = base64.b64encode(hashlib.sha256(content[0].encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none'; ")
    assert re.search(r"(?:src|href)=|https?:|@import|url\(", text) is None


def test_there_are_texts_for_every_criterion_level_and_message_of_the_script() -> None:
    assert set(CRITERION_TEXTS) == set(CRITERIA)
    assert all(set(text.anchors) == {1, 3, 5} for text in CRITERION_TEXTS.values())
    assert tuple(LEVEL_TEXTS) == SCALE
    used = re.findall(r"texts\.(\w+)", Path(page_module.__file__).with_name("form.js").read_text(encoding="utf-8"))
    assert set(used) == set(SCRIPT_TEXTS)


def test_a_turkish_form_is_turkish() -> None:
    t, page = Language("tr"), form_html(make_form(runs(1), 4, seed=1), "tr")
    texts = [text for one in CRITERION_TEXTS.values() for text in (one.name, one.question, *one.anchors.values())]
    texts += [LEVEL_TEXTS["B1"], "Rating of English sentences", "Begin"]
    assert [text for text in (*texts, *SCRIPT_TEXTS.values()) if t.message(text) == text] == []
    assert [text for text in texts if t.message(text) not in page] == []


def test_the_form_is_its_own_key(store: LocalStore) -> None:
    form = make_form(runs(2), 8, seed=1)
    assert Form.model_validate_json(json.dumps(form.model_dump(mode="json"))) == form
