"""One file per network: what is written is read, and what is not ours is refused."""

from __future__ import annotations

import json
import zipfile

import pytest

import ptycho_gpu

from conftest import FIXTURE


def test_a_bundle_gives_the_network_back(trained, tmp_path):
    path = ptycho_gpu.save_bundle(trained.folder, tmp_path / "kept", input_domain="counts")
    assert path == tmp_path / "kept" / "wts.h5.zip"
    bundle = ptycho_gpu.open_bundle(tmp_path / "kept")
    assert bundle.model["n"] == 64 and bundle.manifest["input_domain"] == "counts"
    assert {"models", "version", "backend"} <= set(bundle.manifest)
    weights = bundle.extract(tmp_path / "weights.safetensors")
    assert weights.read_bytes() == trained.checkpoint.read_bytes()
    one = ptycho_gpu.infer(path, FIXTURE, n_images=4, device="cpu")
    other = ptycho_gpu.infer(trained, FIXTURE, n_images=4, device="cpu")
    assert (one.object == other.object).all()


def test_a_bundle_that_was_unpacked_is_one_too(trained, tmp_path):
    path = ptycho_gpu.save_bundle(trained.folder, tmp_path / "a.zip")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert ptycho_gpu.open_bundle(tmp_path / "unpacked").model == ptycho_gpu.open_bundle(path).model


def test_equal_networks_make_equal_bundles(trained, tmp_path):
    one, other = (ptycho_gpu.save_bundle(trained.folder, tmp_path / name) for name in ("a.zip", "b.zip"))
    assert one.read_bytes() == other.read_bytes()
    with zipfile.ZipFile(one) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "b.zip"]


@pytest.mark.parametrize("members", [["manifest.dill", "autoencoder/model.pth"], ["autoencoder/saved_model.pb"]])
def test_another_programs_bundle_is_refused_with_the_way_out(tmp_path, members):
    with zipfile.ZipFile(tmp_path / "wts.h5.zip", "w") as archive:
        for name in members:
            archive.writestr(name, b"cos\nsystem\n(S'touch /tmp/pwned'\ntR.")
    with pytest.raises(ptycho_gpu.FileError) as caught:
        ptycho_gpu.open_bundle(tmp_path)
    said = str(caught.value)
    assert str(tmp_path / "wts.h5.zip") in said and members[0] in said and "`ptycho-gpu import`" in said


def test_a_manifest_of_another_program_or_a_later_version_is_refused(trained, tmp_path):
    path = ptycho_gpu.save_bundle(trained.folder, tmp_path / "a.zip")
    with zipfile.ZipFile(path) as archive:
        manifest, weights = json.loads(archive.read("manifest.json")), archive.read("checkpoint.safetensors")
    for change, words in [({"format": "else"}, "another program's"), ({"version": 2}, "version 2.*version 1")]:
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            archive.writestr("manifest.json", json.dumps({**manifest, **change}))
            archive.writestr("checkpoint.safetensors", weights)
        with pytest.raises(ptycho_gpu.FileError, match=f"b.zip.*{words}"):
            ptycho_gpu.open_bundle(tmp_path / "b.zip")


def test_weights_that_are_not_those_that_were_saved_are_noticed(trained, tmp_path):
    path = ptycho_gpu.save_bundle(trained.folder, tmp_path / "a.zip")
    with zipfile.ZipFile(path) as archive:
        manifest, weights = archive.read("manifest.json"), archive.read("checkpoint.safetensors")
    changed = weights[:-1] + bytes([weights[-1] ^ 1])
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("manifest.json", manifest)
        archive.writestr("checkpoint.safetensors", changed)
    with pytest.raises(ptycho_gpu.FileError, match="b.zip.*damaged"):
        ptycho_gpu.infer(tmp_path / "b.zip", FIXTURE, n_images=4)


def test_what_is_no_archive_or_not_there_is_named(tmp_path):
    (tmp_path / "wts.h5.zip").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ptycho_gpu.FileError, match="wts.h5.zip: is not a bundle"):
        ptycho_gpu.open_bundle(tmp_path)
    with pytest.raises(ptycho_gpu.FileError, match="none.zip: there is no such file"):
        ptycho_gpu.open_bundle(tmp_path / "none.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ptycho_gpu.FileError, match="empty: is not a bundle.*holds nothing"):
        ptycho_gpu.open_bundle(tmp_path / "empty")


def test_only_a_checkpoint_is_packed(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"\x80\x02ctorch\n" + bytes(64))
    with pytest.raises(ptycho_gpu.FileError, match="model.pth: holds no checkpoint of ptycho-gpu"):
        ptycho_gpu.save_bundle(tmp_path / "model.pth", tmp_path / "a.zip")
    with pytest.raises(ptycho_gpu.FileError, match="no checkpoint"):
        ptycho_gpu.save_bundle(tmp_path / "nothing", tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
