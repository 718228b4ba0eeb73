"""The package's own functions, with the real program."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ptycho_gpu

from conftest import FIXTURE, ROOT, SMALL


def test_a_training_tells_its_losses_and_where_it_is(trained):
    assert trained.checkpoint.is_file()
    assert trained.history["epoch"] == [1.0]
    assert trained.history["train_loss"][0] == pytest.approx(trained.figures["train_loss"], rel=1e-5)


def test_a_reconstruction_has_the_arrays_of_its_file(trained, tmp_path):
    result = ptycho_gpu.infer(trained, FIXTURE, tmp_path / "rec", n_images=20, device="cpu")
    assert result.object.dtype == np.complex64 and result.object.shape == result.weights.shape
    assert result.positions.shape == (20, 2) and list(result.indices) == list(range(20))
    assert result.folder == tmp_path / "rec" and (tmp_path / "rec" / "phase.png").is_file()
    assert result.figures["verdict"] in ("good", "usable", "do_not_trust", "do not trust")
    again = ptycho_gpu.load_reconstruction(tmp_path / "rec")
    assert np.array_equal(again.object, result.object) and again.origin_yx == result.origin_yx
    assert again.metadata["command"] == "infer"


def test_patches_that_are_stitched_here_are_the_programs_own_image(trained, scan):
    result = ptycho_gpu.infer(
        trained, scan, patches=True, device="cpu", patch_weighting="uniform", stitch_crop_size=20
    )
    assert result.patches.shape == (36, 64, 64)
    object_, weights, origin = ptycho_gpu.stitch(result.patches, result.positions, 20)
    assert origin == result.origin_yx
    assert object_.shape == result.object.shape
    assert np.allclose(weights, result.weights, atol=1e-4)
    assert np.abs(object_ - result.object).max() < 1e-5 * np.abs(result.object).max()


def test_without_being_asked_for_there_are_no_patches(trained, scan, tmp_path):
    result = ptycho_gpu.infer(trained, scan, tmp_path / "rec", device="cpu")
    assert result.patches is None and not (tmp_path / "rec" / "patches.npz").exists()


def test_a_direct_solution_lies_where_the_object_is(scan):
    result = ptycho_gpu.reconstruct(scan, epochs=60, fixed_probe=True, device="cpu")
    height, width = scan.object.shape
    image, (down, right) = result.on_object((height, width))
    weights, _ = ptycho_gpu.place(result.weights, result.origin_yx, (height, width))
    lit = weights[down : down + height, right : right + width] > 0.5 * weights.max()
    lit[:4], lit[-4:], lit[:, :4], lit[:, -4:] = 0, 0, 0, 0

    def correlation(shift) -> float:
        """Of the moduli, where it is lit, with the image moved: no phase has a part in it."""
        moved = np.roll(image, shift, (0, 1))[down : down + height, right : right + width]
        return float(np.corrcoef(np.abs(scan.object[lit]), np.abs(moved[lit]))[0, 1])

    shifts = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
    ranked = sorted(((correlation(shift), shift) for shift in shifts), reverse=True)
    assert ranked[0][1] == (0, 0) and ranked[0][0] > 0.7, ranked[:3]
    assert ranked[1][0] < ranked[0][0] - 0.2, "a neighbouring place would do as well"


def test_a_reconstruction_in_memory_is_refined(scan):
    before = ptycho_gpu.reconstruct(scan, epochs=2, device="cpu")
    after = ptycho_gpu.refine(before, scan, epochs=4, device="cpu")
    assert after.object.shape == before.object.shape and after.metadata["command"] == "refine"
    assert not np.array_equal(after.object, before.object)


def test_intensities_with_fractions_are_counts_if_the_scan_says_so(scan, tmp_path):
    scan.diffraction = scan.diffraction * 0.37
    scan.domain = "counts"
    training = ptycho_gpu.train(scan, tmp_path / "run", **SMALL)
    record = json.loads((training.folder / "run.json").read_text())
    assert record["configuration"]["input_domain"] == {"value": "counts", "origin": "flag"}
    assert ptycho_gpu.infer(training, scan, device="cpu").object.size


def test_the_programs_word_on_a_bad_scan_is_the_exception(scan, tmp_path):
    scan.diffraction = scan.diffraction.astype(np.float32)
    scan.diffraction[3, 5, 7] = np.nan
    with pytest.raises(ptycho_gpu.CommandFailed, match="diffraction.*NaN|not finite"):
        ptycho_gpu.train(scan, tmp_path / "run", **SMALL)


def test_arrays_that_do_not_belong_together_are_refused_before_anything_is_called(scan, tmp_path):
    scan.xcoords = scan.xcoords[:-1]
    with pytest.raises(ValueError, match=r"xcoords has shape \(35,\), expected \(36,\)"):
        ptycho_gpu.train(scan, tmp_path / "run", binary=None, **SMALL)
    narrow = ptycho_gpu.Scan(np.ones((4, 64, 32)), np.arange(4.0), np.arange(4.0))
    with pytest.raises(ValueError, match="square patterns"):
        narrow.save(tmp_path / "narrow.npz")
    assert not any(tmp_path.iterdir())


def test_a_network_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ptycho_gpu.FileError, match="nothing-here.*no trained network"):
        ptycho_gpu.infer(tmp_path / "nothing-here", FIXTURE)


def test_a_file_that_is_no_reconstruction_is_refused_by_name(tmp_path):
    with pytest.raises(ptycho_gpu.FileError, match="siemens64.npz: holds no `object`"):
        ptycho_gpu.load_reconstruction(FIXTURE)
    (tmp_path / "reconstruction.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ptycho_gpu.FileError, match="reconstruction.npz: cannot be read"):
        ptycho_gpu.load_reconstruction(tmp_path)


def test_a_scan_comes_back_from_its_file(scan, tmp_path):
    scan.mask = np.ones((64, 64))
    scan.mask[3, 4] = 0
    scan.extra["scan_index"] = np.zeros(36, int)
    back = ptycho_gpu.Scan.load(scan.save(tmp_path / "scan.npz"))
    assert np.array_equal(back.diffraction, scan.diffraction) and back.diffraction.dtype == np.uint16
    assert np.array_equal(back.probe, scan.probe) and np.array_equal(back.mask, scan.mask)
    assert list(back.extra) == ["scan_index"]
    assert [p.name for p in tmp_path.iterdir()] == ["scan.npz"]


def test_metres_and_pixels_are_the_same_place():
    frame = ptycho_gpu.Frame(100, 200, 2e-8, 1e-8, centre_y_m=5e-6, centre_x_m=-3e-6)
    assert frame.to_pixels(-3e-6, 5e-6) == (100.0, 50.0)
    x, y = frame.to_pixels(*frame.to_metres([0.0, 7.5], [3.0, 99.0]))
    assert np.allclose(x, [0, 7.5]) and np.allclose(y, [3, 99])
    with pytest.raises(ValueError, match="pixel_width_m"):
        ptycho_gpu.Frame(1, 1, 1e-8, 0.0)


@pytest.mark.parametrize("origin", [(3.0, 4.0), (-5.0, 2.0), (18.0, 9.0), (0.0, -30.0)])
def test_an_image_that_is_placed_keeps_the_objects_centre(origin):
    image = np.arange(1.0, 26.0).reshape(5, 5)
    array, (down, right) = ptycho_gpu.place(image, origin, (20, 11))
    assert array.shape == (20 + 2 * down, 11 + 2 * right)
    y, x = int(origin[0]) + down, int(origin[1]) + right
    assert np.array_equal(array[y : y + 5, x : x + 5], image) and array.sum() == image.sum()


def test_an_image_that_fits_gets_no_margin():
    assert ptycho_gpu.place(np.ones((5, 5)), (0.0, 6.0), (20, 11))[1] == (0, 0)
    with pytest.raises(ValueError, match="whole pixels"):
        ptycho_gpu.place(np.ones((5, 5)), (0.5, 6.0), (20, 11))


def test_patches_that_were_cut_out_of_an_object_make_it_again():
    random = np.random.default_rng(1)
    whole = random.normal(size=(60, 70)) + 1j * random.normal(size=(60, 70))
    positions = np.array([(x, y) for y in range(8, 52, 5) for x in range(8, 62, 5)], float)
    patches = np.stack([whole[int(y) - 8 : int(y) + 8, int(x) - 8 : int(x) + 8] for x, y in positions])
    image, weights, (top, left) = ptycho_gpu.stitch(patches, positions, 12)
    there = whole[int(top) :, int(left) :][: image.shape[0], : image.shape[1]]
    assert np.allclose(image[weights > 0], there[weights > 0], atol=1e-6)
    assert (weights > 0).sum() == 52 * 62 - 0 * len(positions)


def test_a_patch_between_pixels_is_shared_and_stays_where_it_is():
    patch = np.zeros((1, 8, 8))
    patch[0, 4, 4] = 1
    _, weights, _ = ptycho_gpu.stitch(patch, np.array([[10.25, 20.5]]), 2)
    image, _, (top, left) = ptycho_gpu.stitch(patch, np.array([[10.25, 20.5]]), 4)
    share = np.abs(image) * ptycho_gpu.stitch(patch, np.array([[10.25, 20.5]]), 4)[1]
    row, column = np.indices(share.shape)
    assert share.sum() == pytest.approx(1) and weights.sum() == pytest.approx(4)
    assert (share * (row + top)).sum() == pytest.approx(20.5)
    assert (share * (column + left)).sum() == pytest.approx(10.25)


@pytest.mark.parametrize("crop", [0, 7, 66])
def test_a_square_that_cannot_be_cut_out_is_refused(crop):
    with pytest.raises(ValueError, match=f"crop is {crop}"):
        ptycho_gpu.stitch(np.ones((1, 64, 64)), np.zeros((1, 2)), crop)


def test_package_and_program_have_one_version():
    cargo = (ROOT / "Cargo.toml").read_text()
    assert f'\nversion = "{ptycho_gpu.__version__}"\n' in cargo
    shim = (ROOT / "python" / "ptychopinn-shim" / "pyproject.toml").read_text()
    assert f'version = "{ptycho_gpu.__version__}+ptycho.gpu"' in shim
