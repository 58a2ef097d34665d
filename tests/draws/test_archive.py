"""Files of tensors: they come back to the bit, whole or not at all, and what is no such file is a sentence."""

import json
import math
import os
import re
import resource
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from safetensors.numpy import save_file
from torch import Tensor

from hiertorch.draws import archive
from hiertorch.errors import DataError, RunFolderError

KIND = archive.Kind("hiertorch test", 2, "a test", "a.save(path)")
TENSORS = {
    "draws/mu": torch.tensor([[1.0, math.nan], [-0.0, math.inf]], dtype=torch.float64),
    "single": torch.linspace(0, 1, 7),
    "turned": torch.arange(12.0, dtype=torch.float64).reshape(3, 4).T,
    "spread": torch.tensor([2.5]).expand(3, 4),
    "codes": torch.tensor([2**62, -1]),
    "bytes": torch.tensor([0, 255], dtype=torch.uint8),
    "flags": torch.tensor([True, False]),
    "one": torch.tensor(3.25),
    "none": torch.zeros(2, 0, 3, dtype=torch.float64),
}


def write(path: Path, tensors: dict[str, Tensor] = TENSORS, **header: object) -> Path:
    archive.write(path, KIND, header, tensors)
    return path


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.contiguous().numpy().tobytes() == b.numpy().tobytes()


def test_tensors_and_header_come_back(tmp_path: Path) -> None:
    header = {"names": ["mu", "é\n\"'"], "run": {"seconds": 1.5, "nan": None, "large": 2**70}}
    found, tensors = archive.read(write(tmp_path / "new" / "folder" / "a", **header), KIND)
    assert found.pop("versions").keys() == {"hiertorch", "torch", "safetensors"}
    assert found == header
    assert tensors.keys() == TENSORS.keys()
    assert all(same_bits(x, tensors[name]) for name, x in TENSORS.items())
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir()] == ["a"]


def test_the_same_tensor_may_have_two_names(tmp_path: Path) -> None:
    x = torch.arange(4.0)
    _, found = archive.read(write(tmp_path / "a", {"x": x, "y": x, "part": x[1:]}), KIND)
    assert found["part"].tolist() == [1, 2, 3] and torch.equal(found["x"], found["y"])


