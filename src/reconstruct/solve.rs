//! One run of the solver: what goes onto the device, the epochs, and what comes back.

use std::path::Path;
use std::time::Instant;

use ndarray::{Array2, Array3};
use num_complex::Complex32;
use rayon::prelude::*;

use super::{Options, Outcome, Start, StartObject, modes};
use crate::backend::{Backend, Chosen};
use crate::data::scan::{Position, Scan};
use crate::graph::{Group, Role, Stage, Value};
use crate::models::object::{self, BETAS, Design, Sizes, Solver};
use crate::models::physics::{checkerboard, probe_intensity};
use crate::models::plans::RING;
use crate::random::{Purpose, Stream};
use crate::reconstruction::{Exposure, Reconstruction};
use crate::report::Progress as Bar;
use crate::report::history::History;
use crate::stitch::{Canvas, Stitched};
use crate::{Error, Result};

/// ε of the Poisson loss, photons per pixel.
const EPSILON_PHOTONS: f64 = 1e-6;

/// The rates end at this part of what they began with.
const LAST_RATE: f64 = 0.02;

/// An epoch whose loss is this many times the best one has diverged.
const DIVERGED: f64 = 1.5;

/// Rates that were halved so often are no use.
const MOST_HALVINGS: usize = 12;

/// Canvas pixels that carry less than this part of the largest illumination are not known.
const DARK: f32 = 1e-3;

/// Columns of history.csv.
const COLUMNS: [&str; 6] = ["epoch", "step", "rate", "loss", "patterns_per_second", "seconds"];

/// A problem on a device, and how far it has come.
pub struct Job<'a> {
    options: &'a Options,
    start: &'a Start,
    step: Solver,
    backend: Box<dyn Backend>,
    /// Of all positions, with room for them to move.
    canvas: Canvas,
    /// Where shift (0, 0) puts each patch's centre.
    corners: Vec<[i64; 2]>,
    /// Shifts that the run started with.
    first_shifts: Vec<f32>,
    /// The engine's probe is this times the file's.
    gauge: f64,
    /// Σ|P|² in the engine's gauge.
    power: f64,
    side: usize,
    rms_pattern: f64,
    state: State,
}

/// How far a run has come.
#[derive(Clone, Debug)]
struct State {
    epoch: usize,
    step: u64,
    /// Factor on all rates: 1/2 for each divergence.
    damping: f64,
    halvings: usize,
    losses: Vec<f64>,
}

/// The parameters and their moments at the end of an epoch.
struct Snapshot {
    values: Vec<(Value, Vec<f32>)>,
    loss: f64,
}

