"""Raters' files: every form of them is read alike, everything wrong is named at once; and what the marks add up to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.alpha_by_definition import ordinal_alpha
from support.rating_stores import RUNS, WORDS, Mark, add_generated, example, saved_csv, saved_json, stored_form

from cefr_batch.errors import Problem, RatingError
from cefr_batch.evaluation.bootstrap import mean_interval
from cefr_batch.human_eval import collect_ratings
from cefr_batch.human_eval.criteria import CRITERIA, rater_id
from cefr_batch.human_eval.ratings_files import read_submissions
from cefr_batch.human_eval.scores import summarize
from cefr_batch.human_eval.stored import get_form
from cefr_batch.human_eval.submissions import import_files
from cefr_batch.records import layout
from cefr_batch.records.ratings import Form, FormItem, Rated, Source
from cefr_batch.store.local import LocalStore

Command = Callable[..., Any]


def some_marks(item: str, criterion: str) -> int | None:
    number = int(item[1:]) * 7 + len(criterion)
    return None if number % 11 == 0 else number % 5 + 1


def given_marks(form: Form, mark: Mark) -> dict[str, dict[str, int]]:
    return {
        item.id: {name: value for name in CRITERIA if (value := mark(item.id, name)) is not None} for item in form.items
    }


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Reading.


def test_every_way_of_saving_reads_the_same(store: LocalStore, tmp_path: Path) -> None:
    form = stored_form(store)
    comma, semicolon, tab = (saved_csv(form, "Ayşe Ö", some_marks, separator) for separator in ",;\t")
    decimals = saved_csv(form, "Ayşe Ö", some_marks, ";").replace(";3;", ";3,0;").replace("\r\n", "\n")
    quoted = "\r\n".join(
        ";".join(f'"{cell}"' for cell in line.split(";")) + ";;" for line in [*semicolon.splitlines(), ";;;;"]
    )
    files = [
        write(tmp_path, "form.json", saved_json(form, "Ayşe Ö", some_marks)),
        write(tmp_path, "bom.json", "\ufeff" + saved_json(form, "Ays\u0327e O\u0308", some_marks)),
        write(tmp_path, "comma.csv", "\ufeff" + comma),
        write(tmp_path, "excel-utf8.CSV", "\ufeff" + semicolon),
        write(tmp_path, "excel-turkish.csv", semicolon.encode("cp1254")),
        write(tmp_path, "old-mac.csv", comma.replace("\r\n", "\r")),
        write(tmp_path, "separator.csv", "sep=;\r\n" + semicolon),
        write(tmp_path, "capitals.csv", comma.replace("item,word_usage", "Item,WORD_USAGE")),
        write(tmp_path, "excel-unicode.csv", tab.encode("utf-16")),
        write(tmp_path, "decimals.csv", decimals),
        write(tmp_path, "quoted.csv", quoted),
    ]
    problems: list[Problem] = []
    submissions = [read_submissions(file, problems) for file in files]
    assert problems == []
    for (submission,) in submissions:
        assert (submission.form, submission.rater, submission.ratings) == (
            form.id,
            "Ayşe Ö",
            given_marks(form, some_marks),
        )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(data=st.data(), separator=st.sampled_from([",", ";", "json"]))
def test_what_is_saved_is_what_is_imported(
    data: st.DataObject, separator: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("round-trip")
    store = LocalStore(folder / "store")
    form = stored_form(store, items=4)
    value = st.none() | st.integers(1, 5)
    marks = {(item.id, name): data.draw(value) for item in form.items for name in CRITERIA}
    marks["s1", "naturalness"] = 3  # one at least
    rater = data.draw(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=20))

    def mark(item: str, criterion: str) -> int | None:
        return marks[item, criterion]

    if separator == "json":
        file = write(folder, "a.json", saved_json(form, rater, mark))
    else:
        file = write(folder, "a.csv", saved_csv(form, rater, mark, separator))
    (imported,) = import_files(store, [file])
    assert imported.missing == list(marks.values()).count(None)
    stored = store.get_json(layout.rater_key(form.id, imported.rater))
    assert stored["rater"] == rater_id(rater)
    assert stored["ratings"] == {item: values for item, values in given_marks(form, mark).items() if values}


HOSTILE_NAMES = [
    "",
    "   ",
    "../../etc/passwd",
    "=1+1",
    "+1",
    "-1",
    "@a",
    "a/b",
    "a|b",
    "</script>",
    "a\nb",
    "a\0",
    "a" * 65,
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_rater_name_is_refused(name: str, store: LocalStore, tmp_path: Path) -> None:
    form = stored_form(store)
    with pytest.raises(RatingError, match="is not a valid id; valid: 1 to 64 letters") as caught:
        import_files(store, [write(tmp_path, "a.json", saved_json(form, name, some_marks))])
    assert len(caught.value.problems) == 1
    assert list(store.objects(layout.raters_folder(form.id))) == []


@pytest.mark.parametrize("name", ["con", "Ayşe Yılmaz-Öz", "r@example.org", "评估者", "नमस्ते"])
def test_a_rater_name_is_never_part_of_a_path(name: str, store: LocalStore, tmp_path: Path) -> None:
    form = stored_form(store)
    import_files(store, [write(tmp_path, "a.json", saved_json(form, name, some_marks))])
    (stored,) = store.objects(f"{layout.RATINGS}/{form.id}/raters/")
    assert stored.key.rpartition("/")[2].removesuffix(".json").isalnum()
    assert store.get_json(stored.key)["rater"] == name


# Problems.


def test_what_else_lies_among_the_raters_breaks_nothing(
    store: LocalStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    form = stored_form(store)
    import_files(store, [write(tmp_path, "a.json", saved_json(form, "r1", some_marks))])
    before = collect_ratings(store)
    folder = layout.raters_folder(form.id)
    (rated,) = (info.key for info in store.objects(folder))
    for name in (".DS_Store", "notes.txt", "._r.json", "r1.json"):
        store.put(folder + name, b"mine")
    store.put(f"{folder}{'0' * 16}.json", b"{")
    store.put(f"{folder}{'1' * 16}.json", store.get(rated))  # a copy would count twice
    assert collect_ratings(store) == before
    assert before.raters == 1
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert f"{'0' * 16}.json is not valid JSON" in said[0]
    assert "this rater's marks are left out" in said[0]
    assert f"{'1' * 16}.json is of another form or rater; it is left out" in said[1]


def test_everything_wrong_in_any_file_is_named_at_once_and_nothing_is_stored(
    cefr_batch: Command, store: LocalStore, tmp_path: Path
) -> None:
    form = stored_form(store)
    lines = saved_csv(form, "r1", lambda *_: 3).splitlines()
    lines[1] = lines[1].replace(",3,3,3,3", ",6,3,=1+1,2.5")
    lines[3] = lines[2]
    bad = write(tmp_path, "bad.csv", "\n".join([*lines, f"{form.id},r1,s99,1,1,1,1"]))
    good = write(tmp_path, "good.json", saved_json(form, "r2", lambda *_: 3))
    again = write(tmp_path, "again.json", saved_json(form, "r2", lambda *_: 4))
    empty = write(tmp_path, "empty.json", saved_json(form, "r3", lambda *_: None))
    other = write(tmp_path, "other.json", saved_json(form, "r4", lambda *_: 3).replace(form.id, "0" * 12))
    escaping = write(tmp_path, "escaping.json", saved_json(form, "r5", lambda *_: 3).replace(form.id, "../../runs"))
    strange = (
        saved_json(form, "r7", lambda *_: 3).replace('"s01"', '"\\u001b[2J"').replace(": 3", f': "{"9" * 9999}"', 1)
    )
    odd = write(tmp_path, "odd.json", strange)
    kinds = write(tmp_path, "kinds.json", saved_json(form, "r6", lambda *_: 3).replace(": 3", ": true", 1))
    result = cefr_batch("rate", "import", *map(str, (bad, good, again, empty, other, escaping, kinds, odd)))
    assert (result.code, result.out) == (1, "")
    valid = "valid: a whole number from 1 to 5, or empty"
    for expected in (
        f"{bad}, line 2, item s01, word_usage: '6' is not valid; {valid}",
        f"{bad}, line 2, item s01, grammatical_accuracy: '=1+1' is not valid; {valid}",
        f"{bad}, line 2, item s01, naturalness: '2.5' is not valid; {valid}",
        f"{bad}, line 4, item s02: is listed twice for rater r1; keep one",
        f"{bad}, item s99: is not in form {form.id}; valid: s01 to s12",
        f"{again}: rater r2 is in {good} too, for the same form; give one of them",
        f"{empty}: rater r3 has rated nothing yet",
        f"{other}: form '000000000000' is not in {store.url}; the forms there: {form.id}",
        f"{escaping}: form '../../runs' is not in {store.url}; the forms there: {form.id}",
        f"{kinds}, item s01, word_usage: True is not valid; {valid}",
        f"{odd}, item '\\x1b[2J', word_usage: '999999999999...9999999999999' is not valid; {valid}",
        f"{odd}, item '\\x1b[2J': is not in form {form.id}; valid: s01 to s12",
    ):
        assert f"  - {expected}\n" in result.err
    assert "12 problems, nothing was stored" in result.err
    assert list(store.objects(layout.raters_folder(form.id))) == []


HEADER = b"form,rater,item,word_usage,level_appropriateness,grammatical_accuracy,naturalness\n"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.xlsx", b"PK", "must be a .json or .csv file"),
        ("a.json", b"{", "is not valid JSON"),
        ("a.json", b"\xff\xfe\x00", "is not valid JSON"),
        ("a.json", b"[" * 100_000, "is not valid JSON"),
        ("a.json", b"[]", "it has no list of ratings"),
        ("a.json", b'{"ratings": [3]}', "it has no list of ratings"),
        ("a.json", b'{"ratings": [], "mark": 3}', "unknown names: 'mark'"),
        ("a.csv", b"", "is empty"),
        (
            "a.csv",
            b"form;rater;item;word_usage\n",
            "naturalness', but is 'form;rater;item;word_usage' (optional columns: level, qualification)",
        ),
        ("a.csv", HEADER + b'"' + b"a" * 200_000, "is not valid CSV: line 2"),
        ("a.csv", HEADER.replace(b"\n", b",item\n"), "the header has the column item more than once"),
        ("a.csv", HEADER + "f,ş,s1,1,1,1,1,".encode() + b"\xff\n", "is not UTF-8"),
        ("a.csv", HEADER + b"f,r,s1,1,1,1,1,1\n", "8 fields instead of 7"),
        ("a.csv", HEADER.replace(b"\n", b",mark\n") + b"f,r,s1,1,1,1,1,1\n", "unknown names: 'mark'"),
        ("missing.csv", None, "no such file"),
        ("missing.json", None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_no_form_saved(
    name: str, content: bytes | None, says: str, cefr_batch: Command, tmp_path: Path
) -> None:
    if content is not None:
        write(tmp_path, name, content)
    result = cefr_batch("rate", "import", str(tmp_path / name))
    assert result.code == 1
    assert says in result.err
    assert "Traceback" not in result.err


def test_a_damaged_form_is_named_and_the_other_forms_are_shown(
    store: LocalStore, tmp_path: Path, cefr_batch: Command
) -> None:
    damaged, form = stored_form(store), stored_form(store, items=4)
    file = write(tmp_path, "r1.json", saved_json(form, "r1", lambda *_: 3))
    assert cefr_batch("rate", "import", str(file)).code == 0
    store.put(layout.rating_key(damaged.id), b'{"id": 3}')
    result = cefr_batch("rate", "show")
    assert result.code == 0
    assert f"ratings/{damaged.id}/key.json does not have the expected content (id: must be a valid string" in result.err
    assert "1 rater, 4 sentences with a mark or a level." in result.out


def test_levels_and_the_qualification_are_read_from_every_way_of_saving(store: LocalStore, tmp_path: Path) -> None:
    """Of a file from before the form asked for them, there are none."""
    form = stored_form(store, items=4)
    levels = ("A1", "C2", None, "b1")
    saved = json.loads(saved_json(form, "r1", lambda *_: 3))
    for row, level in zip(saved["ratings"], levels, strict=True):
        row["level"] = level
    old = saved_csv(form, "r1", lambda *_: 3).splitlines()
    lines = [f"{old[0]},level,qualification"]
    lines += [f"{line},{level or ''},teacher" for line, level in zip(old[1:], levels, strict=True)]
    files = [
        write(tmp_path, "a.json", json.dumps({**saved, "qualification": "teacher"})),
        write(tmp_path, "a.csv", "\n".join(lines)),
        write(tmp_path, "old.csv", "\n".join(old)),
    ]
    problems: list[Problem] = []
    found = [read_submissions(file, problems)[0] for file in files]
    assert problems == []
    assert [one.levels for one in found] == [{"s1": "A1", "s2": "C2", "s4": "B1"}] * 2 + [{}]
    assert [one.qualification for one in found] == ["teacher", "teacher", None]
    (imported,) = import_files(store, files[:1])
    assert imported.levels == 3
    stored = store.get_json(layout.rater_key(form.id, "r1"))
    assert (stored["levels"], stored["qualification"]) == (found[0].levels, "teacher")


def test_an_unknown_level_or_qualification_is_named(store: LocalStore, tmp_path: Path) -> None:
    form = stored_form(store, items=4)
    saved = json.loads(saved_json(form, "r1", lambda *_: 3))
    saved["ratings"][1]["level"] = "B3"
    file = write(tmp_path, "a.json", json.dumps({**saved, "qualification": "boss"}))
    problems: list[Problem] = []
    read_submissions(file, problems)
    assert len(problems) == 2
    assert f"{file}, item s2, level: 'B3' is not valid; valid: A1, A2, B1, B2, C1, C2, or empty" in map(str, problems)
    assert any(
        "'boss' is not valid; valid: examiner, teacher, student, speaker, or empty" in str(one) for one in problems
    )


def test_each_rows_qualification_is_checked(store: LocalStore, tmp_path: Path) -> None:
    old = saved_csv(stored_form(store, items=4), "r1", lambda *_: 3).splitlines()
    given = ("", "teacher", "teacherx", "student")
    lines = [f"{old[0]},qualification", *(f"{line},{one}" for line, one in zip(old[1:], given, strict=True))]
    problems: list[Problem] = []
    (found,) = read_submissions(write(tmp_path, "a.csv", "\n".join(lines)), problems)
    assert found.qualification == "teacher"
    unknown, other = map(str, problems)
    assert "line 4, qualification: 'teacherx' is not valid" in unknown
    assert (
        "line 5, qualification: student differs from teacher, which rater r1 has in an earlier row; keep one" in other
    )


# The command line.


def test_export_import_show(cefr_batch: Command, store: LocalStore, tmp_path: Path) -> None:
    for run in RUNS:
        add_generated(store, run)
    out = tmp_path / "new" / "form.html"
    made = cefr_batch("rate", "export", *RUNS, "--out", str(out), "--items", "8", "--seed", "3")
    assert made.code == 0
    assert made.err == ""
    first = out.read_bytes()
    (form_id,) = store.folders("ratings/")
    assert made.out == f"wrote {out}: form {form_id}, 8 sentences\n"
    assert cefr_batch("rate", "export", *reversed(RUNS), "--out", str(out), "--items", "8", "--seed", "3").code == 0
    assert out.read_bytes() == first
    cefr_batch("rate", "export", *RUNS, "--out", str(out), "--items", "8", "--seed", "3", "--lang", "tr")
    assert b'<html lang="tr">' in out.read_bytes()
    assert store.folders("ratings/") == [form_id]  # one form in two languages

    form = get_form(store, form_id)
    assert form
    file = write(tmp_path, "a.json", saved_json(form, "r1", lambda item, _: None if item == "s8" else 4))
    result = cefr_batch("rate", "import", str(file))
    assert result.out.startswith(
        f"{file}: rater r1, form {form_id}: 7 of 8 sentences with all marks, 4 marks missing, no levels given\n"
        "\nResults of this form alone (`cefr-batch rate show` counts all forms):\n"
        "1 rater, 7 sentences with a mark or a level."
    )
    again = cefr_batch("rate", "import", str(write(tmp_path, "a.csv", saved_csv(form, "r1", lambda *_: 2))))
    assert "8 of 8 sentences with all marks, no levels given; replaces this rater's earlier file\n" in again.out
    shown = json.loads(cefr_batch("rate", "show", "--json").out)
    assert (shown["raters"], shown["items"]) == (1, 8)
    assert {score["mean"] for score in shown["scores"]} == {2.0}
    assert {one["alpha"] for one in shown["agreement"]} == {None}
    only = json.loads(cefr_batch("rate", "show", RUNS[0], "--json").out)
    assert only["items"] == 4
    assert {score["run"] for score in only["scores"]} == {RUNS[0]}


def test_export_says_when_there_are_fewer_sentences_than_asked_for(
    cefr_batch: Command, store: LocalStore, tmp_path: Path
) -> None:
    add_generated(store, RUNS[0])
    made = cefr_batch("rate", "export", RUNS[0], "--out", str(tmp_path / "form.html"), "--items", "100")
    assert "60 sentences" in made.out
    assert made.err == (
        "note: fewer than the 100 asked for:\n"
        "  tiny-a1-peft-v1: both models wrote a sentence for 30 words of the 30 asked for; a form of 100 sentences needs "
        "50 words\n"
        "  for more, submit the level again, with its profile if it had one, and "
        "--set generation.examples=5 --set evaluation.max_examples=5\n"
        "  if `cefr-batch plan` with these settings shows fewer answers than 5, raise data.examples, too "
        "(the share data.eval_fraction of them is for evaluation, 10 % by default)\n"
    )


def test_export_says_that_answers_were_cut_off(cefr_batch: Command, store: LocalStore, tmp_path: Path) -> None:
    """Of ten words each the smoke run's models came to three."""
    few = [
        example([f"{word}{i}" for word in WORDS], ["Same."] * 3, [f"Not the same {i}.", "Same.", f"Another {i}."])
        for i in range(2)
    ]
    for one in few:
        one["baseline"]["cut"], one["tuned"]["cut"] = ["greedy", "sampled"], ["sampled"]
    add_generated(store, RUNS[0], few)
    made = cefr_batch("rate", "export", RUNS[0], "--out", str(tmp_path / "form.html"), "--items", "61")
    assert made.err == (
        "note: fewer than the 61 asked for:\n"
        "  tiny-a1-peft-v1: both models wrote a sentence for 6 words of the 20 asked for; 2 answers were "
        "cut off at generation.max_new_tokens=60; a form of 61 sentences needs 30 words\n"
        "  a sentence that was written more than once is shown once (2 of them)\n"
        "  each run has the same number of words, and each word two sentences\n"
        "  for more, submit the level again, with its profile if it had one, and "
        "--set generation.examples=10 --set evaluation.max_examples=10 "
        "--set generation.max_new_tokens=120\n"
        "  if `cefr-batch plan` with these settings shows fewer answers than 10, raise data.examples, too "
        "(the share data.eval_fraction of them is for evaluation, 10 % by default)\n"
        "  sentences of a single word: 6 of these 10; an untrained model often writes no more, which leaves little to rate\n"
    )


