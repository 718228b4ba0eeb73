"""Calls the `ptycho` interface in the order, and with the arguments, that ptychodus has.

Two reconstructors, "PINN" and "Supervised", each of which opens or trains a network and fills the
object of a product. Positions are metres; an object is an array with the size of a pixel and the
place of its centre. All of it can run in a spawned process of its own, with a queue of tagged answers,
while the process that waits imports nothing but the configurations.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from ptycho.config.config import InferenceConfig, ModelConfig, TrainingConfig, update_legacy_dict


@dataclass(frozen=True)
class Geometry:
    """Of an object's array, in metres."""

    pixel_width: float
    pixel_height: float
    centre_x: float
    centre_y: float

    def metres(self, row: float, column: float, shape: Tuple[int, int]) -> Tuple[float, float]:
        """Place (x, y) of a pixel of an array of this shape."""
        return (
            (column - shape[1] / 2) * self.pixel_width + self.centre_x,
            (row - shape[0] / 2) * self.pixel_height + self.centre_y,
        )


@dataclass(frozen=True)
class Product:
    positions: np.ndarray  # (M, 2), (x, y) in metres
    probe: np.ndarray  # (P, N, N)
    object: np.ndarray  # (L, H, W)
    geometry: Geometry

    @classmethod
    def of(cls, xcoords, ycoords, probe, object_, geometry: Geometry) -> "Product":
        """From pixels of the object's array."""
        height, width = object_.shape
        places = [geometry.metres(y, x, (height, width)) for x, y in zip(xcoords, ycoords)]
        return cls(np.array(places), probe[None], object_[None], geometry)


@dataclass
class Settings:
    gridsize: int = 1
    n_filters_scale: int = 2
    amp_activation: str = "sigmoid"
    batch_size: int = 16
    epochs: int = 50
    photons: float = 1e6
    nearest_neighbours: int = 7
    samples: int = 1
    more: Dict[str, Any] = field(default_factory=dict)  # of the training's configuration


class Reconstructor:
    def __init__(self, name: str, settings: Settings) -> None:
        self.name, self.settings = name, settings

    def model_config(self, size: int) -> ModelConfig:
        s = self.settings
        return ModelConfig(
            N=size,
            gridsize=s.gridsize,
            n_filters_scale=s.n_filters_scale,
            model_type=self.name.lower(),
            amp_activation=s.amp_activation,
            object_big=True,
            probe_big=True,
            probe_mask=False,
            pad_object=True,
            probe_scale=4.0,
            gaussian_smoothing_sigma=0.0,
        )

    def raw_data(self, patterns: np.ndarray, product: Product):
        from ptycho.raw_data import RawData

        g, (_, height, width) = product.geometry, product.object.shape
        return RawData.from_coords_without_pc(
            xcoords=(product.positions[:, 0] - g.centre_x) / g.pixel_width + width / 2,
            ycoords=(product.positions[:, 1] - g.centre_y) / g.pixel_height + height / 2,
            diff3d=patterns,
            probeGuess=product.probe[0],
            scan_index=np.zeros(len(patterns), dtype=int),
            objectGuess=product.object[0],
        )

    def reconstruct(self, patterns: np.ndarray, product: Product) -> Product:
        from ptycho import loader, params
        from ptycho import model as model_module
        from ptycho.probe import set_probe_guess
        from ptycho.tf_helper import reassemble_position

        size = patterns.shape[-1]
        if patterns.shape[-2] != size:
            raise ValueError("Model requires square diffraction patterns!")
        config = InferenceConfig(model=self.model_config(size))
        update_legacy_dict(params.cfg, config)
        raw = self.raw_data(patterns, product)
        probe = product.probe[0]
        set_probe_guess(None, probe)
        dataset = raw.generate_grouped_data(
            size, K=self.settings.nearest_neighbours, nsamples=self.settings.samples
        )
        container = loader.load(lambda: dataset, probe, which=None, create_split=False)
        scale = model_module.params()["intensity_scale"]
        patches = self.model.predict([container.X * scale, container.local_offsets])
        image = reassemble_position(patches, container.global_offsets, M=20)
        return replace(product, object=np.squeeze(np.asarray(image))[None])

    def train(self, folder: Path, out: Path) -> List[float]:
        from ptycho import model_manager, params
        from ptycho.raw_data import RawData
        from ptycho.workflows.components import run_cdi_example, save_outputs

        train = RawData.from_file(folder / "train_data.npz")
        test = RawData.from_file(folder / "test_data.npz")
        s = self.settings
        config = TrainingConfig(
            model=self.model_config(64),
            train_data_file=folder / "train_data.npz",
            test_data_file=folder / "test_data.npz",
            batch_size=s.batch_size,
            nepochs=s.epochs,
            mae_weight=0.0,
            nll_weight=1.0,
            realspace_mae_weight=0.0,
            realspace_weight=0.0,
            nphotons=s.photons,
            positions_provided=True,
            probe_trainable=False,
            intensity_scale_trainable=True,
            output_dir=out,
            **s.more,
        )
        config.model.N = train.diff3d.shape[-1]
        update_legacy_dict(params.cfg, config)
        amplitude, phase, results = run_cdi_example(train, test, config)
        model_manager.save(out)
        save_outputs(amplitude, phase, results, out)
        self.open_model(out / "wts.h5.zip")
        return results["history"]["train_loss"]

    def open_model(self, path: Path) -> None:
        from ptycho.workflows.components import load_inference_bundle

        self.model, _ = load_inference_bundle(path.parent)

    def export_training_data(self, path: Path, patterns: np.ndarray, product: Product) -> None:
        raw = self.raw_data(patterns, product)
        np.savez(
            path,
            xcoords=raw.xcoords,
            ycoords=raw.ycoords,
            xcoords_start=raw.xcoords_start,
            ycoords_start=raw.ycoords_start,
            diff3d=raw.diff3d,
            probeGuess=raw.probeGuess,
            objectGuess=raw.objectGuess,
            scan_index=raw.scan_index,
        )


def in_child(queue, name: str, settings: Settings, job: str, payload: Dict[str, Any]) -> None:
    """The target of a spawned process: tagged answers, an exception as one of them."""
    try:
        reconstructor = Reconstructor(name, settings)
        if job == "train":
            losses = reconstructor.train(payload["folder"], payload["out"])
            queue.put(("MODEL_SAVED", payload["out"] / "wts.h5.zip"))
            queue.put(("TRAIN_OUTPUT", losses))
        else:
            reconstructor.open_model(payload["bundle"] / "wts.h5.zip")
            queue.put(("OUTPUT", reconstructor.reconstruct(payload["patterns"], payload["product"])))
    except Exception as error:  # noqa: BLE001 - it is passed on
        queue.put(("ERROR", error))