impl<'a> Job<'a> {
    /// Plans the step, allocates it, and writes patterns and start.
    pub fn new(
        scan: &Scan,
        start: &'a Start,
        options: &'a Options,
        device: &Chosen,
    ) -> Result<Job<'a>> {
        let side = scan.side();
        let room = if options.refine_positions { options.max_shift.ceil() as usize + 1 } else { 1 };
        let canvas = Canvas::around(&start.positions, side + 2 * room)?;
        let batch = options.batch_size.min(start.indices.len());
        let design = Design {
            loss: options.loss,
            epsilon_photons: EPSILON_PHOTONS,
            probe: options.refine_probe,
            positions: options.refine_positions,
            gains: options.frame_scale,
            background: options.background,
        };
        let frames = start.indices.len();
        let sizes = Sizes {
            batch,
            frames,
            held: frames,
            side,
            modes: options.modes,
            canvas: [canvas.height, canvas.width],
            typical: scan.mean_count_per_pixel(),
        };
        let step = object::solver(&design, &sizes);
        check_budget(&step, device)?;
        let backend = device.open(step.plan.clone())?;
        let probe = modes::with_count(start.probe.view(), options.modes);
        let power: f64 = probe.iter().map(|z| f64::from(z.norm_sqr())).sum();
        let gauge = (scan.mean_energy() / power).sqrt();
        let (corners, first_shifts) = places(&start.positions, &canvas, side);
        let state = State { epoch: 0, step: 0, damping: 1.0, halvings: 0, losses: Vec::new() };
        let mut job = Job {
            options,
            start,
            step,
            backend,
            canvas,
            corners,
            first_shifts,
            gauge,
            power: scan.mean_energy(),
            side,
            rms_pattern: (scan.mean_energy() / (side * side) as f64).sqrt(),
            state,
        };
        job.write_scan(scan, batch)?;
        job.write_start(&probe)?;
        Ok(job)
    }

    /// What stays the same for the whole run.
    fn write_scan(&mut self, scan: &Scan, batch: usize) -> Result<()> {
        let (step, backend) = (&self.step, self.backend.as_mut());
        let mut frames = Vec::with_capacity(self.start.indices.len() * self.side * self.side);
        for &i in &self.start.indices {
            frames.extend(scan.amplitude.index_axis(ndarray::Axis(0), i).iter());
        }
        backend.write(step.frames, &frames)?;
        let mask = scan.mask.clone().unwrap_or_else(|| Array2::ones((self.side, self.side)));
        let mask: Vec<f32> = mask.iter().copied().collect();
        backend.write(step.mask, &mask)?;
        backend.write(step.dose, &vec![scan.dose.kappa as f32; batch])?;
        backend.write(step.scan, &vec![0.0; batch])?;
        backend.write(step.seed, &[1.0])?;
        let corners: Vec<f32> = self.corners.iter().flatten().map(|&c| c as f32).collect();
        backend.write(step.corners, &corners)
    }

    /// What is solved for, as it starts.
    fn write_start(&mut self, probe: &Array3<Complex32>) -> Result<()> {
        let (step, backend) = (&self.step, self.backend.as_mut());
        let canvas = match &self.start.object {
            None => [1.0, 0.0].repeat(self.canvas.height * self.canvas.width),
            Some(object) => onto(object, &self.canvas, self.gauge),
        };
        backend.write(step.canvas, &canvas)?;
        backend.write(step.probe, &flat(&checkerboard(probe.view(), self.gauge)))?;
        backend.write(step.shifts, &self.first_shifts)?;
        if let Some(gains) = step.gains {
            backend.write(gains, &vec![1.0; self.start.indices.len()])?;
        }
        if let Some(root) = step.background {
            let start = (0.01 * self.rms_pattern) as f32;
            backend.write(root, &vec![start; step.plan.slots[root.0].len()])?;
        }
        for role in [Role::Moment1, Role::Moment2] {
            for (v, slot) in step.plan.of_role(role) {
                backend.write(v, &vec![0.0; slot.len()])?;
            }
        }
        Ok(())
    }

    /// All epochs.
    pub fn run(&mut self, history: Option<&Path>) -> Result<Outcome> {
        let started = Instant::now();
        let mut history = history.map(|path| History::create(path, &COLUMNS)).transpose()?;
        let frames = self.start.indices.len();
        let batch = self.batch();
        let mut bar = Bar::new(self.options.epochs, frames.div_ceil(batch), 0);
        let mut good = self.snapshot(f64::INFINITY)?;
        let mut stopped_early = false;
        while self.state.epoch < self.options.epochs {
            let began = Instant::now();
            let rate = self.rate(0.0);
            let loss = self.epoch(&mut bar)?;
            if !(loss.is_finite() && loss < DIVERGED * good.loss) {
                self.step_back(&good, loss)?;
                continue;
            }
            self.tidy()?;
            self.state.epoch += 1;
            self.state.losses.push(loss);
            if loss <= good.loss {
                good = self.snapshot(loss)?;
            }
            let seconds = began.elapsed().as_secs_f64();
            if let Some(history) = &mut history {
                let speed = frames as f64 / seconds.max(1e-9);
                let (epoch, step) = (self.state.epoch as f64, self.state.step as f64);
                history.append(&[epoch, step, rate, loss, speed, seconds])?;
            }
            bar.end_epoch(&format!("loss {loss:.5}"));
            if self.stands_still() {
                stopped_early = self.state.epoch < self.options.epochs;
                break;
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let probe = self.read_probe()?;
        Ok(Outcome {
            epochs: self.state.epoch,
            steps: self.state.step,
            loss: self.state.losses.last().copied().unwrap_or(f64::NAN),
            stopped_early,
            halvings: self.state.halvings,
            mode_powers: modes::powers(probe.view()),
            patterns_per_second: (self.state.epoch * frames) as f64 / seconds.max(1e-9),
            seconds,
        })
    }

    fn batch(&self) -> usize {
        self.step.plan.slots[self.step.weight.0].len()
    }

    /// Factor on the rates, a part `within` the present epoch.
    fn rate(&self, within: f64) -> f64 {
        let t = (self.state.epoch as f64 + within) / self.options.epochs as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * t).cos());
        self.state.damping * (LAST_RATE + (1.0 - LAST_RATE) * cosine)
    }

    /// One pass over the patterns; the mean loss, or the first that is not finite.
    fn epoch(&mut self, bar: &mut Bar) -> Result<f64> {
        let frames = self.start.indices.len();
        let size = self.batch();
        let epoch = u32::try_from(self.state.epoch).expect("epochs are few");
        let mut order = Stream::new(self.options.seed, Purpose::Shuffle, epoch).permutation(frames);
        order.resize(frames.next_multiple_of(size), order[0]);
        let batches = order.len() / size;
        let patience = self.backend.patience().min(RING);
        let (mut total, mut unseen) = (0.0, Vec::with_capacity(patience));
        for (at, members) in order.chunks_exact(size).enumerate() {
            let real = size.min(frames - at * size);
            self.write_batch(members, real)?;
            self.backend.write(self.step.slot, &[unseen.len() as f32])?;
            self.write_rates(at as f64 / batches as f64)?;
            self.backend.run_stages(Stage::Forward..=Stage::Update)?;
            unseen.push(real);
            if unseen.len() == patience || at == batches - 1 {
                let losses = self.backend.read(self.step.losses)?;
                for (&real, loss) in unseen.iter().zip(losses) {
                    if !loss.is_finite() {
                        return Ok(loss.into());
                    }
                    total += f64::from(loss) * real as f64;
                    bar.step(real, Some(loss.into()));
                }
                unseen.clear();
            }
        }
        Ok(total / frames as f64)
    }

    /// The `real` first of `members` are patterns of this step, the others padding.
    fn write_batch(&mut self, members: &[usize], real: usize) -> Result<()> {
        let index: Vec<f32> = members.iter().map(|&i| i as f32).collect();
        self.backend.write(self.step.index, &index)?;
        self.backend.write(self.step.member, &index)?;
        let weight = |b: usize| if b < real { 1.0 / real as f32 } else { 0.0 };
        let weights: Vec<f32> = (0..members.len()).map(weight).collect();
        self.backend.write(self.step.weight, &weights)
    }

    /// Counts one more step of the optimiser, and writes its rates.
    fn write_rates(&mut self, within: f64) -> Result<()> {
        self.state.step += 1;
        let t = i32::try_from(self.state.step).unwrap_or(i32::MAX);
        let biases = BETAS.map(|beta| (1.0 - beta.powi(t)) as f32);
        let (factor, rates) = (self.rate(within), self.options.rates);
        let probe_rms = (self.power / (self.side * self.side) as f64).sqrt();
        for &(group, control) in &self.step.rates {
            let rate = match group {
                Group::Object => rates.object,
                Group::Probe => rates.probe * probe_rms,
                Group::Positions => rates.positions,
                Group::Exposure => rates.frame_scale,
                Group::Background => rates.background * self.rms_pattern,
                Group::Network => unreachable!("there is no network"),
            };
            self.backend.write(control, &[(factor * rate) as f32, biases[0], biases[1]])?;
        }
        Ok(())
    }

    /// What is put right on the host between two epochs.
    fn tidy(&mut self) -> Result<()> {
        if self.options.refine_positions {
            let limit = self.options.max_shift as f32;
            let mut shifts = self.backend.read(self.step.shifts)?;
            for (shift, &first) in shifts.iter_mut().zip(&self.first_shifts) {
                *shift = shift.clamp(first - limit, first + limit);
            }
            self.backend.write(self.step.shifts, &shifts)?;
        }
        Ok(())
    }

    /// Whether the loss has stopped falling.
    fn stands_still(&self) -> bool {
        let losses = &self.state.losses;
        let Some(earlier) = losses.len().checked_sub(self.options.patience + 1) else {
            return false;
        };
        let least = |losses: &[f64]| losses.iter().copied().fold(f64::INFINITY, f64::min);
        let (before, now) = (least(&losses[..=earlier]), least(&losses[earlier + 1..]));
        let still = now > before * (1.0 - self.options.tolerance);
        if still {
            log::info!(
                "stopping: the loss has fallen by less than {:.2} % in {} epochs (--tolerance, \
                 --patience)",
                100.0 * self.options.tolerance,
                self.options.patience
            );
        }
        still
    }

    fn snapshot(&mut self, loss: f64) -> Result<Snapshot> {
        let roles = [Role::Param, Role::Moment1, Role::Moment2];
        let kept: Vec<Value> =
            roles.iter().flat_map(|&r| self.step.plan.of_role(r)).map(|(v, _)| v).collect();
        let values = kept.into_iter().map(|v| Ok((v, self.backend.read(v)?)));
        Ok(Snapshot { values: values.collect::<Result<_>>()?, loss })
    }

    /// Back to the last good state, with half the rates.
    fn step_back(&mut self, good: &Snapshot, loss: f64) -> Result<()> {
        self.state.halvings += 1;
        if self.state.halvings > MOST_HALVINGS {
            return Err(Error::Run(format!(
                "the loss is {loss} in epoch {}, however small the steps are (the rates were \
                 halved {MOST_HALVINGS} times): check the probe, the mask and the positions with \
                 `inspect`",
                self.state.epoch + 1
            )));
        }
        for (v, values) in &good.values {
            self.backend.write(*v, values)?;
        }
        self.state.damping *= 0.5;
        log::warn!(
            "the loss rose to {loss:.4} in epoch {}: back to the last good state, with rates \
             halved to {:.4} of those asked for",
            self.state.epoch + 1,
            self.state.damping
        );
        Ok(())
    }

    /// [P, N, N] in the gauge of the file.
    fn read_probe(&mut self) -> Result<Array3<Complex32>> {
        let shape = (self.options.modes, self.side, self.side);
        let values = self.backend.read(self.step.probe)?;
        let values = values.chunks_exact(2).map(|z| Complex32::new(z[0], z[1])).collect();
        let probe = Array3::from_shape_vec(shape, values).expect("a whole probe");
        let probe = checkerboard(probe.view(), 1.0 / self.gauge);
        Ok(if self.options.modes > 1 { modes::orthogonal(probe.view()) } else { probe })
    }

    /// Gains and background, if they were solved for.
    fn exposure(&mut self) -> Result<Exposure> {
        let n = self.side;
        let gains = self.step.gains.map(|v| self.backend.read(v)).transpose()?;
        let root = self.step.background.map(|v| self.backend.read(v)).transpose()?;
        let background = root.map(|root| {
            Array2::from_shape_fn((n, n), |(y, x)| root[(y * n + x) % root.len()].powi(2))
        });
        let gains = gains.map(|gains| gains.into_iter().map(f64::from).collect());
        Ok(Exposure { gains, background })
    }

    /// The reconstruction as it is now, in the gauge of the file.
    pub fn finish(&mut self) -> Result<Reconstruction> {
        let gauge = self.gauge as f32;
        let object = self.backend.read(self.step.canvas)?;
        let object = object.chunks_exact(2).map(|z| Complex32::new(gauge * z[0], gauge * z[1]));
        let shape = (self.canvas.height, self.canvas.width);
        let mut object = Array2::from_shape_vec(shape, object.collect()).expect("a whole canvas");
        let probe = self.read_probe()?;
        let shifts = self.backend.read(self.step.shifts)?;
        let positions = positions(&self.corners, &shifts, &self.canvas, self.side);
        let mut weights = illumination(&probe, &positions, &self.canvas);
        let largest = weights.iter().copied().fold(0.0, f32::max);
        for (object, weight) in object.iter_mut().zip(&mut weights) {
            if *weight <= DARK * largest {
                (*object, *weight) = (Complex32::default(), 0.0);
            }
        }
        let consistency = Array2::zeros(shape);
        Ok(Reconstruction {
            stitched: Stitched { object, weights, consistency },
            canvas: self.canvas,
            probe,
            probe_trained: self.options.refine_probe,
            indices: self.start.indices.clone(),
            positions,
            gauge: self.gauge,
            input_scale: None,
            exposure: self.exposure()?,
        })
    }
}

