//! Ops of our graphs as nodes of ONNX.
//!
//! Every buffer has the same logical shape there as here, with two exceptions that keep the samples
//! of a batch apart: the pooled channels of an attention block are [B, C, 2, 1] (mean, maximum), and
//! modes of a Fourier layer are [B, C, 2K, L], row 2k + part, without padding. The Fourier transforms
//! are products with constant matrices, as they are here.

use super::proto::Attribute;
use super::writer::{Step, Writer};
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::graph::{Graph, Stage, Value};
use crate::ops::Op;
use crate::ops::activate::{Activate, Activation, SOFTPLUS_ONE};
use crate::ops::batch_norm::BatchNorm;
use crate::ops::cartesian::Cartesian;
use crate::ops::conv2d::Conv2d;
use crate::ops::dft_axis::{Axis, DftAxis};
use crate::ops::dft_plane::DftPlane;
use crate::ops::head_sum::HeadSum;
use crate::ops::instance_norm::InstanceNorm;
use crate::ops::mode_mix::{self, ModeMix};
use crate::ops::product::padded;
use crate::ops::residual::Residual;
use crate::ops::shuffle::Shuffle;
use crate::ops::split::Split;
use crate::ops::transposed_filter::{TransposedFilter, transposed_filter};
use crate::ops::{batch_norm, instance_norm};
use crate::plan::Plan;

