//! Inner loops of the convolution: portable ones, and AVX2 or AVX-512 for f32, chosen at run time.
//! Beside them stands what the same registers do at most.
//!
//! All of them add in the same order. The vector units round once per multiply-add, and so agree
//! to the last bit with each other; the portable loops round twice.

use super::layout::{LANES, OUTPUTS};
use super::winograd::Winograd;
use crate::backend::cpu::Real;

#[cfg(target_arch = "x86_64")]
#[path = "simd_avx2.rs"]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[path = "simd_avx512.rs"]
mod avx512;

/// Packed blocks of six output channels that one tile covers at most.
pub const BLOCKS: usize = 2;

/// Vectors of 8 pixels of one tile.
pub const VECTORS: usize = 4;

/// Elements of one tile, [12][4][8].
pub const TILE: usize = BLOCKS * OUTPUTS * VECTORS * LANES;

/// Input channels whose products are added in registers before they join the tile: shorter sums
/// round less. (With one long sum, f32 gradients of the reference cases were off by up to 7e-3
/// where a maximum tipped over; with this, by 4e-4.)
const BLOCK: usize = 16;

/// What a tile reads: padded planes of one sample and packed weights.
#[derive(Clone, Copy)]
pub struct Correlation<'a, T> {
    /// [I][plane].
    pub x: &'a [T],
    pub plane: usize,
    /// Distance of each tap from the first.
    pub taps: &'a [usize],
    /// One or two blocks of [I][taps][6].
    pub w: &'a [T],
}

impl<T> Correlation<'_, T> {
    fn channels(&self) -> usize {
        self.x.len() / self.plane
    }

    /// Weights of one block.
    fn block_len(&self) -> usize {
        self.channels() * self.taps.len() * OUTPUTS
    }

    /// Panics unless all reads of a tile at `offsets` are inside of x and w.
    fn check(&self, offsets: &[usize; VECTORS]) {
        let farthest = |places: &[usize]| places.iter().max().copied().unwrap_or(0);
        assert!(farthest(offsets) + farthest(self.taps) + LANES <= self.plane);
        assert!((1..=BLOCKS).any(|blocks| self.w.len() == blocks * self.block_len()));
    }
}

/// A tile of the correlation, called as (correlation, offsets, tile):
///
/// tile[o][v][l] = Σ_i Σ_t w[i][t][o] · x[i · plane + offsets[v] + taps[t] + l]
pub type Tile<T> = fn(&Correlation<T>, &[usize; VECTORS], &mut [T; TILE]);

/// Some rows of the weight gradient, called as (rows, lanes):
///
/// lanes[u][v][o][l] += Σ_{(p, q)} Σ_n dz[p + channels[o] + 8 n + l] · x[q + u · stride + v + 8 n + l]
pub type WeightRows<T> = fn(&Rows<T>, &mut [T]);

/// Rows of the gradient of six output channels and of one input channel that belong together.
pub struct Rows<'a, T> {
    pub dz: &'a [T],
    /// Where each output channel lies, from the place of a row. Past the last channel, it again.
    pub channels: [usize; OUTPUTS],
    /// How many of them are wanted.
    pub outputs: usize,
    pub x: &'a [T],
    /// Side of the filter, and elements between two rows.
    pub side: usize,
    pub stride: usize,
    /// Vectors per row.
    pub vectors: usize,
    pub lines: Lines,
}

impl<T> Rows<'_, T> {
    /// Panics unless all reads are inside of dz and x, and all sums inside of `lanes`.
    fn check(&self, lanes: &[T]) {
        let (p, q) = self.lines.last();
        let channel = self.channels.iter().max().copied().unwrap_or(0);
        let end = (self.side - 1) * (self.stride + 1) + self.vectors * LANES;
        assert!(p + channel + self.vectors * LANES <= self.dz.len());
        assert!(q + end <= self.x.len());
        assert!(lanes.len() == self.side * self.side * OUTPUTS * LANES);
    }
}

/// Consecutive rows of a batch: where each begins in the gradient (p) and in the input (q).
#[derive(Clone, Copy)]
pub struct Lines {
    /// First row, counted over the batch, and number of rows.
    pub first: usize,
    pub count: usize,
    /// Rows of an image.
    pub height: usize,
    /// Elements between two rows.
    pub stride: usize,
    /// Elements of a sample of gradient and input.
    pub samples: (usize, usize),
    /// Where the first row of the first sample begins.
    pub starts: (usize, usize),
}