/// An error where the device has no room for the plan.
fn check_budget(step: &Solver, device: &Chosen) -> Result<()> {
    let needed = step.plan.bytes();
    match device.budget(None)? {
        Some(budget) if budget < needed => Err(Error::Device(format!(
            "the reconstruction needs {:.0} MB of buffers, but {device} has {:.0} MB: use a \
             smaller --batch-size or --device cpu",
            needed as f64 * 1e-6,
            budget as f64 * 1e-6
        ))),
        _ => Ok(()),
    }
}

/// Whole corners (column, row) of the patches on the canvas, and what is left of the positions.
fn places(positions: &[Position], canvas: &Canvas, side: usize) -> (Vec<[i64; 2]>, Vec<f32>) {
    let half = (side / 2) as f64;
    let corner = |p: &Position| {
        let [y, x] = canvas.origin_yx.map(|o| o as f64);
        [p.x - half - x, p.y - half - y]
    };
    let exact: Vec<[f64; 2]> = positions.iter().map(corner).collect();
    let whole = exact.iter().map(|c| c.map(|c| c.floor() as i64)).collect();
    let part = exact.iter().flatten().map(|c| (c - c.floor()) as f32).collect();
    (whole, part)
}

/// The opposite of [`places`].
fn positions(corners: &[[i64; 2]], shifts: &[f32], canvas: &Canvas, side: usize) -> Vec<Position> {
    let half = (side / 2) as i64;
    let at =
        |corner: i64, origin: i64, shift: f32| (corner + origin + half) as f64 + f64::from(shift);
    let [y, x] = canvas.origin_yx;
    corners
        .iter()
        .zip(shifts.chunks_exact(2))
        .map(|(c, s)| Position { x: at(c[0], x, s[0]), y: at(c[1], y, s[1]) })
        .collect()
}

