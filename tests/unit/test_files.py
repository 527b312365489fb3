"""Files are whole or not there."""

import pytest
import torch
from safetensors.torch import save_file

from cosmos_forge.files import atomic, sha256, write_text


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_takes_the_place_of_a_folder(tmp_path):
    path = tmp_path / "folder"
    for content in ("one", "two"):
        with atomic(path) as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert [entry.name for entry in path.iterdir()] == ["two"]


def test_sha256_is_the_published_digest(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("inside", [".", "file"])
def test_others_may_read_what_the_umask_allows(tmp_path, inside):
    """safetensors makes its files their owner's alone."""
    with atomic(tmp_path / "made") as temporary:
        if inside == "file":
            temporary.mkdir()
        save_file({"a": torch.ones(1)}, temporary / inside)
    (tmp_path / "plain").touch()
    assert (tmp_path / "made" / inside).stat().st_mode == (tmp_path / "plain").stat().st_mode
