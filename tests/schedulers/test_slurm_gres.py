"""GPUs in every form in which Slurm takes a request for them (sbatch(1), 22.05 to 26.05), and in which sinfo shows them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cefr_batch.schedulers.slurm.gres import Gres, asked, gpus_of, options_without_gpus, parse_gpus, parse_gres


def gpus(gres: str | None, *options: str) -> int | None:
    return gpus_of(asked(gres, options))


@pytest.mark.parametrize(
    ("gres", "options", "expected"),
    [
        (None, (), 0),
        ("none", (), 0),
        ("gpu:0", (), 0),
        ("craynetwork:1", (), 0),
        ("lustre:4G", ("--exclude=gpu7",), 0),
        ("gpu", (), 1),
        ("gpu:2", (), 2),
        ("gpu:rtx4090:1", (), 1),
        ("gpu:rtx4090", (), 1),
        ("gpu:4090:1", (), 1),
        ("gpu:1g.10gb:1", (), 1),
        ("gpu:a100_3g.20gb:2", (), 2),
        ("gres:gpu:1", (), 1),
        ("gres/gpu:2", (), 2),
        ("gres/gpu=2", (), 2),
        ("gpu:1,shard:2", (), 1),
        ("shard:2", (), 1),
        ("mps:50", (), 1),
        ("craynetwork:1,gres:gpu:a100:3", (), 3),
        ("gpu:a100:1,gpu:v100:2", (), 3),
        (None, ("--gpus=2",), 2),
        (None, ("--gpus=a100:1,v100:1",), 2),
        (None, ("--gpus=a100",), 1),
        (None, ("--gpus-per-node=a100:4",), 4),
        (None, ("--gpus-per-task=1", "--comment=x"), 1),
        (None, ("--tres-per-task=cpu=8,gres/gpu:a100=2",), 2),
        (None, ("--gpus=4", "--gpus=1"), 1),
        ("gpu:2", ("--gpus=2",), 2),
        ("lustre:1", ("--gpus-per-task=2",), 2),
        # What cannot be told is not taken for none.
        ("gpu:many:of:these", (), None),
        ("gpu:a100:x", (), None),
        ("gpu:1,", (), None),
        (None, ("--gpus=",), None),
        (None, ("--gpus",), None),
        (None, ("--gpus-per-socket=1",), None),
        ("gpu:1", ("--gpus-per-socket=1",), 1),
    ],
)
def test_a_gpu_asked_for_in_any_form_is_a_gpu(gres: str | None, options: tuple[str, ...], expected: int | None) -> None:
    assert gpus(gres, *options) == expected


NAMES = st.sampled_from(["gpu", "shard", "mps", "lustre", "craynetwork", "fpga"])
KINDS = st.sampled_from(["", "rtx4090", "a100", "1g.10gb", "h100-80", "tesla_v100"])
ENTRIES = st.builds(Gres, NAMES, KINDS, st.integers(0, 64))
LISTS = st.lists(ENTRIES, min_size=1, max_size=5)
TEXTS = st.text(alphabet="gpushard:/=,()0123456789akM.S-_ ", max_size=30) | st.text(max_size=20)


@given(LISTS, st.sampled_from(["", "gres:", "gres/"]), st.sampled_from(["", "(S:0-1)", "(S:0,1)", "(IDX:0,2-3)"]))
def test_every_entry_of_a_list_is_read_wherever_it_stands(entries: list[Gres], prefix: str, suffix: str) -> None:
    assert parse_gres(",".join(f"{prefix}{one}{suffix}" for one in entries)) == entries


@given(st.lists(st.tuples(KINDS, st.integers(0, 64)), min_size=1, max_size=4))
def test_a_list_of_types_and_numbers(parts: list[tuple[str, int]]) -> None:
    text = ",".join(f"{kind}:{count}" if kind else f"{count}" for kind, count in parts)
    assert parse_gpus(text) == [Gres("gpu", kind, count) for kind, count in parts]


@given(TEXTS)
def test_any_text_is_read_or_said_to_be_unreadable(text: str) -> None:
    for one in asked(text, [f"--gpus={text}", f"--tres-per-task={text}"]):
        assert (one.gpus is None) == bool(one.why)


@given(st.lists(TEXTS.filter(lambda text: "," not in text), max_size=3), st.integers(0, 3))
def test_a_gpu_among_whatever_else_is_never_taken_for_none(others: list[str], position: int) -> None:
    parts = [*others[:position], "gpu:1", *others[position:]]
    assert gpus(",".join(parts)) != 0 or any("(" in part for part in others)  # a bracket that is not closed


@given(st.sampled_from(["gpu", "gpu:1", "lustre:2,gres:gpu:a100:1", "gpu:a100"]), st.integers(2, 16))
def test_a_request_for_more_gpus_keeps_the_rest(text: str, count: int) -> None:
    (before,) = asked(text, [])
    changed = before.with_gpus(count)
    assert changed is not None
    rest = [(one.name, one.kind, one.count) for one in parse_gres(text) if not one.is_gpu]
    assert gpus(changed) == count
    assert [(one.name, one.kind, one.count) for one in parse_gres(changed) if not one.is_gpu] == rest
    assert [one.kind for one in parse_gres(changed)] == [one.kind for one in parse_gres(text)]


@pytest.mark.parametrize(
    ("option", "value", "changed"),
    [
        ("--gpus", "1", "4"),
        ("--gpus-per-task", "a100:1", "a100:4"),
        ("--tres-per-task", "cpu=8,gres/gpu:a100=1", "cpu=8,gres/gpu:a100=4"),
        ("--gpus", "a100:1,v100:1", None),
    ],
)
def test_an_option_for_more_gpus(option: str, value: str, changed: str | None) -> None:
    (one,) = asked(None, [f"{option}={value}"])
    assert one.with_gpus(4) == changed


@pytest.mark.parametrize("text", ["shard:2", "gpu:1,shard:2", "gpu:a100:1,gpu:v100:1"])
def test_a_part_of_a_gpu_and_several_kinds_cannot_be_multiplied(text: str) -> None:
    (one,) = asked(text, [])
    assert one.with_gpus(4) is None


def test_what_nodes_have_as_sinfo_prints_it() -> None:
    node = parse_gres("gpu:a100:4(S:0-1),gpu:v100:2(S:0,1),shard:8(S:0-1),lustre:no_consume:4G")
    assert [Gres("gpu", "", 0).of(node), Gres("gpu", "A100").of(node), Gres("gpu", "h100").of(node)] == [6, 4, 0]
    assert Gres("lustre").of(node) == 4 * 1024**3
    assert parse_gres("(null)") == parse_gres("N/A") == []


def test_a_job_without_a_gpu_keeps_only_the_other_options() -> None:
    about = [
        "--gpus=1",
        "--gpus-per-task=1",
        "--cpus-per-gpu=8",
        "--mem-per-gpu=8G",
        "--gpu-bind=none",
        "--gres-flags=x",
    ]
    assert options_without_gpus([*about, "--exclude=n7"]) == ["--exclude=n7"]