fn flat(z: &Array3<Complex32>) -> Vec<f32> {
    z.iter().flat_map(|z| [z.re, z.im]).collect()
}

/// A known object on `canvas` in the engine's gauge; where it is not known, its mean.
fn onto(start: &StartObject, canvas: &Canvas, gauge: f64) -> Vec<f32> {
    let known = || start.object.iter().zip(&start.weights).filter(|(_, w)| **w > 0.0);
    let count = known().count().max(1) as f32;
    let mean: Complex32 = known().map(|(z, _)| z / count).sum();
    let [dy, dx] = [0, 1].map(|i| (canvas.origin_yx[i] as f64 - start.origin_yx[i]).round() as i64);
    let at = |y: usize, x: usize| {
        let index = [usize::try_from(y as i64 + dy).ok()?, usize::try_from(x as i64 + dx).ok()?];
        let weight = start.weights.get(index)?;
        (*weight > 0.0).then(|| start.object[index])
    };
    let mut values = Vec::with_capacity(2 * canvas.height * canvas.width);
    for y in 0..canvas.height {
        for x in 0..canvas.width {
            let z = at(y, x).unwrap_or(mean) / gauge as f32;
            values.extend([z.re, z.im]);
        }
    }
    values
}

/// Σ_i Σ_p |P_p|² on the canvas, each probe at its nearest whole pixel.
fn illumination(probe: &Array3<Complex32>, positions: &[Position], canvas: &Canvas) -> Array2<f32> {
    let lit = probe_intensity(probe.view());
    let n = lit.nrows();
    let corner = |p: f64, origin: i64| p.round() as i64 - origin - (n / 2) as i64;
    let corners: Vec<[i64; 2]> = positions
        .iter()
        .map(|p| [corner(p.y, canvas.origin_yx[0]), corner(p.x, canvas.origin_yx[1])])
        .collect();
    let mut sum = Array2::<f32>::zeros((canvas.height, canvas.width));
    let rows = sum.as_slice_mut().expect("an array made by zeros is contiguous");
    rows.par_chunks_mut(canvas.width).enumerate().for_each(|(y, row)| {
        for &[top, left] in &corners {
            let line = usize::try_from(y as i64 - top).ok().filter(|&line| line < n);
            let Some(line) = line else { continue };
            for (x, &p) in (left..).zip(lit.row(line)) {
                if let Some(cell) = usize::try_from(x).ok().and_then(|x| row.get_mut(x)) {
                    *cell += p;
                }
            }
        }
    });
    sum
}
