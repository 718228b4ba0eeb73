//! A problem on a device: what is written before a run, and what is read after it.

use std::collections::VecDeque;

use ndarray::{Array2, Array3, Axis};
use num_complex::Complex32;
use rayon::prelude::*;

use super::run::State;
use super::{Options, Start, StartObject, modes as beams};
use crate::backend::{Backend, Chosen};
use crate::data::scan::{Position, Scan};
use crate::graph::{Role, Value};
use crate::models::object::{self, Design, Sizes, Solver};
use crate::models::physics::{checkerboard, probe_intensity};
use crate::reconstruction::{Exposure, Reconstruction};
use crate::stitch::{Canvas, Stitched};
use crate::{Error, Result};

/// ε of the Poisson loss, photons per pixel.
const EPSILON_PHOTONS: f64 = 1e-6;

/// The root of the background starts at this part of a pattern's rms: at 0 it would not move.
const FIRST_BACKGROUND: f64 = 0.01;

/// Canvas pixels that carry less than this part of the largest illumination are not known.
const DARK: f32 = 1e-6;

/// A problem on a device, and how far it has come.
pub(super) struct Job<'a> {
    pub options: &'a Options,
    pub start: &'a Start,
    pub step: Solver,
    pub backend: Box<dyn Backend>,
    /// Patterns in a step.
    pub batch: usize,
    /// Patterns that the device cannot hold.
    pub streamed: Option<Streamed>,
    /// Of all positions, with room for them to move.
    canvas: Canvas,
    /// Column and row of each patch's first pixel on the canvas.
    corners: Vec<[i64; 2]>,
    /// What the positions add to that at the start.
    pub first_shifts: Vec<f32>,
    /// The engine's probe is this times the file's.
    gauge: f64,
    /// Σ|P|² in the engine's gauge.
    pub power: f64,
    pub side: usize,
    /// P.
    pub modes: usize,
    /// Root mean square of the measured amplitudes.
    pub rms_pattern: f64,
    pub state: State,
}

/// Patterns that stay on the host; batches take turns in the two halves of the device's buffer.
pub(super) struct Streamed {
    frames: Value,
    all: Vec<f32>,
    staged: Vec<f32>,
    pixels: usize,
    half: usize,
}

