"""The interface of another name, driven as ptychodus drives it."""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ptycho_gpu
from driver import Geometry, Product, Reconstructor, Settings, in_child
from ptycho import loader, model_manager, params
from ptycho.config.config import InferenceConfig, ModelConfig, TrainingConfig, update_legacy_dict
from ptycho.model import Model
from ptycho.raw_data import RawData
from ptycho.tf_helper import reassemble_position
from ptycho.tracked import origin_of
from ptycho.workflows.components import load_inference_bundle, options, run_cdi_example

#: Pixels that are not square, and a centre far from 0: nothing falls into place by chance.
GEOMETRY = Geometry(pixel_width=1.2e-8, pixel_height=0.9e-8, centre_x=4.1e-5, centre_y=-2.7e-5)

SMALL = Settings(n_filters_scale=1, batch_size=4, epochs=1, more={"n_groups": 8})


@pytest.fixture()
def product(scan) -> Product:
    return Product.of(scan.xcoords, scan.ycoords, scan.probe, scan.object, GEOMETRY)


@pytest.fixture()
def training_data(scan, product, tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    # `replace` gives the positions of each part.
    for name, part in (("train", slice(0, 24)), ("test", slice(24, 36))):
        there = replace(product, positions=product.positions[part])
        Reconstructor("PINN", SMALL).export_training_data(
            folder / f"{name}_data.npz", scan.diffraction[part], there
        )
    return folder


@pytest.fixture()
def bundle(trained, tmp_path) -> Path:
    folder = tmp_path / "bundle"
    ptycho_gpu.save_bundle(trained.folder, folder, input_domain="counts", configuration={"N": 64})
    return folder


def test_the_distribution_that_is_looked_for_is_there():
    assert importlib.metadata.version("ptychopinn") == f"{ptycho_gpu.__version__}+ptycho.gpu"


def test_the_configurations_alone_import_nothing_heavy():
    check = (
        "import sys; import ptycho.config.config; "
        "heavy = {'numpy', 'ptycho_gpu', 'multiprocessing', 'subprocess'} & set(sys.modules); "
        "sys.exit(f'{heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_training_opening_and_reconstructing_one_after_the_other(scan, product, training_data, tmp_path):
    out = tmp_path / "out"
    reconstructor = Reconstructor("PINN", SMALL)
    losses = reconstructor.train(training_data, out)
    assert len(losses) == 1 and np.isfinite(losses).all()
    assert (out / "wts.h5.zip").is_file() and (out / "history.csv").is_file()
    record = json.loads((out / "run.json").read_text())
    names = [Path(scan["path"]).name for scan in record["inputs"]]
    assert names == ["train_data.npz", "test_data.npz"]
    assert record["configuration"]["input_domain"]["value"] == "counts"
    manifest = ptycho_gpu.open_bundle(out).manifest
    assert manifest["input_domain"] == "counts" and manifest["configuration"]["nphotons"] == 1e6
    result = reconstructor.reconstruct(scan.diffraction, product)
    assert result.object.shape == product.object.shape
    assert result.object.dtype == np.complex64 and np.isfinite(result.object).all()
    covered = np.argwhere(result.object[0] != 0)
    assert len(covered) > 400
    # Where the patterns are, and nowhere else.
    x, y = scan.xcoords, scan.ycoords
    assert covered.min(axis=0) == pytest.approx([y.min() - 10, x.min() - 10], abs=1)
    assert covered.max(axis=0) == pytest.approx([y.max() + 10, x.max() + 10], abs=1)


def test_the_same_in_a_process_of_its_own(scan, product, training_data, tmp_path):
    context = multiprocessing.get_context("spawn")

    def ask(job, wanted, payload):
        queue = context.Queue()
        child = context.Process(target=in_child, args=(queue, "PINN", SMALL, job, payload))
        child.start()
        answers = dict(queue.get(timeout=120) for _ in wanted)
        child.join()
        assert list(answers) == wanted, answers
        return answers

    out = tmp_path / "out"
    trained = ask("train", ["MODEL_SAVED", "TRAIN_OUTPUT"], {"folder": training_data, "out": out})
    assert trained["MODEL_SAVED"].is_file() and len(trained["TRAIN_OUTPUT"]) == 1
    payload = {"bundle": out, "patterns": scan.diffraction, "product": product}
    there = ask("reconstruct", ["OUTPUT"], payload)["OUTPUT"]
    here = Reconstructor("PINN", SMALL)
    here.open_model(out / "wts.h5.zip")
    assert np.array_equal(there.object, here.reconstruct(scan.diffraction, product).object)
    # The program's own words come through as the exception that it was.
    dark = {**payload, "patterns": np.zeros_like(scan.diffraction)}
    error = ask("reconstruct", ["ERROR"], dark)["ERROR"]
    assert isinstance(error, ptycho_gpu.CommandFailed)
    assert str(error).startswith("(in memory) scan.npz: all 36 patterns are dark")


class Eye:
    """A network that sees the truth, in place of a trained one."""

    def __init__(self, scan) -> None:
        self.scan = scan

    def predict(self, inputs):
        size = inputs[0].shape[1]
        whole = np.pad(self.scan.object, size)
        corners = zip(self.scan.ycoords.round().astype(int), self.scan.xcoords.round().astype(int))
        first = size - size // 2
        patches = [whole[y + first : y + first + size, x + first : x + first + size] for y, x in corners]
        return np.stack(patches)[..., None]


@pytest.mark.parametrize("row, column", [(55, 64), (70, 49), (63, 63)])
@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_a_bright_pixel_lands_at_its_metre(scan, row, column, shift):
    """Also where patches reach beyond the object's array, which then grows on both sides."""
    scan.object = np.zeros(scan.object.shape, np.complex64)
    scan.object[row, column] = 1
    scan.xcoords, scan.ycoords = scan.xcoords.round(), scan.ycoords.round()
    product = Product.of(scan.xcoords, scan.ycoords, scan.probe, scan.object, GEOMETRY)
    wanted = GEOMETRY.metres(row, column, scan.object.shape)
    if shift:
        # The same scan, of an object array that ends sooner and has its centre elsewhere.
        cut = scan.object[: -int(shift), int(shift) :]
        height, width = scan.object.shape
        centre = GEOMETRY.metres((height - shift) / 2, (width + shift) / 2, scan.object.shape)
        geometry = replace(GEOMETRY, centre_x=centre[0], centre_y=centre[1])
        product = replace(product, object=cut[None], geometry=geometry)
    reconstructor = Reconstructor("PINN", SMALL)
    reconstructor.model = Eye(scan)
    result = reconstructor.reconstruct(scan.diffraction, product)
    image = np.abs(result.object[0])
    brightest = np.unravel_index(image.argmax(), image.shape)
    assert image.max() > 0.99
    assert result.geometry.metres(*brightest, image.shape) == pytest.approx(wanted, abs=1e-12)


def test_without_an_object_the_image_is_centred_on_the_positions(scan):
    offsets = np.array([[-3.0, 2.0], [3.0, -2.0]]).reshape(2, 1, 2, 1)
    patches = np.zeros((2, 64, 64, 1), complex)
    patches[0, 32, 32] = 1
    image = np.abs(np.asarray(reassemble_position(patches, offsets, M=20)))[..., 0]
    row, column = np.unravel_index(image.argmax(), image.shape)
    assert (row - image.shape[0] / 2, column - image.shape[1] / 2) == (2, -3)


def test_predictions_are_the_programs_patches_and_arithmetic_does_not_lose_them(scan, product, bundle):
    reconstructor = Reconstructor("PINN", SMALL)
    dataset = reconstructor.raw_data(scan.diffraction, product).generate_grouped_data(64)
    container = loader.load(lambda: dataset, scan.probe, which=None, create_split=False)
    assert np.allclose(origin_of(container.X * 2.0).positions[:, 0], scan.xcoords)
    assert origin_of(container.X[:3]) is None, "which of them these are is not known"
    model, _ = load_inference_bundle(bundle)
    given = model.predict([container.X * 1.0, container.local_offsets])
    direct = ptycho_gpu.infer(bundle / "wts.h5.zip", scan, patches=True, device="cpu")
    assert np.allclose(np.asarray(given)[..., 0], direct.patches, rtol=1e-5, atol=1e-6)
    # Patterns alone, whose places are not known: the patches are the same.
    plain = model.predict(np.asarray(container.X))
    assert np.allclose(np.asarray(plain), np.asarray(given), rtol=1e-5, atol=1e-6)


def test_patterns_that_are_not_square_are_refused(product, bundle):
    narrow = np.ones((36, 64, 48), np.uint16)
    with pytest.raises(ValueError, match="square diffraction patterns"):
        Reconstructor("PINN", SMALL).reconstruct(narrow, product)
    with pytest.raises(ValueError, match=r"\(36, 64, 48\).*square patterns"):
        Reconstructor("PINN", SMALL).raw_data(narrow, product)
    with pytest.raises(ValueError, match=r"\(36, 64, 48\).*square patterns"):
        load_inference_bundle(bundle)[0].predict([narrow, None])


def test_a_network_for_patterns_of_another_side_says_so(bundle, product, scan):
    reconstructor = Reconstructor("PINN", SMALL)
    reconstructor.open_model(bundle / "wts.h5.zip")
    wide = np.pad(scan.diffraction, ((0, 0), (32, 32), (32, 32)))
    probe = np.pad(product.probe, ((0, 0), (32, 32), (32, 32)))
    with pytest.raises(ptycho_gpu.CommandFailed, match="128.*trained on 64"):
        reconstructor.reconstruct(wide, replace(product, probe=probe))


def test_a_missing_program_is_one_clear_error(monkeypatch, bundle, product, scan):
    reconstructor = Reconstructor("PINN", SMALL)
    reconstructor.open_model(bundle / "wts.h5.zip")
    monkeypatch.setenv(ptycho_gpu.VARIABLE, "/nowhere/ptycho-gpu")
    with pytest.raises(ptycho_gpu.BinaryNotFound, match="/nowhere/ptycho-gpu"):
        reconstructor.reconstruct(scan.diffraction, product)


def test_a_folder_without_a_network_is_named(tmp_path):
    with pytest.raises(ptycho_gpu.FileError, match=str(tmp_path)):
        load_inference_bundle(tmp_path)


def test_nothing_trained_is_nothing_saved(monkeypatch, tmp_path):
    monkeypatch.setattr(model_manager, "_training", None)
    with pytest.raises(ValueError, match="nothing was trained"):
        model_manager.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_sample_stands_for_all_and_fewer_are_chosen_alike(scan, product):
    raw = Reconstructor("PINN", SMALL).raw_data(scan.diffraction, product)
    assert len(raw.generate_grouped_data(64, K=7, nsamples=1)["X_full"]) == 36
    some, again = (raw.generate_grouped_data(64, nsamples=10, seed=3)["nn_indices"] for _ in range(2))
    assert len(some) == 10 == len(np.unique(some)) and np.array_equal(some, again)
    assert not np.array_equal(some, raw.generate_grouped_data(64, nsamples=10, seed=4)["nn_indices"])
    with pytest.raises(ValueError, match="N is 128"):
        raw.generate_grouped_data(128)


def test_counts_and_amplitudes_are_told_apart(scan, product, tmp_path, monkeypatch):
    raw = Reconstructor("PINN", SMALL).raw_data(scan.diffraction * 0.5, product)
    assert raw.domain() == "counts", "ptychodus has intensities in memory, whatever their type"

    def of_file(patterns):
        scan.diffraction = patterns
        return RawData.from_file(scan.save(tmp_path / "scan.npz")).domain()

    counts = scan.diffraction
    assert of_file(counts) == of_file(counts.astype(float)) == "counts"
    assert of_file(np.sqrt(counts)) == "amplitude"
    monkeypatch.setenv("PTYCHO_GPU_INPUT_DOMAIN", "counts")
    assert of_file(np.sqrt(counts)) == "counts"
    monkeypatch.setenv("PTYCHO_GPU_INPUT_DOMAIN", "photons")
    with pytest.raises(ValueError, match="PTYCHO_GPU_INPUT_DOMAIN is 'photons'"):
        of_file(counts)


def test_a_file_is_handed_on_as_it_is_unless_something_was_changed(training_data):
    raw = RawData.from_file(training_data / "train_data.npz")
    assert raw.source("counts") == training_data / "train_data.npz"
    with pytest.raises(ValueError, match="read-only"):
        raw.xcoords += 1
    raw.xcoords = raw.xcoords + 1
    changed = raw.source("counts")
    assert isinstance(changed, ptycho_gpu.Scan) and changed.xcoords[0] == raw.xcoords[0]


def test_files_with_the_frames_last_are_read(scan, tmp_path):
    np.savez(
        tmp_path / "old.npz", diffraction=np.moveaxis(scan.diffraction, 0, -1), probeGuess=scan.probe,
        xcoords=scan.xcoords, ycoords=scan.ycoords,
    )
    assert np.array_equal(RawData.from_file(tmp_path / "old.npz").diff3d, scan.diffraction)


def test_a_supervised_network_learns_the_objects_patches(training_data, tmp_path):
    losses = Reconstructor("Supervised", SMALL).train(training_data, tmp_path / "out")
    assert len(losses) == 1
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["configuration"]["mode"]["value"] == "supervised"


def test_groups_are_learned_so_that_single_patterns_can_be_predicted(scan, product, training_data, tmp_path):
    reconstructor = Reconstructor("PINN", replace(SMALL, gridsize=2, batch_size=2, more={"n_groups": 2}))
    reconstructor.train(training_data, tmp_path / "out")
    model = ptycho_gpu.open_bundle(tmp_path / "out").model
    assert (model["gridsize"], model["group_input"]) == (2, "apart")
    assert np.isfinite(reconstructor.reconstruct(scan.diffraction, product).object).all()


def test_a_network_of_groups_needs_the_positions(bundle, scan):
    model = Model(ptycho_gpu.open_bundle(bundle))
    model.bundle.model.update(gridsize=2, group_input="together")
    with pytest.raises(ValueError, match="groups of neighbours"):
        model.predict(scan.diffraction[..., None])


def test_a_training_may_stitch_too(training_data, tmp_path):
    train, test = (RawData.from_file(training_data / f"{name}_data.npz") for name in ("train", "test"))
    config = TrainingConfig(
        ModelConfig(n_filters_scale=1), batch_size=4, nepochs=1, n_groups=4, output_dir=tmp_path / "out"
    )
    amplitude, phase, results = run_cdi_example(train, test, config, do_stitching=True)
    assert amplitude.shape == phase.shape == results["reconstruction"].object.shape
    assert len(results["reconstruction"].indices) == 12
    assert (tmp_path / "out" / "reconstruction" / "phase.png").is_file()


def test_settings_become_options():
    config = TrainingConfig(ModelConfig(gridsize=2, amp_activation="swish"), nepochs=3, probe_trainable=True)
    flags = options(config)
    assert flags["max_epochs"] == 3 and flags["gridsize"] == 2 and flags["group_input"] == "apart"
    assert flags["amp_activation"] == "silu" and flags["probe_trainable"] is True
    assert flags["nphotons"] is None and flags["loss"] is None
    assert options(TrainingConfig(mae_weight=1.0, nll_weight=0.0))["loss"] == "mae"
    fno = options(TrainingConfig(ModelConfig(architecture="fno", fno_width=16)))
    assert fno["width"] == 16 and "n_filters_scale" not in fno
    for wrong in ({"architecture": "neuralop_uno"}, {"amp_activation": "tanh"}, {"model_type": "pin"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            options(TrainingConfig(ModelConfig(**wrong)))


def test_what_has_no_effect_is_said(caplog):
    options(TrainingConfig(mae_weight=0.3, realspace_weight=0.1))
    assert "mae_weight 0.3" in caplog.text and "realspace_weight 0.1" in caplog.text
    config = TrainingConfig(colour="red")
    assert config.colour == "red" and "no field colour" in caplog.text


def test_settings_are_shared_under_their_older_names():
    cfg = {"N": 1, "kept": 2}
    update_legacy_dict(cfg, TrainingConfig(ModelConfig(N=128), train_data_file=Path("a.npz")))
    assert cfg["N"] == 128 and cfg["kept"] == 2 and cfg["object.big"] is True
    assert cfg["train_data_file_path"] == "a.npz" and cfg["probe.trainable"] is False
    update_legacy_dict(cfg, InferenceConfig())
    assert cfg["train_data_file_path"] == "a.npz", "what is not said stays"
    assert params.get("intensity_scale") == 1.0
    with pytest.raises(KeyError, match="no setting 'colour'"):
        params.get("colour")