def test_show_without_ratings(cefr_batch: Command, store: LocalStore) -> None:
    assert cefr_batch("rate", "show").out == "0 raters, 0 sentences. Nothing to show.\n"
    assert collect_ratings(store, RUNS).raters == 0


# The numbers.


def two_words(*marks: dict[str, int]) -> tuple[Form, list[Rated]]:
    """A form of one run with two words (s1, s2 of baseline, s3, s4 of tuned), and raters' marks for naturalness."""
    items = tuple(
        FormItem(
            id=f"s{2 * index + position}",
            level="B1",
            word=f"w{position}",
            sentence=f"A sentence of {model}.",
            sources=(Source(run=RUNS[1], model=model, answer=0, position=position),),
        )
        for index, model in enumerate(("baseline", "tuned"))
        for position in (1, 2)
    )
    form = Form(id="0" * 12, seed=1, items=items)
    rated = [
        Rated(form=form.id, rater=f"r{n}", ratings={item: {"naturalness": value} for item, value in one.items()})
        for n, one in enumerate(marks)
    ]
    return form, rated


def test_scores_are_means_over_sentences_of_means_over_raters() -> None:
    form, rated = two_words({"s1": 1, "s2": 2, "s3": 4, "s4": 5}, {"s1": 2, "s3": 5})
    ratings = summarize([(form, rated)])
    assert (ratings.raters, ratings.items) == (2, 4)
    baseline, tuned = ratings.scores
    assert (baseline.model, baseline.criterion, baseline.mean) == ("baseline", "naturalness", (1.5 + 2) / 2)
    assert (tuned.model, tuned.mean, tuned.items, tuned.marks) == ("tuned", (4.5 + 5) / 2, 2, 3)
    (difference,) = ratings.differences
    assert (difference.mean, difference.pairs) == (3.0, 2)
    assert difference.interval == mean_interval([3.0, 3.0])


