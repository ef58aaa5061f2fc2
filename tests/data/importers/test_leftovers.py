"""What an import leaves behind is named."""

from pathlib import Path

from patchcl.data.importers.leftovers import left_over


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"content")


def test_folders_without_use_and_other_files_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "images/b.png", "images/c.png", "images/d.png", "images/e.png", "images/x.csv")
    touch(tmp_path, "1st_manual/a.png", "1st_manual/deep/b.png", "1st_manual/Thumbs.db", "masks/a.png", "README")
    touch(tmp_path, "images/deep/f.png", ".DS_Store", "__MACOSX/._a", "only/.hidden", "out/imagesTr/a.png")
    used = [tmp_path / "images/a.png", tmp_path / "masks/a.png"]
    assert left_over(tmp_path, used, tmp_path / "out") == (
        "1st_manual/ (2 files)",
        "images/deep/ (1 file)",
        "images/b.png, images/c.png, images/d.png and 1 more",
        "images/x.csv",
        "README",
    )


def test_links_and_what_headers_name_are_known_again(tmp_path: Path) -> None:
    touch(tmp_path, "images/raw/a.bin", "images/b.bin", "elsewhere/c.png")
    (tmp_path / "images" / "a.mhd").write_text("NDims = 3\nElementDataFile = raw/a.bin\n")
    (tmp_path / "images" / "c.png").symlink_to(tmp_path / "elsewhere" / "c.png")
    (tmp_path / "images" / "loop").symlink_to(tmp_path / "images")
    used = [tmp_path / "images/a.mhd", tmp_path / "images/c.png"]
    assert left_over(tmp_path, used, tmp_path / "out") == ("images/loop/ (4 files)", "images/b.bin")


def test_a_series_is_used_as_a_whole(tmp_path: Path) -> None:
    touch(tmp_path, "images/a/IM1", "images/b/IM1")
    assert left_over(tmp_path, [tmp_path / "images/a"], tmp_path / "out") == ("images/b/ (1 file)",)
