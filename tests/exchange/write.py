"""Checkpoints of PyTorch for tests/exchange.rs.

    write.py fixtures FOLDER        the small ones that are kept beside this script
    write.py npz WEIGHTS.npz FILE   the arrays of an .npz as a state dict, saved by torch.save

The network is written down here once more, from its description. Its weights are overlapping views of
a few small storages, so that a network of half a million numbers makes a file of some kilobytes.
"""

import collections
import io
import math
import pathlib
import pickle
import struct
import sys
import zipfile

import torch
from torch import nn
from torch.nn import functional

N = 64


class Conv(nn.Module):
    """Two 3×3 convolutions."""

    def __init__(self, inputs, outputs, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if norm:
            self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.norm = norm

    def forward(self, x):
        x = self.conv1(x)
        x = functional.relu(self.bn1(x) if self.norm else x)
        x = self.conv2(x)
        return functional.relu(self.bn2(x) if self.norm else x)


class ChannelGate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        hidden = channels // 16
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )

    def forward(self, x):
        logits = self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))
        return x * torch.sigmoid(logits)[:, :, None, None]


class SpatialGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.compress = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x):
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.compress(pooled))


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.ChannelGate, self.SpatialGate = ChannelGate(channels), SpatialGate()

    def forward(self, x):
        return self.SpatialGate(self.ChannelGate(x))


class Down(Conv):
    def __init__(self, inputs, outputs, norm, attention):
        super().__init__(inputs, outputs, norm)
        self.attention = Attention(outputs) if attention else nn.Identity()

    def forward(self, x):
        return functional.max_pool2d(self.attention(super().forward(x)), 2)


class Up(Conv):
    def forward(self, x):
        return functional.interpolate(super().forward(x), scale_factor=2, mode="nearest")