impl Lines {
    fn place(&self, line: usize) -> (usize, usize) {
        let (sample, row) = (line / self.height, line % self.height);
        let at = |len: usize, start: usize| sample * len + start + row * self.stride;
        (at(self.samples.0, self.starts.0), at(self.samples.1, self.starts.1))
    }

    /// The farthest row: samples follow each other without overlap.
    fn last(&self) -> (usize, usize) {
        self.place(self.first + self.count.max(1) - 1)
    }

    fn iter(self) -> impl Iterator<Item = (usize, usize)> {
        (self.first..self.first + self.count).map(move |line| self.place(line))
    }
}

/// Multiply-adds in registers, called as (x, a, b, steps): x ← a x + b so many times.
pub type Chains<T> = fn(&mut [T], T, T, usize);

/// Elements that fill the registers of any unit with chains of multiply-adds: 12 vectors of 16
/// lanes, more than are under way at a time.
pub const FULL: usize = 12 * 16;

/// The inner loops for one element type on this machine.
pub struct Kernels<T> {
    pub winograd: Winograd<T>,
    pub tile: Tile<T>,
    pub weight_rows: WeightRows<T>,
    pub chains: Chains<T>,
}

/// Loops that any machine runs.
pub const fn kernels_portable<T: Real>() -> Kernels<T> {
    let (tile, weight_rows, chains) = (tile_portable, weight_rows_portable, chains_portable);
    Kernels { tile, weight_rows, chains, winograd: Winograd::PORTABLE }
}

/// All loops for f32 that this machine runs, with their names, the fastest first.
pub fn kernels_f32() -> Vec<(&'static str, Kernels<f32>)> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
            found.push(("AVX-512", avx512::KERNELS));
        }
        found.push(("AVX2", avx2::KERNELS));
    }
    found.push(("portable", kernels_portable()));
    found
}

fn tile_portable<T: Real>(c: &Correlation<T>, offsets: &[usize; VECTORS], tile: &mut [T; TILE]) {
    tile.fill(T::zero());
    let tiles = tile.chunks_exact_mut(OUTPUTS * VECTORS * LANES);
    for (w, tile) in c.w.chunks_exact(c.block_len()).zip(tiles) {
        let mut weights = w.chunks_exact(OUTPUTS);
        for block in c.x.chunks(BLOCK * c.plane) {
            let mut sums = [[[T::zero(); LANES]; VECTORS]; OUTPUTS];
            for x in block.chunks_exact(c.plane) {
                for (&tap, w) in c.taps.iter().zip(&mut weights) {
                    for (v, &offset) in offsets.iter().enumerate() {
                        let x = &x[offset + tap..][..LANES];
                        for (o, &w) in w.iter().enumerate() {
                            let sums = &mut sums[o][v];
                            (0..LANES).for_each(|l| sums[l] += w * x[l]);
                        }
                    }
                }
            }
            tile.iter_mut().zip(sums.as_flattened().as_flattened()).for_each(|(t, &s)| *t += s);
        }
    }
}

fn weight_rows_portable<T: Real>(rows: &Rows<T>, lanes: &mut [T]) {
    for (p, q) in rows.lines.iter() {
        for (u, lanes) in lanes.chunks_exact_mut(rows.side * OUTPUTS * LANES).enumerate() {
            for (v, lanes) in lanes.chunks_exact_mut(OUTPUTS * LANES).enumerate() {
                for n in 0..rows.vectors {
                    let x = &rows.x[q + u * rows.stride + v + n * LANES..][..LANES];
                    let sums = lanes.chunks_exact_mut(LANES).zip(&rows.channels);
                    for (sums, &channel) in sums.take(rows.outputs) {
                        let dz = &rows.dz[p + channel + n * LANES..][..LANES];
                        (0..LANES).for_each(|l| sums[l] += dz[l] * x[l]);
                    }
                }
            }
        }
    }
}

fn chains_portable<T: Real>(x: &mut [T], a: T, b: T, steps: usize) {
    chains::<T, { FULL / 4 }>(x, steps, |x| a * x + b);
}

