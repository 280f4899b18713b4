"""Memory as a value: saved, loaded, forked, moved; and files that are none."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rmt.errors import InputError
from rmt.memory import FORMAT, Memory, MemoryMeta

from .tiny import causal, classifier, content

META = MemoryMeta(
    model="0123456789abcdef",
    tokens_read=1000,
    segments_read=8,
    source="a book",
    digest="ab" * 32,
    extra={"k": "é\n"},
)


class Weights:
    """Stands for a model of known fingerprint."""

    def __init__(self, name: str) -> None:
        self.name = name

    def fingerprint(self) -> str:
        return self.name


def some(batch: int = 3) -> Memory:
    return Memory({"tokens": torch.randn(batch, 4, 8)}, META)


def test_save_and_load_keep_every_bit(tmp_path: Path) -> None:
    memory = some()
    memory.tensors["tokens"][0, 0, :4] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    memory.save(tmp_path / "a.memory")
    back = Memory.load(tmp_path / "a.memory", Weights(META.model))
    assert back.meta == META
    assert back.tensors["tokens"].dtype == torch.float32
    assert torch.equal(back.tensors["tokens"].view(torch.int32), memory.tensors["tokens"].view(torch.int32))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.memory"]


def test_save_takes_any_layout_and_a_graph(tmp_path: Path) -> None:
    tokens = torch.randn(8, 4, 3, requires_grad=True).transpose(0, 2)
    Memory({"tokens": tokens}).save(str(tmp_path / "a"))
    back = Memory.load(str(tmp_path / "a"))
    assert torch.equal(back.tensors["tokens"], tokens)
    assert not back.tensors["tokens"].requires_grad


def test_the_memory_of_a_long_document_is_small_on_disk(tmp_path: Path) -> None:
    memory = Memory({"tokens": torch.randn(1, 10, 384)}, META)  # the size of the bundled encoder's
    memory.save(tmp_path / "a")
    assert memory.nbytes == 10 * 384 * 4
    assert (tmp_path / "a").stat().st_size < memory.nbytes + 1024


def test_fork_copies_rows_side_by_side_and_independently() -> None:
    memory = some(2)
    forked = memory.fork(3)
    assert forked.batch_size == 6
    assert forked.meta == META
    for row in range(6):
        assert torch.equal(forked.tensors["tokens"][row], memory.tensors["tokens"][row // 3])
    for copies in (1, 3):
        before = memory.tensors["tokens"].clone()
        forked = memory.fork(copies)
        forked.tensors["tokens"][0] += 1
        assert torch.equal(memory.tensors["tokens"], before)
        assert copies == 1 or torch.equal(forked.tensors["tokens"][1], before[0])


def test_index_takes_rows_masks_and_slices() -> None:
    memory = some(4)
    tokens = memory.tensors["tokens"]
    assert torch.equal(memory.index([2, 0]).tensors["tokens"], tokens[[2, 0]])
    assert torch.equal(memory.index(torch.tensor([3, 3])).tensors["tokens"], tokens[[3, 3]])
    assert torch.equal(memory.index(tokens[:, 0, 0] > 0).tensors["tokens"], tokens[tokens[:, 0, 0] > 0])
    assert torch.equal(memory.index(slice(1, 3)).tensors["tokens"], tokens[1:3])
    assert memory.fork(5).index(slice(0, None, 5)).tensors["tokens"].equal(tokens)


def test_to_measures_and_changes_nothing_else() -> None:
    memory = some()
    half = memory.to(torch.bfloat16)
    assert half.nbytes * 2 == memory.nbytes == 3 * 4 * 8 * 4
    assert half.meta == META
    assert memory.tensors["tokens"].dtype == torch.float32
    assert memory.to("meta").device == torch.device("meta")
    assert memory.to(device="cpu", dtype=torch.float64).tensors["tokens"].dtype == torch.float64


def test_detach_cuts_and_with_meta_replaces() -> None:
    memory = Memory({"tokens": torch.randn(1, 2, 3, requires_grad=True) * 2}, META)
    assert memory.tensors["tokens"].requires_grad
    assert not memory.detach().tensors["tokens"].requires_grad
    assert memory.with_meta(tokens_read=7).meta.tokens_read == 7
    assert memory.meta.tokens_read == 1000
    with pytest.raises(TypeError, match="tokens_red"):
        memory.with_meta(tokens_red=7)


def test_two_memories_can_be_compared_and_hashed() -> None:
    memory, other = some(), some()
    assert memory == memory
    assert memory != other
    assert len({memory, other}) == 2


def test_another_model_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    some().save(tmp_path / "a")
    with pytest.raises(InputError, match=rf"\(feedfeedfeedfeed\), got one of model {META.model}") as error:
        Memory.load(tmp_path / "a", Weights("feedfeedfeedfeed"))
    assert "\n" not in str(error.value)
    Memory({"tokens": torch.zeros(1, 2, 3)}).save(tmp_path / "b")
    with pytest.raises(InputError, match="names no model"):
        Memory.load(tmp_path / "b", Weights("feedfeedfeedfeed"))
    assert Memory.load(tmp_path / "b").meta == MemoryMeta()


@pytest.mark.parametrize("build", [classifier, causal])
def test_fingerprint_of_a_model_names_its_weights(build: type, tmp_path: Path) -> None:
    model, same, other = build(seed=0), build(seed=0), build(seed=1)
    assert model.fingerprint() == same.fingerprint() != other.fingerprint()
    assert build(seed=0, segment_size=5).fingerprint() != model.fingerprint()
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).fingerprint() == model.fingerprint()
    assert model.to(torch.bfloat16).fingerprint() == same.fingerprint()
    with torch.no_grad():
        same.cell.memory += 1
    assert same.fingerprint() != model.fingerprint()


def test_memory_of_one_model_does_not_open_in_another(tmp_path: Path) -> None:
    model, other = classifier(seed=0).eval(), classifier(seed=1)
    read = model(input_ids=content(1, 9)).memory.with_meta(model=model.fingerprint())
    read.save(tmp_path / "a")
    back = Memory.load(tmp_path / "a", model)
    assert torch.equal(back.tensors["tokens"], read.tensors["tokens"])
    assert (back.meta.tokens_read, back.meta.segments_read) == (9, 3)
    with pytest.raises(InputError) as error:
        Memory.load(tmp_path / "a", other)
    assert model.fingerprint() in str(error.value)
    assert other.fingerprint() in str(error.value)


def test_save_names_the_model_whose_forward_gave_it(tmp_path: Path) -> None:
    model, other = causal(seed=0).eval(), causal(seed=1).eval()
    memory = model(input_ids=content(1, 9)).memory.detach()
    memory.save(tmp_path / "unnamed")
    memory.save(tmp_path / "named", model)
    assert Memory.load(tmp_path / "named", model).meta.tokens_read == 9
    for name, reads in (("unnamed", model), ("named", other)):
        with pytest.raises(InputError, match=str(reads.fingerprint())):
            Memory.load(tmp_path / name, reads)


def test_a_memory_of_the_wrong_shape_or_batch_is_refused() -> None:
    model = classifier()
    with pytest.raises(InputError, match=r"each of 3 rows, got 2; fork it: memory.fork\(3\)"):
        model(input_ids=content(3, 5), memory=model.initial_memory(2))
    with pytest.raises(InputError, match=r"shape \(3, 32\), got tokens of shape \(3, 16\)"):
        model(input_ids=content(1, 5), memory=Memory({"tokens": torch.zeros(1, 3, 16)}))


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    Memory({"tokens": torch.randn(1, 2, 3)}, META).save(tmp_path / "a")
    data = (tmp_path / "a").read_bytes()
    for end in range(len(data)):
        (tmp_path / "b").write_bytes(data[:end])
        with pytest.raises(InputError, match=rf"cut short or of another kind \({end} bytes\)") as error:
            Memory.load(tmp_path / "b")
        assert "\n" not in str(error.value)
    (tmp_path / "b").write_bytes(data + b"x")
    with pytest.raises(InputError):
        Memory.load(tmp_path / "b")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_damaged_header_never_ends_in_another_error(tmp_path: Path, place: float, byte: int) -> None:
    Memory({"tokens": torch.zeros(1, 2, 3)}, META).save(tmp_path / "a")
    data = bytearray((tmp_path / "a").read_bytes())
    data[int(place * (len(data) - 24))] = byte
    (tmp_path / "b").write_bytes(bytes(data))
    with suppress(InputError):  # anything else fails the test
        Memory.load(tmp_path / "b")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, this is a text and no memory at all",
        os.urandom(300),
        b"\x89PNG\r\n\x1a\n" + bytes(90),
        b"PK\x03\x04",
    ],
    ids=["empty", "text", "noise", "png", "zip"],
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match="expected a memory file"):
        Memory.load(tmp_path / "a")


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {"format": FORMAT},
        {"format": FORMAT, "meta": "no json"},
        {"format": FORMAT, "meta": "[]"},
        {"format": FORMAT, "meta": json.dumps({"from": "a later version"})},
    ],
)
def test_other_safetensors_files_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"tokens": torch.zeros(1, 2, 3)}, tmp_path / "a", metadata=metadata)
    with pytest.raises(InputError, match="expected a memory file"):
        Memory.load(tmp_path / "a")
    save_file(
        {"a": torch.zeros(1, 2), "b": torch.zeros(2, 2)},
        tmp_path / "a",
        metadata={"format": FORMAT, "meta": "{}"},
    )
    with pytest.raises(InputError, match="another kind"):
        Memory.load(tmp_path / "a")


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(InputError, match="no such file; write one with `rmt read`"):
            Memory.load(path)


def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = some()
    old.save(tmp_path / "a")
    data = (tmp_path / "a").read_bytes()

    def half(path: Path, written: bytes) -> int:
        with path.open("wb") as file:
            file.write(written[: len(written) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", half)
        with pytest.raises(InputError, match="No space left on device"):
            some().save(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == data
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_kill_before_the_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = some()
    old.save(tmp_path / "a")
    seen = []

    def killed(source: Path, target: Path) -> None:
        seen.append((Path(source), Path(target)))
        assert Memory.load(source).batch_size == 5  # the new file is whole before it takes the name
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            some(5).save(tmp_path / "a")
    (source, target) = seen[0]
    assert target == tmp_path / "a" != source
    assert source.parent == target.parent  # a rename is atomic only within a file system
    assert torch.equal(Memory.load(tmp_path / "a").tensors["tokens"], old.tensors["tokens"])


def test_paths_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    for path in (tmp_path / "nowhere" / "a", tmp_path / "file" / "a", tmp_path / "folder"):
        with pytest.raises(InputError, match="expected a path that can be written") as error:
            some().save(path)
        assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
