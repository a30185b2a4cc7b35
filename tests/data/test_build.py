"""Examples built from pairs: their shape, their number, what is on which side; a seed means the same anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.published import published

from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import DataSpec, Level
from cefr_batch.data import Dataset, Example, leakage, load_dataset, load_validation, sentences_of
from cefr_batch.data.build import build_examples, instruction_for
from cefr_batch.data.examples import list_format, pairs_in, read_examples, sentences_in, sha256_of, words_in
from cefr_batch.data.pairs import Pair, read_pairs
from cefr_batch.errors import DataError


def settings(**changes: Any) -> DataSpec:
    return load_spec("B1").data.model_copy(update=changes)


def some_pairs(words: int, sentences: int) -> list[Pair]:
    return [Pair(f"word{w}", f"Sentence {s} has word{w}.") for w in range(words) for s in range(sentences)]


_some_pairs = st.lists(
    st.builds(
        Pair,
        word=st.sampled_from(["cat", "Cat", "dog", "IT", "it", "look after", "3D", "ünlü", "1.", "a b c", "x"]),
        sentence=st.integers(0, 25).map(lambda n: f"{n}. Sentence {'abcdefghijklm'[n // 2] * 20} {n} is shared."),
    ),
    min_size=2,
    max_size=60,
)


@pytest.mark.slow
@hypothesis.settings(deadline=None)
@given(
    pairs=_some_pairs,
    examples=st.integers(2, 40),
    words=st.integers(1, 4),
    fraction=st.floats(0.05, 0.6),
    unit=st.sampled_from(["example", "sentence", "similar_sentence", "word"]),
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
    if unit == "similar_sentence":
        assert share.near_sentences_percent == 0
    if unit == "word":
        assert share.words_percent == 0


def _comes_from(example: Example, pairs: list[Pair], words: int) -> bool:
    shown = [Pair(*both) for both in zip(words_in(example), sentences_in(example), strict=True)]
    return set(shown) <= set(pairs) and len({pair.word.casefold() for pair in shown}) == words == len(shown)


def test_the_instruction_is_that_of_the_first_script() -> None:
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


def test_near_sentences_stay_on_one_side_if_asked_to_and_are_counted_otherwise() -> None:
    """Twenty sentences, each in five spellings of the same words."""
    pairs = [
        Pair(f"word{w}", f"Here is {sha256_of(bytes([w]))[:20]} again{end}")
        for w in range(20)
        for end in (".", "!", "...", ", ok", "s")
    ]
    spec = settings(examples=60, eval_fraction=0.3, words_per_example=3)
    counted = leakage(*build_examples(pairs, spec, Level.B1))
    assert counted.sentences_percent == 0
    assert counted.near_sentences_percent == 100
    spec = spec.model_copy(update={"split_by": "similar_sentence"})
    train, evaluation = build_examples(pairs, spec, Level.B1)
    assert leakage(train, evaluation).near_sentences_percent == 0
    assert len({word for example in evaluation for word in words_in(example)}) == 6


@pytest.mark.slow
def test_similar_sentences_split_like_sentences_where_none_are_near() -> None:
    for level in Level:
        units = (
            load_spec(level.value, overrides=[f"data.split_by={unit}"]) for unit in ("sentence", "similar_sentence")
        )
        plain, similar = (load_dataset(spec.data, level) for spec in units)
        assert plain.sha256 == similar.sha256


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


@pytest.mark.slow
@pytest.mark.parametrize("unit", list(GOLDEN_SHA256))
@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_a_seed_gives_the_same_bytes_in_every_process_and_python(unit: str, hash_seed: str) -> None:
    program = (
        "from cefr_batch.data import Dataset\n"
        "from cefr_batch.data.build import Pair, build_examples\n"
        "from cefr_batch.config.load import load_spec\n"
        f"spec = load_spec('B1', overrides=['data.split_by={unit}', 'data.eval_fraction=0.2', 'data.examples=100'])\n"
        "pairs = [Pair(f'wörd{w}', f'Sentence {s} has wörd{w}.') for w in range(60) for s in range(3)]\n"
        "print(Dataset(*map(tuple, build_examples(pairs, spec.data, spec.level))).sha256)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == GOLDEN_SHA256[unit]


# Of the datasets that version 0.1.0 built from the starter corpus: a stored dataset is named by its bytes.
RELEASED_SHA256 = {
    "A1 example 0 10 0.3": "c996d14f3233b5318c8517f215b907fdaa6228a03cbdbd62affd064668529077",
    "A1 example 42 3 0.1": "3e365b2fb689bf1154b69ff2e5face69c377b541b7e6c02a250350d0697e8b33",
    "A1 example 7 3 0.3": "9789ddb2cd10fa46cda0de191c35c1a3a1fc4f13fd6447beba4db3010a25172f",
    "A1 sentence 0 10 0.3": "f9333ce7f05c2fd88dbc69d28a910a996b318844c59d65d5589496a33c1aebb4",
    "A1 sentence 42 3 0.1": "696f07fee29ce3a8b41c08b8995eb5426c8218053c117f36adc9c7f3eaf4cd6d",
    "A1 sentence 7 3 0.3": "86c3a4b1a594533458ec95e82c73985af9fa830879ccb66ed09c5d7d0bc00b1f",
    "A1 word 0 10 0.3": "64c16866dff9cf1f7d303e2250693b04ae147ff9185cfb4c064addf30b689b5c",
    "A1 word 42 3 0.1": "c374c9d621bced16e99dbf0f9eb79921c323d6c90734e4eef175c3491f4aac80",
    "A1 word 7 3 0.3": "e96176a1dd8464537d1bb1af82d93c2a49d220335ecbf579a72342444916e948",
    "A2 example 0 10 0.3": "e3c86429ae1fff7a3abfd6e7e857f9c5a28318f4ff8c2721b8ab9022d92a32ca",
    "A2 example 42 3 0.1": "5f8fce1118cfca2bd4f7bce7ef8a0ff19b6eddd54bf71a213f8db2a0416c90f8",
    "A2 example 7 3 0.3": "6c5053fce05024648d14651ff1cb3a51c9ec18d00bab68763a6d43865e6ed2da",
    "A2 sentence 0 10 0.3": "6359903000ae4ecff832b9dd38e54032d9e4cbfa935ccb7cdf41f9207299817b",
    "A2 sentence 42 3 0.1": "e9a17bd6056cf70300fb3aed9abc7b3effad32927b3a97e1a2c6cfa895c91f21",
    "A2 sentence 7 3 0.3": "6edee4fe86768034ac393e153fbe16e151392181868fa5f73998502aa5791b39",
    "A2 word 0 10 0.3": "477775ec18e1c89a73c9409991c46ca35f14047035701039925f3e135fb7d5a3",
    "A2 word 42 3 0.1": "0654349a8d96605821b77af84a3421ffd19ab7e1e773590a2d9d56e7b27f6a54",
    "A2 word 7 3 0.3": "38fb7f16e8d605b473a00943613e37d627ab0ddf9b43cd38e540392d65dc6780",
    "B1 example 0 10 0.3": "ccd8caa3e17806fb9f99de46f9d4c6f229e8ffbbc252cd7c2cf1cd1a0194fa75",
    "B1 example 42 3 0.1": "4cfd211571b16ec006dee5f8dbfd8846f6d65072156e876c00fddac187a2b14c",
    "B1 example 7 3 0.3": "e3ea0736151a44d3b002a002b8e47f5444f6676b697d572101fa3492d595b1f4",
    "B1 sentence 0 10 0.3": "99ffb8b06611134935d68b8b461ee6bda63c043f3dba58eea8de2f979afcf9c7",
    "B1 sentence 42 3 0.1": "e83fbc98db3ad3dc5253e7074ea6a5f2525fe15613961d64d8d42778a16fa507",
    "B1 sentence 7 3 0.3": "cf577501fdf2ca3e27bdd3d15aedd58fff826abf8ac2129a90b0a5d13d2210c7",
    "B1 word 0 10 0.3": "a5746389eac00fcfc16e6e325f633a832d7a8eef045f6ae58355d2f38c1d37aa",
    "B1 word 42 3 0.1": "3ead61b55847e6aa783c08294e5a75915cff4cde449da65f32d2ba9d87acfa4b",
    "B1 word 7 3 0.3": "ee6437515b6841a4c62742962870e25f10d03cf8e26c918e07eaad2f0f906c14",
    "B2 example 0 10 0.3": "871e93ad4103b62bd3245dc252925a20203a3dbffba7a2240e9e3a3da1ae3fb7",
    "B2 example 42 3 0.1": "a8465a05d4df88e3f37591a37f16bac60ae68be0febedfc3ff6c4d3297570230",
    "B2 example 7 3 0.3": "8c0388839f6f76605caa629453bc95aa22c5940cefd9b2250e7f80d0a86a61e6",
    "B2 sentence 0 10 0.3": "8a6b029df5b75d48d737275a4b023a3e339c6e9c6c0338907276dbfb0efa1a61",
    "B2 sentence 42 3 0.1": "b5d96764d6ed785378581793603eeb0bda40c55332bdf9fae01a0c8220e635e3",
    "B2 sentence 7 3 0.3": "f530b2aed9abdec6513f668e603a554931725d4a862ed0d6f687e931628bca4b",
    "B2 word 0 10 0.3": "5673f32bdd5c297e73318083dda4effb75b6abfb9a5934ec3927667abb58c20a",
    "B2 word 42 3 0.1": "4b48ef04eae81c83d89bc9daf5151d1328a17059efdc1a18d55952122daa28fd",
    "B2 word 7 3 0.3": "57c11705e1517b75630ee8c60a11107c63461513a37df0eab8be254cfe9645cb",
    "C1 example 0 10 0.3": "2881ad60a09d3d9a78444681590ed8a8154b09b13f62bc2c9f7bc368a9711b36",
    "C1 example 42 3 0.1": "398edbeb6797aef9e7f13a3769df8c8753178e99f7d8054f954ae58e29f22697",
    "C1 example 7 3 0.3": "d014e6cb23496ce340b0186fe85a8135e690b96582c7f835e552f9b7e5e51734",
    "C1 sentence 0 10 0.3": "a166be9a24da0f9c0002e6c50388d83116a2d822fc078e35a56904801a4e5ee7",
    "C1 sentence 42 3 0.1": "2a9dad7ca5e5b814c93af6b4295666e1a4d9673c06431154bca47a1f7c6345ff",
    "C1 sentence 7 3 0.3": "c60c3ad991a9a73a74211ced0b6e62b09ae88270ad476a938b9db12abb75c086",
    "C1 word 0 10 0.3": "fa01dcd6d1b5317a6a038396508cbfff3ce9aecc554d971c6680d7b18291a625",
    "C1 word 42 3 0.1": "911e31d57e47dd31372e26092a0b5c462de4e7b4170f7db59226eb342d128461",
    "C1 word 7 3 0.3": "0fbfb4b8b3aad80e916b5cae0094ede6db79d8021e8dd7a0218bb392223cfce9",
}


# The same of the corpus as it is now. A change of its sentences needs a new version: the old files go to starter/v2.
CURRENT_SHA256 = {
    "A1 example 42 3 0.1": "d8c3382d545b18d4fcc74b6fd9851d66b2dc1ed011d5900a4d6e1414445c1deb",
    "A1 sentence 42 3 0.1": "16f4f3a4affd7b3c04cc410340a7ab193125782e485c13007a234cc5f24e2642",
    "A1 word 42 3 0.1": "25fce0d5e23a9a66b28ba7a5b89551ea289c8e4491d36a5e9452599ffdf538c6",
    "A2 example 42 3 0.1": "5f8fce1118cfca2bd4f7bce7ef8a0ff19b6eddd54bf71a213f8db2a0416c90f8",
    "A2 sentence 42 3 0.1": "e9a17bd6056cf70300fb3aed9abc7b3effad32927b3a97e1a2c6cfa895c91f21",
    "A2 word 42 3 0.1": "0654349a8d96605821b77af84a3421ffd19ab7e1e773590a2d9d56e7b27f6a54",
    "B1 example 42 3 0.1": "b2c0e0931cefd0a51fd900c7a864a3bf274ed73acbc50e6f0e355e6c6fd91a55",
    "B1 sentence 42 3 0.1": "e81bd9de9e2ceba31e8320ee225bcc4b728800a1f296926d5020c3eb0de2782d",
    "B1 word 42 3 0.1": "e2db9636dd1324c987c9f9332eab3c0403d012c8921c47866dd6c1d455208fe6",
    "B2 example 42 3 0.1": "fe747f61dbf41afd87ccd5a9fc87fcaba927fcfc551773f5447f5c02bef2d3e0",
    "B2 sentence 42 3 0.1": "593e58435038d25fe39e4bc7a4403203049399c780cd0c17be632e08be003d7a",
    "B2 word 42 3 0.1": "55dbe17c3ee1af62a3150c2f804b13e910f4b0a5303ba0d86d4ced56c364186e",
    "C1 example 42 3 0.1": "b63314dbc9d48ac423a80631e5ed84c43822a0a1a9d775c06c64f51714fc3104",
    "C1 sentence 42 3 0.1": "5b0e4e783ce5dc257594eedbad71c6f5ff58c02018350be195330e533faf0b7d",
    "C1 word 42 3 0.1": "e8841fb8ab283775365218e1f8ec61c9590d38eb005741ec56d082fd8dc29ec8",
}


def built(case: str, source: str) -> str:
    """The SHA-256 of the dataset that a case's settings build from this source."""
    level, unit, seed, words, fraction = case.split()
    settings = {"split_by": unit, "seed": seed, "words_per_example": words, "eval_fraction": fraction}
    spec = load_spec(level, overrides=[f"data={source}", *(f"data.{key}={value}" for key, value in settings.items())])
    return load_dataset(spec.data, spec.level).sha256