class Head(nn.Module):
    """Path 1 fills the centre; path 2 the border, or in the older network all of the patch."""

    def __init__(self, width, outputs, outer, phase, norm, border):
        super().__init__()
        self.conv1 = nn.Conv2d(32 * width - outer, outputs, 3, padding=1)
        self.conv_up_block = Up(outer, 32 * width, norm)
        self.conv2 = nn.Conv2d(32 * width, outputs, 3, padding=1)
        if norm:
            self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.outer, self.phase, self.norm, self.border = outer, phase, norm, border

    def forward(self, h):
        inner, outer = h[:, : -self.outer], h[:, -self.outer :]
        one, two = self.conv1(inner), self.conv2(self.conv_up_block(outer))
        if self.norm:
            one, two = self.bn1(one), self.bn2(two)
        one = math.pi * torch.tanh(one) if self.phase else functional.silu(one)
        two = functional.silu(two)
        if self.border:
            two = two.clone()
            two[:, :, N // 4 : -N // 4, N // 4 : -N // 4] = 0
        return functional.pad(one, [N // 4] * 4) + two


class Decoder(nn.Module):
    def __init__(self, width, name, head, norm):
        super().__init__()
        sizes = [128 * width, 64 * width, 32 * width]
        self.blocks = nn.ModuleList(Up(a, b, norm) for a, b in zip(sizes, sizes[1:]))
        setattr(self, name, head)
        self.name = name

    def forward(self, h):
        for block in self.blocks:
            h = block(h)
        return getattr(self, self.name)(h)


class Network(nn.Module):
    def __init__(self, channels, width=1, attention=False, norm=False, older=False):
        super().__init__()
        sizes = [channels, 32 * width, 64 * width, 128 * width]
        self.encoder = nn.Module()
        self.encoder.blocks = nn.ModuleList(
            Down(a, b, norm, attention) for a, b in zip(sizes, sizes[1:])
        )
        outer = 4 * width if older else channels
        amplitudes = 1 if older else channels
        head = Head(width, amplitudes, outer, False, False, not older)
        self.decoder_amp = Decoder(width, "amp", head, False)
        head = Head(width, channels, outer, True, norm, not older)
        self.decoder_phase = Decoder(width, "phase", head, norm)

    def forward(self, x):
        for block in self.encoder.blocks:
            x = block(x)
        return self.decoder_amp(x), self.decoder_phase(x)


def patterns(channels):
    """Patterns that the test makes too."""
    spot = lambda y, x: 8 * math.exp(-((y - 32) ** 2 + (x - 32) ** 2) / 200)
    value = lambda c, y, x: spot(y, x) + (5 * c + 7 * y + 11 * x) % 13 / 13
    rows = [[[value(c, y, x) for x in range(N)] for y in range(N)] for c in range(channels)]
    return torch.tensor([rows], dtype=torch.float32)


def views(network, types):
    """Weights for `network` as views of small storages, of the types in turn."""
    noise = torch.Generator().manual_seed(5)
    storages, weights = {}, collections.OrderedDict()
    for at, (name, tensor) in enumerate(network.state_dict().items()):
        if tensor.dtype == torch.int64:
            weights[name] = tensor
            continue
        bound = 2.0 ** round(math.log2(1.5 / math.sqrt(max(tensor[0].numel(), 4))))
        key = (bound, types[at % len(types)])
        if key not in storages:
            numbers = bound * (2 * torch.rand(1024, generator=noise) - 1)
            storages[key] = numbers.to(key[1])
        strides = [5, 2, 3, 1][-tensor.dim() :] if tensor.dim() == 4 else [3, 2][: tensor.dim()]
        view = storages[key].as_strided(tensor.shape, strides, at % 16)
        if name.endswith("running_var"):
            view = view.abs().contiguous() + 0.5
        weights[name] = view
    return weights


def build(channels, types, **options):
    """Weights, and what the network makes of the patterns."""
    network = Network(channels, **options).eval()
    weights = views(network, types)
    network.load_state_dict({name: w.to(torch.float32) for name, w in weights.items()})
    with torch.no_grad():
        amplitude, phase = network(patterns(channels))
    # The older network has one amplitude for all patterns of a group.
    return weights, amplitude.expand_as(phase), phase


def prefixed(weights):
    named = collections.OrderedDict((f"model.autoencoder.{n}", w) for n, w in weights.items())
    named._metadata = {"": {"version": 1}}
    return named


def answers(path, amplitude, phase):
    """Every seventh pixel: amplitudes, then phases."""
    both = torch.cat([amplitude.flatten()[::7], phase.flatten()[::7]]).tolist()
    path.write_bytes(struct.pack(f"<{len(both)}f", *both))


def lightning(state, model):
    """What stands beside the weights in a checkpoint of Lightning."""
    small = nn.Linear(2, 2)
    optimiser = torch.optim.Adam(small.parameters())
    small(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    counters = collections.defaultdict(list)
    counters["losses"].append(torch.tensor(0.5))
    return {
        "epoch": 3,
        "global_step": 2**40,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"ready": True}}},
        "callbacks": {
            "EarlyStopping{'monitor': 'val_loss'}": {
                "best_score": torch.tensor(float("inf")),
                "path": pathlib.PosixPath("checkpoints"),
            }
        },
        "optimizer_states": [optimiser.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {
            "model_config": model,
            "data_config": {"N": N, "probe_scale": 4.0, "x_bounds": (0.1, 0.9)},
            "training_config": {"device": torch.device("cpu"), "seen": {1, 2}},
            "kept": counters,
            "dtype": torch.float32,
            "shape": torch.Size([2, 3]),
        },
    }


def fixtures(folder):
    # The published network as it is: attention, a head of two parts, one pattern at a time.
    weights, amplitude, phase = build(1, [torch.float32], attention=True)
    state = prefixed(weights)
    for name in ["alpha", "beta", "rect_scaler.s1", "rect_scaler.s2"]:
        state[f"model.forward_model.{name}"] = torch.ones(1)
    model = {"amp_activation": "silu", "probe_big": True, "cnn_output_mode": "amp_phase"}
    torch.save(lightning(state, model), folder / "attention.ckpt")
    answers(folder / "attention.f32", amplitude, phase)
    # Groups of four, normalised batches, numbers of every type; the state dict alone.
    types = [torch.float64, torch.float16, torch.bfloat16, torch.float32]
    weights, amplitude, phase = build(4, types, norm=True)
    torch.save(prefixed(weights), folder / "groups.pt")
    answers(folder / "groups.f32", amplitude, phase)
    # The network of 2025, in the bundle of that time.
    weights, amplitude, phase = build(1, [torch.bfloat16], older=True)
    inner = io.BytesIO()
    torch.save(prefixed(weights), inner)
    sentinel = io.BytesIO()
    torch.save({"_sentinel": "autoencoder"}, sentinel)
    settings = {"N": N, "gridsize": 1, "probe.big": True, "amp_activation": "silu", "probe_scale": 1.0}
    with zipfile.ZipFile(folder / "wts.h5.zip", "w", zipfile.ZIP_DEFLATED) as bundle:
        put = lambda name, data: bundle.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
        put("manifest.dill", pickle.dumps({"models": ["autoencoder"], "version": "2.0-pytorch"}))
        put("autoencoder/model.pth", sentinel.getvalue())
        put("autoencoder/params.dill", pickle.dumps({}))
        put("diffraction_to_obj/model.pth", inner.getvalue())
        put("diffraction_to_obj/params.dill", pickle.dumps(settings))
    answers(folder / "older.f32", amplitude, phase)


def read_npz(path):
    """Arrays of f32 and f64 of an .npz, without NumPy."""
    arrays = collections.OrderedDict()
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            long = data[6] > 1
            length = struct.unpack("<I" if long else "<H", data[8:12] if long else data[8:10])[0]
            start = (12 if long else 10) + length
            header = eval(data[start - length : start].decode("latin1"), {"__builtins__": {}})
            kind = {"<f4": torch.float32, "<f8": torch.float64, "<i8": torch.int64}[header["descr"]]
            assert not header["fortran_order"]
            numbers = torch.frombuffer(bytearray(data[start:]), dtype=kind)
            arrays[name.removesuffix(".npy")] = numbers.reshape(header["shape"])
    return arrays


if __name__ == "__main__":
    if sys.argv[1] == "fixtures":
        fixtures(pathlib.Path(sys.argv[2]))
    else:
        torch.save(read_npz(sys.argv[2]), sys.argv[3])
