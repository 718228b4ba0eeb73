//! One harness for every op: all backends agree with f64, the gradient is the slope, and the
//! backward of a linear op is its adjoint. CUDA is a GPU or the virtual device where the driver's
//! library is found; with `PTYCHO_REQUIRE_CUDA=1` its absence is a failure.

use std::collections::HashMap;
use std::sync::LazyLock;

use ptycho_gpu::backend::{self, Backend, Chosen, cpu::Cpu};
use ptycho_gpu::config::Device;
use ptycho_gpu::graph::{Graph, Precision, Role, Stage, Value};
use ptycho_gpu::measure::selftest::Margins;
use ptycho_gpu::plan::Plan;
use ptycho_gpu::random::{Purpose, Stream};

/// Half the interval of the central difference. Its truncation error is of order H², the rounding
/// error of order 1e-16 / H: both are far below the 1e-6 that is asked for.
const H: f64 = 1e-5;

/// Relative error allowed between slope and ⟨∇L, d⟩ in f64.
const SLOPE: f64 = 1e-6;

/// Relative error allowed in ⟨A x, y⟩ = ⟨x, Aᴴ y⟩ in f64.
const ADJOINT: f64 = 1e-12;

/// Relative L2 error of an op on CUDA against f64, or this many times what the CPU may have where
/// several ops stand in a row.
const CUDA: (f64, f64) = (1e-5, 10.0);

/// Relative L2 error of a convolution by tensor cores against f64. A factor rounded to 11 significant
/// bits is off by 2.0e-4 in the mean square (2^-10 / √12 / m, for m the number over the power of two
/// below it), a product of two by 2.8e-4, and so is a sum of many that cancel as noise does.
const TF32: f64 = 5e-4;

/// The same with 8 significant bits, off by 1.6e-3.
const BF16: f64 = 4e-3;

/// The CUDA device of this machine.
pub fn cuda() -> Option<&'static Chosen> {
    static FOUND: LazyLock<Option<Chosen>> = LazyLock::new(|| {
        let found = backend::choose(Device::Cuda(0));
        if let Err(why) = &found {
            assert!(std::env::var_os("PTYCHO_REQUIRE_CUDA").is_none(), "{why}");
            eprintln!("not compared with CUDA: {why}");
        }
        found.ok()
    });
    FOUND.as_ref()
}

/// An op under test, with noise in its parameters and inputs.
pub struct Case {
    plan: Plan,
    output: Value,
    seed: Value,
    params: Vec<Value>,
    grads: Vec<Value>,
    given: HashMap<String, Vec<f64>>,
    low: f64,
    coarse: bool,
    precision: Precision,
}

/// `build` appends the op and returns its output. What it makes with `g.param` gets its gradient
/// checked; everything is filled with noise in [−1, 1) unless the case says otherwise.
pub fn case(build: impl FnOnce(&mut Graph) -> Value) -> Case {
    case_in(Precision::Fp32, build)
}

/// The same with convolutions of this precision on CUDA.
pub fn case_in(precision: Precision, build: impl FnOnce(&mut Graph) -> Value) -> Case {
    let mut g = Graph::with_precision(precision);
    let output = build(&mut g);
    g.keep(output);
    let shape = g.shape(output).to_vec();
    // A misfit is given what comes back to it beforehand.
    let seed = g.find("seed").unwrap_or_else(|| g.input("seed", &shape));
    g.differentiate(output, seed);
    let params = g.of_role(Role::Param);
    let grads =
        params.iter().map(|&p| g.grad_of(p).expect("output depends on every param")).collect();
    let (plan, given) = (Plan::new(g), HashMap::new());
    Case { plan, output, seed, params, grads, given, low: -1.0, coarse: false, precision }
}

impl Case {
    /// The parameter or input called `name` holds `values`.
    pub fn with(mut self, name: &str, values: impl Into<Vec<f64>>) -> Case {
        assert!(self.plan.find(name).is_some(), "the case has a buffer called {name}");
        self.given.insert(name.into(), values.into());
        self
    }

    /// Whether a kernel is launched whose name contains `name`.
    pub fn launches(&self, name: &str) -> bool {
        self.count(name) > 0
    }

    /// How many there are.
    pub fn count(&self, name: &str) -> usize {
        let launches = self.plan.steps.iter().flat_map(|step| step.op.launches());
        launches.filter(|launch| launch.kernel.contains(name)).count()
    }

    /// Noise in [0.1, 1.1) instead: for ops that are defined for positive numbers.
    pub fn positive(mut self) -> Case {
        self.low = 0.1;
        self
    }

    /// Parameters are whole eighths, which every precision multiplies exactly, biases halfway between
    /// their products: a ReLU is then open at the same pixels everywhere. With noise it is not, and each
    /// pixel that differs takes a whole term out of a gradient.
    pub fn coarse(mut self) -> Case {
        self.coarse = true;
        self
    }

    /// Checks that ⟨A x, y⟩ = ⟨x, Aᴴ y⟩ over the parameters, which the output must be linear in
    /// jointly.
    pub fn linear(self) -> Case {
        let mut cpu = Cpu::<f64>::new(self.plan.clone());
        let out = self.run(&mut cpu, 0.0);
        let left = dot(&out[0], &self.noise(self.seed));
        let right: f64 =
            self.params.iter().zip(&out[1..]).map(|(&p, g)| dot(&self.noise(p), g)).sum();
        let size = norm(&out[0]) * norm(&self.noise(self.seed));
        assert!((left - right).abs() <= ADJOINT * size, "⟨Ax, y⟩ {left} ≠ ⟨x, Aᴴy⟩ {right}");
        self
    }