impl Writer<'_> {
    /// All steps. Error: an op that has no form here, or a weight that is missing.
    pub fn steps(&mut self) -> Step {
        let graph = self.graph;
        graph.steps.iter().try_for_each(|step| self.step(&step.op))
    }

    fn step(&mut self, op: &Op) -> Step {
        match op {
            Op::Activate(op) => self.activate(op),
            Op::BatchNorm(op) => self.batch_norm(op),
            Op::Cartesian(op) => self.cartesian(op),
            Op::ChannelGate(op) => {
                let logits = self.read(op.m)?;
                let axes = self.ints(&[2]);
                let sum =
                    self.node("ReduceSum", &[&logits, &axes], vec![Attribute::int("keepdims", 1)]);
                self.gate(op.x, &sum, op.y)
            }
            Op::ChannelPool(op) => {
                self.pool(op.x, ["ReduceMean", "ReduceMax"], &[2, 3], 2, op.pooled)
            }
            Op::Conv2d(op) => self.convolution(op),
            Op::DftAxis(op) => self.dft_axis(op),
            Op::DftPlane(op) => self.dft_plane(op),
            Op::HeadSum(op) => self.head_sum(op),
            Op::InstanceNorm(op) => self.instance_norm(op),
            Op::MaxPool(op) => {
                let two = [("kernel_shape", [2, 2]), ("strides", [2, 2])];
                let two = two.iter().map(|(name, ints)| Attribute::ints(name, ints)).collect();
                self.unary("MaxPool", op.x, two, op.y)
            }
            Op::ModeMix(op) => self.mode_mix(op),
            Op::ReflectPad(op) => {
                let (x, pads) = (self.read(op.x)?, self.ints(&[0, 0, 1, 1, 0, 0, 1, 1]));
                self.write(op.y, "Pad", &[&x, &pads], vec![Attribute::text("mode", "reflect")]);
                Ok(())
            }
            Op::Residual(op) => self.residual(op),
            Op::Shuffle(op) => self.shuffle(op),
            Op::SpatialGate(op) => {
                let logits = self.read(op.v)?;
                self.gate(op.y, &logits, op.z)
            }
            Op::SpatialPool(op) => self.pool(op.x, ["ReduceMax", "ReduceMean"], &[1], 1, op.pooled),
            Op::Split(op) => self.split(op),
            Op::TransposedFilter(op) => self.transposed_filter(op),
            Op::Upsample(op) => self.upsample(op.x, op.y),
            other => Err(format!("has the operation {}, which has no form in ONNX", other.name())),
        }
    }

    fn activate(&mut self, op: &Activate) -> Step {
        let x = self.read(op.x)?;
        match op.activation {
            Activation::Relu => self.write(op.y, "Relu", &[&x], vec![]),
            Activation::Sigmoid => self.write(op.y, "Sigmoid", &[&x], vec![]),
            Activation::Silu => {
                let sigmoid = self.node("Sigmoid", &[&x], vec![]);
                self.write(op.y, "Mul", &[&x, &sigmoid], vec![]);
            }
            Activation::SoftplusOne => {
                let offset = self.number(SOFTPLUS_ONE);
                let shifted = self.node("Add", &[&x, &offset], vec![]);
                self.write(op.y, "Softplus", &[&shifted], vec![]);
            }
            Activation::PiTanh => {
                let (tanh, pi) =
                    (self.node("Tanh", &[&x], vec![]), self.number(std::f64::consts::PI));
                self.write(op.y, "Mul", &[&tanh, &pi], vec![]);
            }
            Activation::Gelu => {
                let [half, one, root] =
                    [0.5, 1.0, std::f64::consts::FRAC_1_SQRT_2].map(|number| self.number(number));
                let scaled = self.node("Mul", &[&x, &root], vec![]);
                let erf = self.node("Erf", &[&scaled], vec![]);
                let raised = self.node("Add", &[&erf, &one], vec![]);
                let share = self.node("Mul", &[&raised, &half], vec![]);
                self.write(op.y, "Mul", &[&x, &share], vec![]);
            }
        }
        Ok(())
    }

    fn batch_norm(&mut self, op: &BatchNorm) -> Step {
        let inputs = [op.x, op.gamma, op.beta, op.running_mean, op.running_var];
        let inputs = inputs.iter().map(|&v| self.read(v)).collect::<Step<Vec<_>>>()?;
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let floor = Attribute::float("epsilon", batch_norm::FLOOR as f32);
        self.write(op.y, "BatchNormalization", &inputs, vec![floor]);
        Ok(())
    }

    fn instance_norm(&mut self, op: &InstanceNorm) -> Step {
        let [x, gamma, beta] = [self.read(op.x)?, self.read(op.gamma)?, self.read(op.beta)?];
        let floor = Attribute::float("epsilon", instance_norm::FLOOR as f32);
        self.write(op.y, "InstanceNormalization", &[&x, &gamma, &beta], vec![floor]);
        Ok(())
    }

    /// ONNX has no angle of two numbers: it is made of the angle of a ratio that is at most 1, so that
    /// nothing is divided by a small number.
    fn cartesian(&mut self, op: &Cartesian) -> Step {
        let (x, y) = (self.read(op.x)?, self.read(op.y)?);
        let [zero, one, half, full] =
            [0.0, 1.0, std::f64::consts::FRAC_PI_2, std::f64::consts::PI].map(|n| self.number(n));
        let re = self.node("Add", &[&x, &one], vec![]);
        let [re2, im2] = [&re, &y].map(|part| self.node("Mul", &[part, part], vec![]));
        let square = self.node("Add", &[&re2, &im2], vec![]);
        self.write(op.amplitude, "Sqrt", &[&square], vec![]);
        let [wide, high] = [&re, &y].map(|part| self.node("Abs", &[part], vec![]));
        let flat = self.node("GreaterOrEqual", &[&wide, &high], vec![]);
        let upper = self.node("Where", &[&flat, &y, &re], vec![]);
        let lower = self.node("Where", &[&flat, &re, &y], vec![]);
        let dark = self.node("Equal", &[&lower, &zero], vec![]);
        let lower = self.node("Where", &[&dark, &one, &lower], vec![]);
        let ratio = self.node("Div", &[&upper, &lower], vec![]);
        let angle = self.node("Atan", &[&ratio], vec![]);
        // −1 below the real axis, else 1.
        let below = self.node("Less", &[&y, &zero], vec![]);
        let minus = self.number(-1.0);
        let side = self.node("Where", &[&below, &minus, &one], vec![]);
        let left = self.node("Less", &[&re, &zero], vec![]);
        let turn = self.node("Where", &[&left, &full, &zero], vec![]);
        let turn = self.node("Mul", &[&turn, &side], vec![]);
        let flat_angle = self.node("Add", &[&angle, &turn], vec![]);
        let quarter = self.node("Mul", &[&half, &side], vec![]);
        let steep_angle = self.node("Sub", &[&quarter, &angle], vec![]);
        self.write(op.phase, "Where", &[&flat, &flat_angle, &steep_angle], vec![]);
        Ok(())
    }

    /// `x` times σ(logits).
    fn gate(&mut self, x: Value, logits: &str, y: Value) -> Step {
        let x = self.read(x)?;
        let gate = self.node("Sigmoid", &[logits], vec![]);
        self.write(y, "Mul", &[&x, &gate], vec![]);
        Ok(())
    }

    /// Two reductions over `axes`, side by side along axis `side`.
    fn pool(&mut self, x: Value, kinds: [&str; 2], axes: &[i64], side: i64, to: Value) -> Step {
        let x = self.read(x)?;
        let [first, second] = kinds.map(|kind| {
            let how = vec![Attribute::ints("axes", axes), Attribute::int("keepdims", 1)];
            self.node(kind, &[&x], how)
        });
        self.write(to, "Concat", &[&first, &second], vec![Attribute::int("axis", side)]);
        Ok(())
    }

    fn convolution(&mut self, op: &Conv2d) -> Step {
        let mut inputs = vec![self.read(op.x)?, self.read(op.weight)?];
        if let Some(bias) = op.bias {
            inputs.push(self.read(bias)?);
        }
        if op.sizes.inputs == 0 || op.sizes.outputs == 0 {
            // Attention over 8 channels, as in the narrowest network for 256 pixels.
            return Err("has a layer without channels, which has no form in ONNX".into());
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let (side, pad) = (op.sizes.side as i64, op.sizes.pad as i64);
        let how =
            vec![Attribute::ints("kernel_shape", &[side; 2]), Attribute::ints("pads", &[pad; 4])];
        if !op.relu {
            self.write(op.y, "Conv", &inputs, how);
            return Ok(());
        }
        let linear = self.node("Conv", &inputs, how);
        self.write(op.y, "Relu", &[&linear], vec![]);
        Ok(())
    }

    fn head_sum(&mut self, op: &HeadSum) -> Step {
        let (inner, mut outer) = (self.read(op.inner)?, self.read(op.outer)?);
        let (h, w) = (op.height, op.width);
        if op.border {
            let centre = |i: usize, side: usize| (side / 4..3 * side / 4).contains(&i);
            let masked = |at: usize| centre(at / w, h) && centre(at % w, w);
            let mask = (0..h * w).map(|at| if masked(at) { 0.0 } else { 1.0 }).collect();
            let mask = self.floats("border", &[1, 1, h, w], mask);
            outer = self.node("Mul", &[&outer, &mask], vec![]);
        }
        let (h, w) = (h as i64 / 4, w as i64 / 4);
        let pads = self.ints(&[0, 0, h, w, 0, 0, h, w]);
        let inner = self.node("Pad", &[&inner, &pads], vec![Attribute::text("mode", "constant")]);
        self.write(op.y, "Add", &[&inner, &outer], vec![]);
        Ok(())
    }

    fn residual(&mut self, op: &Residual) -> Step {
        let (x, mut update) = (self.read(op.x)?, self.read(op.update)?);
        if let Some(gate) = op.gate {
            let gate = self.read(gate)?;
            update = self.node("Mul", &[&update, &gate], vec![]);
        }
        self.write(op.y, "Add", &[&x, &update], vec![]);
        Ok(())
    }

    fn split(&mut self, op: &Split) -> Step {
        let x = self.read(op.x)?;
        let sizes = self.ints(&[op.at as i64, (op.channels - op.at) as i64]);
        let parts = [op.low, op.high].map(|v| self.rename(v));
        self.push("Split", &[&x, &sizes], &parts, vec![Attribute::int("axis", 1)]);
        Ok(())
    }

    fn upsample(&mut self, x: Value, y: Value) -> Step {
        let x = self.read(x)?;
        let scales = self.floats("twice", &[4], vec![1.0, 1.0, 2.0, 2.0]);
        let how = [
            ("mode", "nearest"),
            ("coordinate_transformation_mode", "asymmetric"),
            ("nearest_mode", "floor"),
        ];
        let how = how.iter().map(|(name, text)| Attribute::text(name, text)).collect();
        self.write(y, "Resize", &[&x, "", &scales], how);
        Ok(())
    }

    fn shuffle(&mut self, op: &Shuffle) -> Step {
        let x = self.read(op.x)?;
        if op.spread {
            let how = vec![Attribute::int("blocksize", 2), Attribute::text("mode", "CRD")];
            self.write(op.y, "DepthToSpace", &[&x], how);
            return Ok(());
        }
        let [_, channels, h, w] = self.graph.dims::<4>(op.y).map(|size| size as i64);
        let blocks = self.reshape(&x, &[0, channels / 4, h, 2, w, 2]);
        let blocks = self.transpose(&blocks, &[0, 1, 3, 5, 2, 4]);
        let shape = self.ints(&[0, channels, h, w]);
        self.write(op.y, "Reshape", &[&blocks, &shape], vec![]);
        Ok(())
    }

    /// The filter follows from the weights alone, so that it is computed here.
    fn transposed_filter(&mut self, op: &TransposedFilter) -> Step {
        let mut g = Graph::default();
        let weight = g.input("weight", self.graph.shape(op.weight));
        let filter = transposed_filter(&mut g, weight);
        g.keep(filter);
        let shape = g.shape(filter).to_vec();
        let mut engine = Cpu::<f32>::new(Plan::new(g));
        let numbers = self.weight(op.weight)?.to_vec();
        Backend::write(&mut engine, weight, &numbers).map_err(|e| e.to_string())?;
        Backend::run(&mut engine, Stage::Forward).map_err(|e| e.to_string())?;
        let numbers = Backend::read(&mut engine, filter).map_err(|e| e.to_string())?;
        let name = self.floats(self.graph.name(op.filter), &shape, numbers);
        self.names.insert(op.filter, name);
        Ok(())
    }

    /// Modes of lines: [2K, N] · [.., N, L], or back.
    fn dft_axis(&mut self, op: &DftAxis) -> Step {
        let (rows, n) = (2 * op.band.count, op.band.length);
        let entry = op.matrix::<f32>();
        let numbers = (0..rows * n).map(|at| match op.synthesis {
            false => entry(at / n, at % n),
            true => entry(at % rows, at / rows),
        });
        let shape = if op.synthesis { [n, rows] } else { [rows, n] };
        let matrix = self.floats("fourier", &shape, numbers.collect());
        let sideways = op.axis == Axis::Horizontal;
        if !op.synthesis {
            let mut image = self.read(op.image)?;
            if sideways {
                image = self.transpose(&image, &[0, 1, 3, 2]);
            }
            self.write(op.modes, "MatMul", &[&matrix, &image], vec![]);
            return Ok(());
        }
        let modes = self.read(op.modes)?;
        let mut image = self.node("MatMul", &[&matrix, &modes], vec![]);
        if sideways {
            image = self.transpose(&image, &[0, 1, 3, 2]);
        }
        if op.accumulate {
            let onto = self.read(op.image)?;
            self.write(op.image, "Add", &[&onto, &image], vec![]);
        } else {
            self.names.insert(op.image, image);
        }
        Ok(())
    }

    /// The second axis: rows [.., K, 2N] · [2N, 2Q], or back.
    fn dft_plane(&mut self, op: &DftPlane) -> Step {
        let (n, terms, half) = (op.band.length, 2 * op.band.count, padded(op.band.length));
        let entry = op.matrix::<f32>();
        // Without the padding behind each part of a row.
        let place = |at: usize| at / n * half + at % n;
        let numbers = (0..2 * n * terms).map(|at| match op.synthesis {
            false => entry(at % terms, place(at / terms)),
            true => entry(at / (2 * n), place(at % (2 * n))),
        });
        let shape = if op.synthesis { [terms, 2 * n] } else { [2 * n, terms] };
        let matrix = self.floats("fourier", &shape, numbers.collect());
        let [channels, rows] = [op.channels as i64, op.rows as i64];
        let (from, to) = if op.synthesis { (op.modes, op.lines) } else { (op.lines, op.modes) };
        let from = self.read(from)?;
        let each = if op.synthesis { terms } else { 2 * n } as i64;
        let from = self.reshape(&from, &[0, channels, rows, each]);
        let product = self.node("MatMul", &[&from, &matrix], vec![]);
        let end = if op.synthesis { n as i64 } else { 1 };
        let shape = self.ints(&[0, channels, -1, end]);
        self.write(to, "Reshape", &[&product, &shape], vec![]);
        Ok(())
    }

    /// One matrix for each mode: [K, 2O, 2I] · [B, K, 2I, L].
    fn mode_mix(&mut self, op: &ModeMix) -> Step {
        let mode_mix::Sizes { inputs, outputs, modes, .. } = op.sizes;
        let weight = self.weight(op.weight)?;
        let numbers = (0..modes * 4 * outputs * inputs).map(|at| {
            let (k, row, term) =
                (at / (4 * outputs * inputs), at / (2 * inputs) % (2 * outputs), at % (2 * inputs));
            mode_mix::entry(&weight[k * 2 * inputs * outputs..], outputs, row, term)
        });
        let numbers = numbers.collect();
        let name = format!("{} matrices", self.graph.name(op.weight));
        let matrices = self.floats(&name, &[modes, 2 * outputs, 2 * inputs], numbers);
        let x = self.read(op.x)?;
        let [inputs, outputs, modes] = [inputs, outputs, modes].map(|size| size as i64);
        let x = self.reshape(&x, &[0, inputs, modes, 2, -1]);
        let x = self.transpose(&x, &[0, 2, 1, 3, 4]);
        let x = self.reshape(&x, &[0, modes, 2 * inputs, -1]);
        let y = self.node("MatMul", &[&matrices, &x], vec![]);
        let y = self.reshape(&y, &[0, modes, outputs, 2, -1]);
        let y = self.transpose(&y, &[0, 2, 1, 3, 4]);
        let shape = self.ints(&[0, outputs, 2 * modes, -1]);
        self.write(op.y, "Reshape", &[&y, &shape], vec![]);
        Ok(())
    }
}