def test_any_reader_of_safetensors_reads_it(tmp_path: Path) -> None:
    with safetensors.safe_open(write(tmp_path / "a", {"x": torch.arange(3.0)}, seed=7), framework="numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("x"), [0, 1, 2])
        metadata = file.metadata()
    assert (metadata["format"], metadata["version"]) == ("hiertorch test", "2")
    assert json.loads(metadata["header"])["seed"] == 7


def test_what_was_read_does_not_hang_on_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    _, tensors = archive.read(path, KIND)
    path.write_bytes(b"\xff" * path.stat().st_size)  # in place: the very bytes that a map of the file would show
    assert all(same_bits(x, tensors[name]) for name, x in TENSORS.items())


def test_a_header_that_json_can_not_hold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"can't save a: run= must hold what JSON can.*PosixPath"):
        write(tmp_path / "a", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


# What is no such file


def text_file(path: Path) -> None:
    path.write_text("alpha,beta\n1,2\n")


def weights(path: Path) -> None:
    save_file({"weight": np.zeros(3)}, path)


def other_format(path: Path) -> None:
    save_file({"x": np.zeros(3)}, path, {"format": "something else", "version": "1"})


def bare_header(path: Path) -> None:
    save_file({"x": np.zeros(3)}, path, {"format": KIND.name, "version": "2"})


def bare_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def two_bytes(path: Path) -> None:
    path.write_bytes(b"\x08\x00")


@pytest.mark.parametrize("make", [text_file, weights, other_format, bare_header, bare_array, two_bytes])
def test_a_file_that_is_not_ours(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(
        DataError, match=r"a is not a test saved by hiertorch, or it is damaged \(.*Give a file written by"
    ):
        archive.read(tmp_path / "a", KIND)


def test_files_that_are_missing_empty_folders_or_new(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*a\. A test is written by a\.save\(path\)\."):
        archive.read(tmp_path / "a", KIND)
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match=r"empty is empty: it was never written\. Give a file"):
        archive.read(tmp_path / "empty", KIND)
    with pytest.raises(DataError, match=r"can't read .*: Is a directory\. Give a file"):
        archive.read(tmp_path, KIND)
    archive.write(tmp_path / "new", KIND._replace(version=3), {}, TENSORS)
    with pytest.raises(DataError, match=r"new has format 3, and this hiertorch reads up to 2: upgrade hiertorch"):
        archive.read(tmp_path / "new", KIND)
    for path in (b"a", 3, None, "", "a\0b"):
        with pytest.raises(RunFolderError, match="path of a file"):
            archive.read(path, KIND)  # type: ignore[arg-type]


def test_a_file_cut_short_or_with_one_changed_bit_is_damaged(tmp_path: Path) -> None:
    numbers = {name: x for name, x in TENSORS.items() if x.dtype != torch.bool}  # any byte but 0 is True
    path = write(tmp_path / "a", numbers, seed=1, names=["mu", "tau"])
    before = path.read_bytes()
    for cut in (1, 10, len(before) // 2, len(before) - 1):
        path.write_bytes(before[:cut])
        with pytest.raises(DataError, match="or it is damaged"):
            archive.read(path, KIND)
    for at in range(len(before)):
        changed = bytearray(before)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"or it is damaged|has format \d+, and this"):
            archive.read(path, KIND)


# Whole or not at all


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError, safetensors.SafetensorError])
def test_an_interrupted_write_leaves_the_former_file(
    stop: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a")
    before = path.read_bytes()

    def stops(tensors: object, file: Path, metadata: object) -> None:
        file.write_bytes(b"half")
        raise stop("No space left on device")

    monkeypatch.setattr(archive, "save_file", stops)
    with pytest.raises(stop if stop is KeyboardInterrupt else RunFolderError, match="No space left"):
        write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_former_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(RunFolderError, match=r"can't write .*a: .*large.*Choose a folder .* with enough space"):
            write(path, {"x": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_threads_that_write_one_file_never_damage_it(tmp_path: Path) -> None:
    path, failed = tmp_path / "a", []
    sizes = [{"x": torch.full((n,), float(n))} for n in (10, 30_000, 200_000)]

    def writes(tensors: dict[str, Tensor]) -> None:
        for _ in range(15):
            try:
                write(path, tensors)
                _, found = archive.read(path, KIND)
                assert bool((found["x"] == len(found["x"])).all())
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=writes, args=(tensors,)) for tensors in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert list(tmp_path.iterdir()) == [path]


# What a file was, it stays


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_a_new_file_has_the_mode_that_others_have(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        assert mode(write(tmp_path / "a")) == 0o666 & ~umask
    finally:
        os.umask(before)


@pytest.mark.parametrize("kept", [0o600, 0o640, 0o664, 0o777])
def test_a_file_keeps_its_mode(kept: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    path.chmod(kept)
    assert mode(write(path, seed=2)) == kept
    assert archive.read(path, KIND)[0]["seed"] == 2


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    store, link, chain = tmp_path / "store", tmp_path / "runs" / "latest", tmp_path / "chain"
    link.parent.mkdir()
    link.symlink_to(Path("..") / "store" / "a")  # where nothing is yet
    chain.symlink_to(link)
    for path in (link, chain):
        write(path, seed=1)
        assert link.is_symlink() and chain.is_symlink() and not (store / "a").is_symlink()
        assert archive.read(store / "a", KIND)[0]["seed"] == 1
        (store / "a").unlink()
    assert list(store.iterdir()) == [] and len(list(link.parent.iterdir())) == 1


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    loop, pipe, folder = tmp_path / "loop", tmp_path / "pipe", tmp_path / "folder"
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    folder.mkdir()
    (tmp_path / "text").write_text("in the way")
    for path in (loop, pipe, folder, tmp_path / "text" / "a"):
        with pytest.raises(
            RunFolderError, match=rf"can't write {re.escape(str(path))}: .* Choose a folder that you may"
        ):
            write(path)
    assert loop.is_symlink() and pipe.is_fifo() and folder.is_dir()
    assert len(list(tmp_path.iterdir())) == 4 and list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_or_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    path.chmod(0o444)
    with pytest.raises(RunFolderError, match="the file that is there may not be written to"):
        write(path)
    path.chmod(0o644)
    tmp_path.chmod(0o555)
    with pytest.raises(RunFolderError, match="Permission denied"):
        write(path)
    tmp_path.chmod(0o755)


def test_any_other_file_can_be_written_whole(tmp_path: Path) -> None:
    with archive.whole(tmp_path / "page") as file:
        file.write(b"half")
        assert not (tmp_path / "page").exists()
        file.write(b" and half")
    assert (tmp_path / "page").read_bytes() == b"half and half"
