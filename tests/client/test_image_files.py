import os

import pytest

from client.image_files import find_images
from mfm_core.errors import DataError

FINGERPRINT = "0123456789"


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_every_file_below_is_found_in_a_fixed_order(tmp_path):
    touch(tmp_path, "b.png", "a/z.dcm", "a/b/c", "notes.txt")
    found = find_images(tmp_path)
    assert found.names == ("a/b/c", "a/z.dcm", "b.png", "notes.txt")
    assert found.folder == tmp_path and found.closed == () and found.own == 0


def test_a_single_file_is_taken_whatever_its_name(tmp_path):
    touch(tmp_path, f"explanation-x-{FINGERPRINT}.png", "other.png")
    name = f"explanation-x-{FINGERPRINT}.png"
    assert find_images(tmp_path / name).names == (name,)


def test_hidden_files_and_earlier_explanations_are_left_out(tmp_path):
    own = [
        f"explanation-effusion-{FINGERPRINT}{end}"
        for end in (".png", ".gif", ".json", "-methods.png", "-abcdef-map.dcm")
    ]
    own += ["explanations-effusion.part2.html", "explanations-index.json"]
    kept = ("explanation-of-anna.png", "scan.png", "explanation-effusion-0123.png")
    touch(tmp_path, *own, *kept, ".DS_Store", ".cache/x.png")
    found = find_images(tmp_path)
    assert set(found.names) == set(kept) and found.own == len(own)


def test_a_link_that_leads_nowhere_is_tried_and_a_pipe_is_not(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "to-pipe.png").symlink_to(tmp_path / "pipe.png")
    found = find_images(tmp_path)
    assert found.names == ("a.png", "link.png")
    assert [name for name, _ in found.closed] == ["pipe.png", "to-pipe.png"]
    assert "pipe" in found.closed[0][1]


def test_a_loop_of_folders_ends(tmp_path):
    touch(tmp_path, "sub/a.png")
    (tmp_path / "sub" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert find_images(tmp_path).names == ("sub/a.png",)


def test_a_folder_that_may_not_be_entered_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "closed/b.png")
    real = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_images(tmp_path)
    assert found.names == ("a.png",)
    ((name, reason),) = found.closed
    assert name == "closed" and "Permission denied" in reason and str(tmp_path) not in reason


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_nothing_to_explain_is_said(name, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=name):
        find_images(tmp_path / name)