    /// Checks f32 against f64 to `tolerance` (relative L2 of the output and of every gradient),
    /// CUDA likewise, and the gradients against central differences.
    pub fn check(self, tolerance: f64) {
        let mut reference = Cpu::<f64>::new(self.plan.clone());
        let want = self.run(&mut reference, 0.0);
        self.compare("CPU", &mut Cpu::<f32>::new(self.plan.clone()), &want, tolerance);
        if let Some(device) = cuda() {
            let mut cuda = device.open(self.plan.clone()).unwrap();
            let tolerance = match self.precision {
                Precision::Fp32 => CUDA.0.max(CUDA.1 * tolerance),
                Precision::Tf32 => TF32,
                Precision::Bf16 => BF16,
            };
            self.compare("CUDA", cuda.as_mut(), &want, tolerance);
        }
        if self.params.is_empty() {
            return;
        }
        let seed = self.noise(self.seed);
        let mut loss = |step| dot(&self.run(&mut reference, step)[0], &seed);
        let slope = (loss(H) - loss(-H)) / (2.0 * H);
        let gradients = self.params.iter().zip(&want[1..]);
        let expected: f64 = gradients.map(|(&p, g)| dot(g, &self.direction(p))).sum();
        let scale = slope.abs().max(expected.abs());
        assert!((slope - expected).abs() <= SLOPE * scale, "slope {slope} ≠ ⟨∇L, d⟩ {expected}");
    }

    /// The output and every gradient, with the parameters moved by `step` along `direction`.
    fn run(&self, cpu: &mut Cpu<f64>, step: f64) -> Vec<Vec<f64>> {
        for v in self.filled() {
            let mut x = self.noise(v);
            if self.params.contains(&v) && step != 0.0 {
                x.iter_mut().zip(self.direction(v)).for_each(|(x, d)| *x += step * d);
            }
            cpu.set(v, &x);
        }
        for stage in [Stage::Forward, Stage::Backward] {
            cpu.run(stage).unwrap();
        }
        self.read().map(|v| cpu.get(v).to_vec()).collect()
    }

    /// Runs in single precision, twice, and compares with `want`.
    fn compare(&self, name: &str, backend: &mut dyn Backend, want: &[Vec<f64>], tolerance: f64) {
        let margins = Margins::of(backend).unwrap();
        let got = self.run_f32(backend);
        assert_eq!(got, self.run_f32(backend), "{name}: the same bits again");
        assert_eq!(margins.overrun(backend).unwrap(), None, "{name}: written past the end");
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let got: Vec<f64> = got.iter().map(|&bits| f32::from_bits(bits).into()).collect();
            let error = relative(&got, want);
            let what = if i == 0 { "output" } else { &self.plan.slots[self.grads[i - 1].0].name };
            assert!(
                error <= tolerance,
                "{name}: {what}: relative L2 error {error:.1e} > {tolerance:.1e}"
            );
        }
    }

    /// The bits of the output and of every gradient.
    fn run_f32(&self, backend: &mut dyn Backend) -> Vec<Vec<u32>> {
        for v in self.filled() {
            let x: Vec<f32> = self.noise(v).iter().map(|&x| x as f32).collect();
            backend.write(v, &x).unwrap();
        }
        for stage in [Stage::Forward, Stage::Backward] {
            backend.run(stage).unwrap();
        }
        let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect();
        self.read().map(|v| bits(backend.read(v).unwrap())).collect()
    }

    fn read(&self) -> impl Iterator<Item = Value> {
        std::iter::once(self.output).chain(self.grads.iter().copied())
    }

    fn filled(&self) -> Vec<Value> {
        let roles = [Role::Param, Role::Input, Role::State];
        roles.iter().flat_map(|&r| self.plan.of_role(r)).map(|(v, _)| v).collect()
    }

    /// What fills `v`: exactly representable in f32, the same on every machine.
    fn noise(&self, v: Value) -> Vec<f64> {
        let slot = &self.plan.slots[v.0];
        if let Some(given) = self.given.get(&slot.name) {
            assert_eq!(given.len(), slot.len(), "values for {}", slot.name);
            return given.iter().map(|&x| f64::from(x as f32)).collect();
        }
        let mut stream = Stream::new(1, Purpose::Noise, v.0 as u32);
        let (low, width) = (self.low, if self.low < 0.0 { 2.0 } else { 1.0 });
        let noise = (0..slot.len()).map(|_| f64::from((low + width * stream.uniform()) as f32));
        if !(self.coarse && slot.role == Role::Param) {
            return noise.collect();
        }
        let from_zero = if slot.name == "bias" { 1.0 / 128.0 } else { 0.0 };
        noise.map(|x| (8.0 * x).floor() / 8.0 + from_zero).collect()
    }

    fn direction(&self, v: Value) -> Vec<f64> {
        let mut stream = Stream::new(2, Purpose::Noise, v.0 as u32);
        (0..self.plan.slots[v.0].len()).map(|_| stream.uniform() - 0.5).collect()
    }
}

/// The output of the op that `build` appends, on inputs that hold `given`.
pub fn filled(build: impl FnOnce(&mut Graph) -> Value, given: &[(&str, &[f64])]) -> Vec<f64> {
    let mut g = Graph::default();
    let y = build(&mut g);
    g.keep(y);
    let mut cpu = Cpu::<f64>::new(Plan::new(g));
    for (name, values) in given {
        let v = cpu.plan().find(name).expect("the op reads what is given");
        cpu.set(v, values);
    }
    cpu.run(Stage::Forward).unwrap();
    cpu.get(y).to_vec()
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// ‖got − want‖ / ‖want‖.
pub fn relative(got: &[f64], want: &[f64]) -> f64 {
    let off: Vec<f64> = got.iter().zip(want).map(|(g, w)| g - w).collect();
    if norm(want) == 0.0 { norm(&off) } else { norm(&off) / norm(want) }
}
