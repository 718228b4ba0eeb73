"""Runs an ONNX model for tests/exchange.rs.

    run_onnx.py MODEL SHAPE INPUT OUTPUT    SHAPE as 5,1,64,64; files are little-endian f32

Writes `amplitude`, then `phase`.
"""

import sys

import numpy
import onnx
import onnxruntime

model, shape, source, target = sys.argv[1:]
loaded = onnx.load(model)
onnx.checker.check_model(loaded, full_check=True)
shape = [int(size) for size in shape.split(",")]
[seen] = loaded.graph.input
assert seen.type.tensor_type.shape.dim[0].dim_param == "batch"
assert [dim.dim_value for dim in seen.type.tensor_type.shape.dim[1:]] == shape[1:]
assert [output.name for output in loaded.graph.output] == ["amplitude", "phase"]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
patterns = numpy.fromfile(source, "<f4").reshape(shape)
outputs = session.run(["amplitude", "phase"], {"diffraction": patterns})
assert all(list(output.shape) == shape for output in outputs), [o.shape for o in outputs]
numpy.concatenate([output.ravel() for output in outputs]).astype("<f4").tofile(target)
