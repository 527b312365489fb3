"""Files are whole or not there."""

import pytest

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