def test_a_sentence_of_several_forms_is_one_sentence_with_all_its_raters() -> None:
    """Two forms of one run show the same sentences in another order. The second rater's second form counts."""
    form, rated = two_words({"s1": 1, "s3": 4})
    turned = tuple(item.model_copy(update={"id": f"s{number}"}) for number, item in enumerate(reversed(form.items), 1))
    other = Form(id="1" * 12, seed=2, items=turned)
    second = [
        Rated(form=form.id, rater="r1", ratings={"s1": {"naturalness": 5}}),
        Rated(form=other.id, rater="r1", ratings={"s4": {"naturalness": 3}, "s2": {"naturalness": 4}}),
    ]
    ratings = summarize([(form, [*rated, second[0]]), (other, second[1:])])
    assert (ratings.raters, ratings.items) == (2, 2)
    assert [(one.model, one.mean, one.items, one.marks) for one in ratings.scores] == [
        ("baseline", 2.0, 1, 2),
        ("tuned", 4.0, 1, 2),
    ]
    assert [one.items for one in ratings.agreement if one.criterion == "naturalness"] == [2]


def test_a_word_with_one_model_rated_has_no_difference_and_one_sentence_no_interval() -> None:
    form, rated = two_words({"s1": 1})
    ratings = summarize([(form, rated)])
    assert ratings.differences == ()
    assert [(score.items, score.interval) for score in ratings.scores] == [(1, None)]
    assert [one.alpha for one in ratings.agreement] == [None] * 4