/// `steps` times `step` on every element, N at a time in registers.
#[inline(always)]
fn chains<T: Real, const N: usize>(x: &mut [T], steps: usize, step: impl Fn(T) -> T) {
    for x in x.chunks_mut(N) {
        let mut chain = [T::zero(); N];
        chain[..x.len()].copy_from_slice(x);
        for _ in 0..steps {
            chain.iter_mut().for_each(|x| *x = step(*x));
        }
        x.copy_from_slice(&chain[..x.len()]);
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::random::{Purpose, Stream};

    fn noise(len: usize, index: u32) -> Vec<f32> {
        let mut stream = Stream::new(7, Purpose::Noise, index);
        (0..len).map(|_| (stream.uniform() - 0.5) as f32).collect()
    }

    /// The loops of this machine but for the portable ones, which round twice.
    fn vectorised() -> Vec<(&'static str, Kernels<f32>)> {
        let mut found = kernels_f32();
        found.pop();
        found
    }

    #[test]
    fn every_vector_unit_gives_the_same_bits_and_the_portable_loops_nearly_so() {
        let (plane, taps, channels) = (200, [0, 1, 2, 24, 25, 26], 21);
        for (blocks, offsets) in [(1, [0, 8, 16, 24]), (2, [3, 35, 80, 88])] {
            let (x, w) = (noise(channels * plane, 0), noise(blocks * channels * 36, 1));
            let c = Correlation { x: &x, plane, taps: &taps, w: &w };
            let run = |kernels: &Kernels<f32>| {
                let mut tile = [f32::NAN; TILE];
                (kernels.tile)(&c, &offsets, &mut tile);
                tile[..blocks * TILE / BLOCKS].to_vec()
            };
            let want = run(&kernels_portable());
            for (name, kernels) in vectorised() {
                let got = run(&kernels);
                assert_eq!(got, run(&vectorised()[0].1), "{name}");
                let far = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
                assert!(far < 1e-5, "{name}: {far}");
            }
        }
    }

    #[test]
    fn chains_have_the_same_bits_on_every_vector_unit_and_go_to_one() {
        let start = noise(2 * FULL + 5, 4);
        let run = |kernels: &Kernels<f32>, steps| {
            let mut x = start.clone();
            (kernels.chains)(&mut x, 0.75, 0.25, steps);
            x
        };
        let want: Vec<f32> = start.iter().map(|x| 1.0 + (x - 1.0) * 0.75f32.powi(3)).collect();
        for (name, kernels) in kernels_f32() {
            let got = run(&kernels, 3);
            let far = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
            assert!(far < 1e-6, "{name}: {far}");
            assert!(run(&kernels, 100).iter().all(|x| (x - 1.0).abs() < 1e-6), "{name}");
        }
        let all: Vec<_> = vectorised().iter().map(|(_, kernels)| run(kernels, 7)).collect();
        assert!(all.iter().all(|x| *x == all[0]));
    }

    #[test]
    fn weight_gradients_have_the_same_bits_on_every_vector_unit() {
        let (height, stride, vectors) = (5, 32, 2);
        let plane = (height + 2) * stride;
        let (dz, x) = (noise(3 * 6 * plane, 2), noise(3 * plane, 3));
        for (outputs, side) in [(6, 3), (2, 3), (6, 1), (2, 1)] {
            let rows = Rows {
                dz: &dz,
                channels: std::array::from_fn(|o| o.min(outputs - 1) * plane),
                outputs,
                x: &x,
                side,
                stride,
                vectors,
                lines: Lines {
                    first: 2,
                    count: 11,
                    height,
                    stride,
                    samples: (6 * plane, plane),
                    starts: (stride + 8, 7),
                },
            };
            let run = |kernels: &Kernels<f32>| {
                let mut lanes = vec![0.5; side * side * OUTPUTS * LANES];
                (kernels.weight_rows)(&rows, &mut lanes);
                let channel = |at: &usize| at / LANES % OUTPUTS < outputs;
                (0..lanes.len()).filter(channel).map(|at| lanes[at]).collect::<Vec<_>>()
            };
            let want = run(&kernels_portable());
            for (name, kernels) in vectorised() {
                let got = run(&kernels);
                assert_eq!(got, run(&vectorised()[0].1), "{name}");
                let far = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
                assert!(far < 1e-5, "{name}: {far}");
            }
        }
    }
}
