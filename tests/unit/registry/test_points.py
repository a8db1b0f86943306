"""Which names are watched for a path."""

import os
from pathlib import Path

from fastmesh.registry.points import ANY_NAME, concerns, digest_of_missing, fingerprint, watch_points


def test_a_plain_file_is_one_name_in_one_folder(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    assert watch_points([file]) == {tmp_path: {"f.yaml"}}
    file.write_text("")
    assert watch_points([file]) == {tmp_path: {"f.yaml"}}


def test_each_link_on_the_way_is_a_name_too(tmp_path: Path) -> None:
    real = tmp_path / "real/..2024"
    real.mkdir(parents=True)
    (real / "f.yaml").write_text("")
    (tmp_path / "real/..data").symlink_to("..2024")
    (tmp_path / "real/f.yaml").symlink_to("..data/f.yaml")
    (tmp_path / "etc").symlink_to(tmp_path / "real")
    assert watch_points([tmp_path / "etc/f.yaml"]) == {
        tmp_path: {"etc"},
        tmp_path / "real": {"f.yaml", "..data"},
        real: {"f.yaml"},
    }


def test_dots_in_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/link").symlink_to("../../target")
    assert watch_points([tmp_path / "a/b/link"]) == {tmp_path / "a/b": {"link"}, tmp_path: {"target"}}


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert watch_points([tmp_path / "a"]) == {tmp_path: {"a", "b"}}


def test_a_folder_is_watched_for_any_yaml_name(tmp_path: Path) -> None:
    folder = tmp_path / "services.d"
    folder.mkdir()
    points = watch_points([folder])
    assert points == {tmp_path: {"services.d"}, folder: {ANY_NAME}}
    seen = [
        name
        for name in ("a.yaml", "b.yml", ".a.yaml", "a.txt", "a.yaml~", "")
        if concerns(points, folder, name)
    ]
    assert seen == ["a.yaml", "b.yml", ""]
    assert concerns(points, tmp_path, "services.d")
    assert not concerns(points, tmp_path, "a.yaml")
    assert not concerns(points, Path("/"), "a.yaml")


def test_fingerprints_follow_content_and_nothing_else(tmp_path: Path) -> None:
    file, folder = tmp_path / "f", tmp_path / "d"
    folder.mkdir()
    assert fingerprint([file]) == {file: digest_of_missing()}
    file.write_text("a")
    first = fingerprint([file, folder])
    os.utime(file, (1, 1))
    (folder / "notes.txt").write_text("")
    assert fingerprint([file, folder]) == first
    (folder / "a.yaml").write_text("")
    second = fingerprint([file, folder])
    assert second[file] == first[file]
    assert second[folder] != first[folder]
    file.write_text("b")
    assert fingerprint([file])[file] != first[file]