marks_of_raters = st.lists(st.lists(st.none() | st.integers(1, 5), min_size=4, max_size=4), min_size=1, max_size=5)


@given(marks_of_raters)
def test_alpha_is_what_its_definition_gives(raters: list[list[int | None]]) -> None:
    form, rated = two_words(*({f"s{i}": mark for i, mark in enumerate(one, 1) if mark is not None} for one in raters))
    units = [[one[i] for one in raters if one[i] is not None] for i in range(4)]
    expected = ordinal_alpha([[mark for mark in unit if mark is not None] for unit in units])
    ratings = summarize([(form, rated)])
    found = {one.criterion: one for one in ratings.agreement}
    if not ratings.items:
        assert found == {}
    elif expected is None:
        assert found["naturalness"].alpha is None
    else:
        assert found["naturalness"].alpha == pytest.approx(float(expected), abs=1e-12)
        assert found["naturalness"].items == sum(len(unit) > 1 for unit in units)


def test_the_definition_gives_the_published_value() -> None:
    """Krippendorff (2011), section D: four observers, twelve units, with gaps; ordinal alpha 0.815."""
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[mark for mark in unit if mark is not None] for unit in zip(*observers, strict=True)]
    assert float(ordinal_alpha(units) or 0) == pytest.approx(0.815, abs=0.0005)