impl Streamed {
    /// Uploads `members`, and says where in the buffer they are.
    pub fn upload(&mut self, backend: &mut dyn Backend, members: &[usize]) -> Result<Vec<usize>> {
        self.half = 1 - self.half;
        self.staged.clear();
        for &i in members {
            self.staged.extend(&self.all[i * self.pixels..][..self.pixels]);
        }
        backend.upload(self.half, &[(self.frames, self.staged.as_slice())])?;
        let first = self.half * members.len();
        Ok((first..first + members.len()).collect())
    }
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
        let modes = options.modes.unwrap_or(start.probe.dim().0);
        check_size(&canvas, modes * side * side, options.batch(start.indices.len()))?;
        let (step, stream) = plan(scan, start, options, [canvas.height, canvas.width], device)?;
        let backend = device.open(step.plan.clone())?;
        let probe = beams::with_count(start.probe.view(), modes);
        let power: f64 = probe.iter().map(|z| f64::from(z.norm_sqr())).sum();
        let energy = scan.mean_energy();
        let (corners, first_shifts) = places(&start.positions, &canvas, side);
        let mut job = Job {
            options,
            start,
            backend,
            batch: step.plan.slots[step.buffers.weight.0].len(),
            step,
            streamed: None,
            canvas,
            corners,
            first_shifts,
            gauge: (energy / power).sqrt(),
            power: energy,
            side,
            modes,
            rms_pattern: (energy / (side * side) as f64).sqrt(),
            state: State::default(),
        };
        job.write_scan(scan, stream)?;
        job.write_start(&probe)?;
        Ok(job)
    }

    /// What stays the same for the whole run.
    fn write_scan(&mut self, scan: &Scan, stream: bool) -> Result<()> {
        let (step, backend, n) = (&self.step, self.backend.as_mut(), self.side);
        let mut frames = Vec::with_capacity(self.start.indices.len() * n * n);
        let patterns = scan.amplitude.in_memory()?;
        for &i in &self.start.indices {
            frames.extend(patterns.index_axis(Axis(0), i).iter());
        }
        if stream {
            let (staged, pixels) = (Vec::new(), n * n);
            let streamed =
                Streamed { frames: step.buffers.frames, all: frames, staged, pixels, half: 0 };
            self.streamed = Some(streamed);
        } else {
            backend.write(step.buffers.frames, &frames)?;
        }
        let mask = scan.mask.clone().unwrap_or_else(|| Array2::ones((n, n)));
        backend.write(step.buffers.mask, &mask.iter().copied().collect::<Vec<f32>>())?;
        backend.write(step.buffers.dose, &vec![scan.dose.kappa as f32; self.batch])?;
        backend.write(step.buffers.scan, &vec![0.0; self.batch])?;
        backend.write(step.buffers.seed, &[1.0])?;
        let corners: Vec<f32> = self.corners.iter().flatten().map(|&c| c as f32).collect();
        backend.write(step.buffers.corners, &corners)
    }

    /// What is solved for, as it starts.
    fn write_start(&mut self, probe: &Array3<Complex32>) -> Result<()> {
        let (step, backend) = (&self.step, self.backend.as_mut());
        let canvas = match &self.start.object {
            None => [1.0, 0.0].repeat(self.canvas.height * self.canvas.width),
            Some(object) => onto(object, &self.canvas, self.gauge),
        };
        backend.write(step.buffers.canvas, &canvas)?;
        let probe = checkerboard(probe.view(), self.gauge);
        backend.write(
            step.buffers.probe,
            &probe.iter().flat_map(|z| [z.re, z.im]).collect::<Vec<_>>(),
        )?;
        backend.write(step.buffers.shifts, &self.first_shifts)?;
        if let Some(gains) = step.buffers.gains {
            backend.write(gains, &vec![1.0; self.start.indices.len()])?;
        }
        if let Some(root) = step.buffers.background {
            let start = (FIRST_BACKGROUND * self.rms_pattern) as f32;
            backend.write(root, &vec![start; step.plan.slots[root.0].len()])?;
        }
        if let (Some(v), Some(limit)) = (step.limit, self.options.amplitude_limit) {
            backend.write(v, &[(limit / self.gauge) as f32])?;
        }
        // The grids of the smooth parts need no start: their gradient sets them to 0.
        for role in [Role::Moment1, Role::Moment2] {
            for (v, slot) in step.plan.of_role(role) {
                backend.write(v, &vec![0.0; slot.len()])?;
            }
        }
        Ok(())
    }

    /// [P, N, N] as the engine holds it.
    pub fn engine_probe(&mut self) -> Result<Array3<Complex32>> {
        let shape = (self.modes, self.side, self.side);
        let values = self.backend.read(self.step.buffers.probe)?;
        let values = values.chunks_exact(2).map(|z| Complex32::new(z[0], z[1])).collect();
        Ok(Array3::from_shape_vec(shape, values).expect("a whole probe"))
    }

    /// [P, N, N] in the gauge of the file.
    pub fn read_probe(&mut self) -> Result<Array3<Complex32>> {
        Ok(checkerboard(self.engine_probe()?.view(), 1.0 / self.gauge))
    }

    /// Gains and background, if they were solved for.
    fn exposure(&mut self) -> Result<Exposure> {
        let n = self.side;
        let gains = self.step.buffers.gains.map(|v| self.backend.read(v)).transpose()?;
        let root = self.step.buffers.background.map(|v| self.backend.read(v)).transpose()?;
        let background = root.map(|root| {
            Array2::from_shape_fn((n, n), |(y, x)| root[(y * n + x) % root.len()].powi(2))
        });
        let gains = gains.map(|gains| gains.into_iter().map(f64::from).collect());
        Ok(Exposure { gains, background })
    }

    /// The reconstruction as it is now, in the gauge of the file.
    pub fn finish(&mut self) -> Result<Reconstruction> {
        let gauge = self.gauge as f32;
        let object = self.backend.read(self.step.buffers.canvas)?;
        let object = object.chunks_exact(2).map(|z| Complex32::new(gauge * z[0], gauge * z[1]));
        let shape = (self.canvas.height, self.canvas.width);
        let mut object = Array2::from_shape_vec(shape, object.collect()).expect("a whole canvas");
        let probe = self.read_probe()?;
        let shifts = self.backend.read(self.step.buffers.shifts)?;
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

/// An error where the kernels cannot count the pixels of the canvas, or of the exit waves of a step, each of so many
/// `pixels`: they have 31 bits for the numbers of a buffer.
fn check_size(canvas: &Canvas, pixels: usize, batch: usize) -> Result<()> {
    let most = i32::MAX as usize / 2;
    if canvas.pixels() > most as u64 {
        return Err(Error::Run(format!(
            "an object of {} × {} pixels is more than can be solved for: are the coordinates in object pixels, and is \
             there a stray one?",
            canvas.height, canvas.width
        )));
    }
    if batch > most / pixels {
        return Err(Error::Config(format!(
            "--batch-size is {batch}, but at most {} patterns with this probe can be computed at once",
            most / pixels
        )));
    }
    Ok(())
}

/// The plan of a step, and whether patterns are streamed: where the device cannot hold all.
fn plan(
    scan: &Scan,
    start: &Start,
    options: &Options,
    canvas: [usize; 2],
    device: &Chosen,
) -> Result<(Solver, bool)> {
    let design = Design {
        loss: options.loss,
        epsilon_photons: EPSILON_PHOTONS,
        probe: options.refine_probe,
        positions: options.refine_positions,
        gains: options.frame_scale,
        background: options.background,
        tv: options.tv,
        amplitude_limit: options.amplitude_limit.is_some(),
        smooth: options.rates.smooth > 0.0,
    };
    let (frames, modes) = (start.indices.len(), options.modes.unwrap_or(start.probe.dim().0));
    let mut sizes = Sizes {
        batch: options.batch(frames),
        frames,
        held: frames,
        side: scan.side(),
        modes,
        canvas,
        typical: scan.mean_count_per_pixel(),
    };
    let whole = object::solver(&design, &sizes);
    let budget = device.budget(options.device_memory_limit)?;
    let Some(budget) = budget.filter(|&budget| budget < whole.plan.bytes()) else {
        return Ok((whole, false));
    };
    sizes.held = 2 * sizes.batch;
    let few = object::solver(&design, &sizes);
    let mega = |bytes: usize| bytes as f64 * 1e-6;
    if few.plan.bytes() > budget {
        return Err(Error::Device(format!(
            "the reconstruction needs {:.0} MB of buffers, {:.0} MB with patterns streamed, but \
             may take {:.0} MB: use a smaller --batch-size, a higher --device-memory-limit, or \
             --device cpu",
            mega(whole.plan.bytes()),
            mega(few.plan.bytes()),
            mega(budget)
        )));
    }
    log::info!("{:.0} MB do not fit: patterns are streamed", mega(whole.plan.bytes()));
    Ok((few, true))
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

/// A known object on `canvas` in the engine's gauge; where it is not known, what the nearest known
/// pixels are, so that there is no edge for the patterns to see.
fn onto(start: &StartObject, canvas: &Canvas, gauge: f64) -> Vec<f32> {
    let [dy, dx] = [0, 1].map(|i| (canvas.origin_yx[i] as f64 - start.origin_yx[i]).round() as i64);
    let at = |y: usize, x: usize| {
        let index = [usize::try_from(y as i64 + dy).ok()?, usize::try_from(x as i64 + dx).ok()?];
        let weight = start.weights.get(index)?;
        (*weight > 0.0).then(|| start.object[index])
    };
    let (height, width) = (canvas.height, canvas.width);
    let mut pixels: Vec<Option<Complex32>> =
        (0..height * width).map(|i| at(i / width, i % width)).collect();
    // Outwards from the known pixels, one ring of neighbours after the other.
    let mut ring: VecDeque<usize> = (0..pixels.len()).filter(|&i| pixels[i].is_some()).collect();
    while let Some(i) = ring.pop_front() {
        let (y, x) = (i / width, i % width);
        let beside = [
            (y > 0).then(|| i - width),
            (x > 0).then(|| i - 1),
            (x + 1 < width).then(|| i + 1),
            (y + 1 < height).then(|| i + width),
        ];
        for neighbour in beside.into_iter().flatten() {
            if pixels[neighbour].is_none() {
                pixels[neighbour] = pixels[i];
                ring.push_back(neighbour);
            }
        }
    }
    let ones = Complex32::new(gauge as f32, 0.0);
    let pixels = pixels.into_iter().map(|z| z.unwrap_or(ones) / gauge as f32);
    pixels.flat_map(|z| [z.re, z.im]).collect()
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
