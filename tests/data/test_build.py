"""Examples built from pairs: their shape, their number, what is on which side; a seed means the same anywhere."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from published import published

from cefr_batch.data import Example, leakage, load_dataset
from cefr_batch.data.build import Writer, _Deck, _endless, _shuffled, build_examples, deal, example_of, instruction_for
from cefr_batch.data.examples import (
    check_examples,
    list_format,
    list_format_parts,
    pairs_in,
    read_examples,
    sentences_in,
    sha256_of,
    words_in,
)
from cefr_batch.data.pairs import Pair, read_pairs
from cefr_batch.data.stats import Contents, contents_of
from cefr_batch.errors import DataError
from cefr_batch.levels import DataSpec, Level
from cefr_batch.spec import load_spec


def settings(**changes: Any) -> DataSpec:
    return load_spec("B1").data.model_copy(update=changes)


def some_pairs(words: int, sentences: int) -> list[Pair]:
    return [Pair(f"word{w}", f"Sentence {s} has word{w}.") for w in range(words) for s in range(sentences)]


_some_pairs = st.lists(
    st.builds(
        Pair,
        word=st.sampled_from(["cat", "Cat", "dog", "IT", "it", "look after", "3D", "ünlü", "1.", "a b c", "x"]),
        sentence=st.integers(0, 25).map(lambda n: f"{n}. Sentence {n} is shared by some words."),
    ),
    min_size=2,
    max_size=60,
)


@hypothesis.settings(deadline=None)
@given(
    pairs=_some_pairs,
    examples=st.integers(2, 40),
    words=st.integers(1, 4),
    fraction=st.floats(0.05, 0.6),
    unit=st.sampled_from(["example", "sentence", "word"]),
    seed=st.integers(0, 5),
)
def test_built_examples_pass_the_checks_and_their_sides_share_nothing_that_the_split_forbids(
    tmp_path_factory: pytest.TempPathFactory,
    pairs: list[Pair],
    examples: int,
    words: int,
    fraction: float,
    unit: str,
    seed: int,
) -> None:
    spec = settings(
        examples=examples, words_per_example=words, eval_fraction=fraction, split_by=unit, seed=seed, source="x"
    )
    try:
        train, evaluation = build_examples(pairs, spec, Level.A2)
    except DataError:
        assume(False)
    assert len(train) + len(evaluation) == examples
    assert len(evaluation) == min(max(round(examples * fraction), 1), examples - 1)
    for side in (train, evaluation):
        file = tmp_path_factory.mktemp("built") / "side.json"
        file.write_bytes(list_format(side))
        assert read_examples(file) == tuple(side)
        assert all(_comes_from(example, pairs, words) for example in side)
    share = leakage(train, evaluation)
    if unit != "example":
        assert share.sentences_percent == 0
    if unit == "word":
        assert share.words_percent == 0


_one_line = (
    st.text(st.characters(blacklist_categories=("Cs", "Cc")) | st.sampled_from('"\\%{}1. '), min_size=1, max_size=20)
    .map(lambda text: " ".join(text.split()))
    .filter(bool)
)


def _comes_from(example: Example, pairs: list[Pair], words: int) -> bool:
    shown = [Pair(*both) for both in zip(words_in(example), sentences_in(example), strict=True)]
    return set(shown) <= set(pairs) and len({pair.word.casefold() for pair in shown}) == words == len(shown)


@hypothesis.settings(deadline=None)
@given(
    pairs=st.lists(st.builds(Pair, _one_line, _one_line), min_size=1, max_size=30),
    size=st.integers(1, 4),
    unit=st.sampled_from(["example", "sentence", "word"]),
    level=st.sampled_from(Level),
)
def test_hands_are_written_and_counted_as_the_examples_made_of_them(
    pairs: list[Pair], size: int, unit: str, level: Level
) -> None:
    """The quick way of ``data build`` against the plain one: each example written, then read, by itself."""
    sides = deal(pairs, settings(examples=6, words_per_example=size, eval_fraction=0.5, split_by=unit, source="x"))
    writer = Writer(pairs, size, level)
    try:
        drawn = {side: list(hands) for side, hands in sides}
    except DataError:
        assume(False)
    for hands in (*drawn.values(), []):
        examples = [example_of([pairs[place] for place in hand], level) for hand in hands]
        contents = Contents()
        assert list(writer.parts(contents.dealt(hands, pairs))) == list(list_format_parts(examples))
        assert contents == contents_of(examples)


@given(cards=st.lists(st.integers(), max_size=300), seed=st.integers())
def test_cards_are_shuffled_as_the_standard_library_does(cards: list[int], seed: int) -> None:
    ours, plain = random.Random(seed), random.Random(seed)
    shuffled = _shuffled(cards, ours)
    plain.shuffle(cards)
    assert shuffled == cards
    assert ours.getstate() == plain.getstate()


@given(number=st.integers(1, 12), sizes=st.lists(st.integers(1, 12)), seed=st.integers())
def test_a_hand_is_drawn_as_card_by_card(number: int, sizes: list[int], seed: int) -> None:
    cards = range(number)
    deck = _Deck(cards, random.Random(seed))
    left: list[int] = []
    plain = _endless(cards, random.Random(seed))
    for size in sizes:
        size = min(size, len(cards))
        hand: list[int] = []
        again: list[int] = []
        while len(hand) < size:
            card = left.pop() if left else next(plain)
            (again if card in hand else hand).append(card)
        left += reversed(again)
        assert deck.hand(size) == hand


def test_the_instruction_is_the_seeds() -> None:
    (example, *_), _ = build_examples(some_pairs(10, 3), settings(examples=4, words_per_example=3), Level.B2)
    one, two, three = words_in(example)
    assert example.instruction == (
        f"Generate B2-level English sentences for these 3 words:\n1. {one}\n2. {two}\n3. {three}\n\n"
        "Provide numbered sentences (1-3), using each word naturally and appropriately for B2 level."
    )
    assert example.input == ""
    assert [line[:3] for line in example.output.split("\n")] == ["1. ", "2. ", "3. "]
    assert all(word in line for word, line in zip((one, two, three), example.output.split("\n"), strict=True))


@pytest.mark.parametrize("level", ["a1", "a2", "b1"])
def test_the_instruction_is_that_of_the_published_files(level: str) -> None:
    for example in read_examples(published(f"training_data_{level}_list_format_eval.json")):
        assert instruction_for(words_in(example), Level(level.upper())) == example.instruction


@pytest.mark.parametrize("unit", ["example", "sentence", "word"])
def test_words_and_sentences_come_up_evenly(unit: str) -> None:
    train, evaluation = build_examples(
        some_pairs(50, 5), settings(examples=400, split_by=unit, eval_fraction=0.25), Level.B1
    )
    for side in (train + evaluation,) if unit == "example" else (train, evaluation):
        words = Counter(word for example in side for word in words_in(example))
        sentences = Counter(sentence for example in side for sentence in sentences_in(example))
        assert max(words.values()) - min(words.values()) <= 1
        held_out_per_word = Counter(sentence.split()[-1] for sentence in sentences)
        for sentence, count in sentences.items():
            word = sentence.split()[-1]
            assert abs(count - words[word.strip(".")] / held_out_per_word[word]) <= 1


def test_every_word_keeps_a_training_sentence_where_it_has_several() -> None:
    pairs = [*some_pairs(30, 3), Pair("alone", "Only one sentence has alone.")]
    spec = settings(examples=100, eval_fraction=0.5, words_per_example=5)
    train, evaluation = build_examples(pairs, spec, Level.B1)
    trained = {word for example in train for word in words_in(example)}
    assert trained == {pair.word for pair in pairs}
    assert len({word for example in evaluation for word in words_in(example)}) == 30


def test_single_sentences_are_held_out_when_there_is_nothing_else() -> None:
    train, evaluation = build_examples(some_pairs(40, 1), settings(examples=50, eval_fraction=0.25), Level.B1)
    assert len({word for example in evaluation for word in words_in(example)}) == 10
    assert len({word for example in train for word in words_in(example)}) == 30


@pytest.mark.parametrize("unit", ["sentence", "word"])
def test_a_sentence_that_two_words_share_stays_on_one_side(unit: str) -> None:
    pairs = [Pair(f"{animal}{n}", f"A cat{n} and a dog{n}.") for n in range(20) for animal in ("cat", "dog")]
    spec = settings(examples=20, words_per_example=2, split_by=unit, eval_fraction=0.3)
    train, evaluation = build_examples(pairs, spec, Level.A1)
    assert leakage(train, evaluation).sentences_percent == 0


TOO_LITTLE = [
    (
        "too few words held out",
        some_pairs(60, 3),
        {"split_by": "word"},
        "data.source starter: "
        "holding out 10% of 60 words leaves 6 different words for evaluation, but an example needs 10; lower "
        "data.words_per_example (to 6), raise data.eval_fraction (to 0.17), add words and sentences or set "
        "data.split_by: example",
    ),
    (
        "too few sentences held out",
        some_pairs(10, 3),
        {"eval_fraction": 0.2},
        "data.source starter: "
        "holding out 20% of 30 sentences leaves 6 different words for evaluation, but an example needs 10; lower "
        "data.words_per_example (to 6), raise data.eval_fraction (to 0.34), add words and sentences or set "
        "data.split_by: example",
    ),
    (
        "too few words at all",
        some_pairs(4, 5),
        {"split_by": "example"},
        "data.source starter: the pairs have 4 different words, but an example needs 10 (data.words_per_example)",
    ),
    (
        "too few combinations",
        some_pairs(2, 1),
        {"split_by": "example", "words_per_example": 2},
        "data.source starter: "
        "2 words with 2 sentences give only about 2 different examples of 2 words, but 2000 are asked for; lower "
        "data.examples or add sentences",
    ),
]


@pytest.mark.parametrize(
    ("pairs", "changes", "message"), [case[1:] for case in TOO_LITTLE], ids=[case[0] for case in TOO_LITTLE]
)
def test_too_little_data_is_refused_with_numbers_and_what_to_change(
    pairs: list[Pair], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        build_examples(pairs, settings(**changes), Level.B1)
    assert str(caught.value) == message


@pytest.mark.parametrize("changes", [{"words_per_example": 6}, {"eval_fraction": 0.17}, {"split_by": "example"}])
def test_what_the_message_says_to_change_helps(changes: dict[str, Any]) -> None:
    spec = settings(**{"split_by": "word", **changes})
    train, evaluation = build_examples(some_pairs(60, 3), spec, Level.B1)
    assert len(train) + len(evaluation) == 2000


GOLDEN_SHA256 = {
    "example": "409a357db264a69eaacc7b484cbc0ed976df1e51407b2e5dc6198ec05cdde35a",
    "sentence": "ff4ca0be7e74cf3b384cab505594824cb816c98d74c83c45fd7232b9ab8b70f0",
    "word": "92404284bdc651889c8016750d932506862ec89f50ce48a6337f7519f9273325",
}


@pytest.mark.parametrize("unit", list(GOLDEN_SHA256))
@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_a_seed_gives_the_same_bytes_in_every_process_and_python(unit: str, hash_seed: str) -> None:
    program = (
        "from cefr_batch.data import Dataset\n"
        "from cefr_batch.data.build import Pair, build_examples\n"
        "from cefr_batch.spec import load_spec\n"
        f"spec = load_spec('B1', overrides=['data.split_by={unit}', 'data.eval_fraction=0.2', 'data.examples=100'])\n"
        "pairs = [Pair(f'wörd{w}', f'Sentence {s} has wörd{w}.') for w in range(60) for s in range(3)]\n"
        "print(Dataset(*map(tuple, build_examples(pairs, spec.data, spec.level))).sha256)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == GOLDEN_SHA256[unit]


def test_another_seed_gives_other_examples() -> None:
    first, second = (build_examples(some_pairs(60, 3), settings(seed=seed), Level.B1) for seed in (1, 2))
    assert sha256_of(list_format(first[0])) != sha256_of(list_format(second[0]))


def test_the_starter_corpus_builds_the_defaults_at_every_level() -> None:
    for level in Level:
        data = load_dataset(load_spec(level.value).data, level)
        assert (len(data.train), len(data.eval)) == (1800, 200)
        assert leakage(data.train, data.eval).sentences_percent == 0


def test_the_published_pairs_split_the_seeds_way_leak_as_much(tmp_path: Path) -> None:
    pairs = read_pairs(str(published("training_data_b1.json")), Level.B1)
    train, evaluation = build_examples(pairs, settings(split_by="example"), Level.B1)
    share = leakage(train, evaluation)
    assert share.sentences_percent > 98
    assert share.words_percent == 100
    file = tmp_path / "train.json"
    file.write_bytes(list_format(train))
    assert check_examples(file)[1].errors == []


def published_pairs(level: str) -> list[Pair]:
    """The pairs in the published examples of a level."""
    files = [published(f"training_data_{level}_list_format_{side}.json") for side in ("train", "eval")]
    return [pair for file in files for example in read_examples(file) for pair in pairs_in(example)]


@pytest.mark.parametrize("unit", ["sentence", "word"])
@pytest.mark.parametrize("level", ["a1", "a2", "b1"])
def test_the_published_data_can_be_split_without_overlap(level: str, unit: str) -> None:
    """What is on both sides is looked for here by text alone: every line, and every word that an instruction lists."""
    pairs = published_pairs(level)
    train, evaluation = build_examples(pairs, settings(split_by=unit), Level(level.upper()))
    assert (len(train), len(evaluation)) == (1800, 200)
    lines = [{line.partition(". ")[2] for e in side for line in e.output.splitlines()} for side in (train, evaluation)]
    assert not lines[0] & lines[1]
    assert lines[0] | lines[1] <= {pair.sentence for pair in pairs}
    listed = [
        {line.partition(". ")[2].casefold() for e in side for line in e.instruction.splitlines()[1:11]}
        for side in (train, evaluation)
    ]
    everything = {pair.word.casefold() for pair in pairs}
    assert listed[0] <= everything
    assert listed[1] <= everything
    share = leakage(train, evaluation)
    assert share.sentences_percent == 0
    if unit == "word":
        assert not listed[0] & listed[1]
        assert share.words_percent == 0
        assert len(listed[1]) == round(len(everything) / 10)
    else:
        assert share.words_percent > 90
        held_out = len({pair.sentence for pair in pairs} - lines[0])
        assert held_out >= len(lines[1]) > 300