@pytest.mark.slow
@pytest.mark.parametrize("case", list(RELEASED_SHA256))
def test_the_first_starter_corpus_builds_the_bytes_of_the_released_version(case: str) -> None:
    assert built(case, "starter-v1") == RELEASED_SHA256[case]


@pytest.mark.parametrize("case", list(CURRENT_SHA256))
def test_the_starter_corpus_builds_the_same_bytes_everywhere(case: str) -> None:
    assert built(case, "starter") == CURRENT_SHA256[case]


def test_another_seed_gives_other_examples() -> None:
    first, second = (build_examples(some_pairs(60, 3), settings(seed=seed), Level.B1) for seed in (1, 2))
    assert sha256_of(list_format(first[0])) != sha256_of(list_format(second[0]))


def test_the_starter_corpus_builds_the_defaults_at_every_level() -> None:
    for level in Level:
        data = load_dataset(load_spec(level.value).data, level)
        assert (len(data.train), len(data.eval)) == (1800, 200)
        assert leakage(data.train, data.eval).sentences_percent == 0


def test_the_published_pairs_split_as_by_the_first_script_leak_as_much(tmp_path: Path) -> None:
    pairs = read_pairs(str(published("training_data_b1.json")), Level.B1)
    train, evaluation = build_examples(pairs, settings(split_by="example"), Level.B1)
    share = leakage(train, evaluation)
    assert share.sentences_percent > 98
    assert share.words_percent == 100
    file = tmp_path / "train.json"
    file.write_bytes(list_format(train))
    assert read_examples(file) == tuple(train)


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


