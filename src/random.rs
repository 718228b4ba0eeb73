//! Counter-based randomness: (seed, purpose, epoch, index) → value, the same on every machine,
//! backend and thread count.
//!
//! Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A value
//! depends on its coordinates alone, never on how many values were drawn before it, so a resumed
//! training or a second thread cannot change a bit.

/// What a stream is for. Streams of different purposes never overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    Selection = 1,
    Grouping = 2,
    Weights = 3,
    Shuffle = 4,
    Split = 5,
    Object = 6,
    Positions = 7,
    Noise = 8,
    Probe = 9,
}

/// One stream of random values.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    purpose: u32,
    epoch: u32,
    index: u64,
    block: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream of `purpose` in `epoch`; `epoch` is any second coordinate (a tensor, a frame).
    pub fn new(seed: u64, purpose: Purpose, epoch: u32) -> Stream {
        let key = [seed as u32, (seed >> 32) as u32];
        Stream { key, purpose: purpose as u32, epoch, index: 0, block: [0; 4], used: 4 }
    }

    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            let counter = [self.index as u32, (self.index >> 32) as u32, self.epoch, self.purpose];
            self.block = philox(counter, self.key);
            self.index += 1;
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// Uniform in [0, 1), with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        let (high, low) = (u64::from(self.next_u32()), u64::from(self.next_u32()));
        ((high << 21) ^ (low >> 11)) as f64 / (1u64 << 53) as f64
    }

    /// Uniform integer in [0, n). Panics when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "a range has at least one member");
        let bits = (u64::from(self.next_u32()) << 32) | u64::from(self.next_u32());
        ((u128::from(bits) * n as u128) >> 64) as usize
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Poisson with mean `mean` ≥ 0: multiplication of uniforms for small means, the transformed
    /// rejection of Hörmann, "The transformed rejection method for generating Poisson random
    /// variables" (1993), above 10.
    pub fn poisson(&mut self, mean: f64) -> u64 {
        if mean <= 0.0 {
            return 0;
        }
        if mean < 10.0 {
            let (limit, mut product, mut n) = ((-mean).exp(), self.uniform(), 0);
            while product > limit {
                product *= self.uniform();
                n += 1;
            }
            return n;
        }
        let b = 0.931 + 2.53 * mean.sqrt();
        let a = -0.059 + 0.02483 * b;
        let inverse_alpha = 1.1239 + 1.1328 / (b - 3.4);
        let v_r = 0.9277 - 3.6224 / (b - 2.0);
        loop {
            let u = self.uniform() - 0.5;
            let v = self.uniform();
            let us = 0.5 - u.abs();
            let k = ((2.0 * a / us + b) * u + mean + 0.43).floor();
            if us >= 0.07 && v <= v_r {
                return k as u64;
            }
            if k < 0.0 || (us < 0.013 && v > us) {
                continue;
            }
            let accept = (v * inverse_alpha / (a / (us * us) + b)).ln();
            if accept <= k * mean.ln() - mean - ln_factorial(k) {
                return k as u64;
            }
        }
    }

    /// A random order of 0..n (Fisher and Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// ln k! for whole k ≥ 0: a table below 10, Stirling's series above (error < 1e-10).
pub fn ln_factorial(k: f64) -> f64 {
    if k < 10.0 {
        return (2..=k as u64).map(|i| (i as f64).ln()).sum();
    }
    let x = k + 1.0;
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + 1.0 / (12.0 * x)
        - 1.0 / (360.0 * x.powi(3))
        + 1.0 / (1260.0 * x.powi(5))
}

fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(c[0]) * 0xD251_1F53;
        let p1 = u64::from(c[2]) * 0xCD9E_8D57;
        c = [
            (p1 >> 32) as u32 ^ c[1] ^ k[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ c[3] ^ k[1],
            p0 as u32,
        ];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with the Random123 library (philox4x32-10).
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = [u32::MAX; 4];
        assert_eq!(
            philox(ones, [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn poisson_has_the_mean_and_variance_of_its_parameter() {
        for mean in [0.3, 4.0, 9.9, 10.1, 60.0, 5000.0] {
            let mut stream = Stream::new(7, Purpose::Noise, 0);
            let n = 40_000;
            let draws: Vec<f64> = (0..n).map(|_| stream.poisson(mean) as f64).collect();
            let got = draws.iter().sum::<f64>() / n as f64;
            let variance = draws.iter().map(|x| (x - got).powi(2)).sum::<f64>() / n as f64;
            // Five standard errors of the mean; the variance's own error is about √(2/n) of it.
            assert!((got - mean).abs() < 5.0 * (mean / n as f64).sqrt(), "mean {got} of {mean}");
            assert!((variance / mean - 1.0).abs() < 0.06, "variance {variance} of {mean}");
        }
    }

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut order = Stream::new(1, Purpose::Shuffle, 3).permutation(100);
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