@pytest.mark.parametrize("unit", ["example", "sentence", "similar_sentence", "word"])
def test_a_validation_part_is_split_from_the_training_side_alone(unit: str) -> None:
    """Without a sentence of the evaluation side, where that shares none with training; always the same."""
    spec = load_spec("B1", overrides=["data.examples=60", "data.words_per_example=3", f"data.split_by={unit}"]).data
    data = load_dataset(spec, Level.B1)
    found = load_validation(spec, Level.B1, data)
    assert found == load_validation(spec, Level.B1, data)
    assert (len(found.train), len(found.eval)) == (49, 5)
    if unit == "example":
        assert set(found.train) | set(found.eval) == set(data.train)
    else:
        held_out = sentences_of(data.eval)
        assert not held_out & (sentences_of(found.train) | sentences_of(found.eval))
        assert not sentences_of(found.train) & sentences_of(found.eval)


def test_a_validation_part_of_ready_files_is_a_share_of_their_training_examples() -> None:
    spec = settings(source=None, train="t.json", eval="e.json")
    examples = tuple(Example(f"say {n}", "", f"1. It is {n}.") for n in range(20))
    data = Dataset(examples[:16], examples[16:])
    found = load_validation(spec, Level.B1, data)
    assert set(found.train) | set(found.eval) == set(data.train)
    assert len(found.eval) == 2
    with pytest.raises(DataError, match="has one example, so no validation part can be split off"):
        load_validation(spec, Level.B1, Dataset(examples[:1], examples[1:]))
