//! Checks of plain values: finite, not negative, not dark.

use ndarray::{Array2, ArrayView2, ArrayView3};

use super::check::Problem;
use super::units::WholeSquares;

/// Types up to one byte reach their largest value in ordinary use; in wider ones it is a marker.
const BYTE: f64 = 255.0;

/// What there is to know of all patterns [M, N, N], in whatever parts they come.
#[derive(Clone, Debug)]
pub struct Census {
    /// The largest value of the file's type, where reaching it means something.
    limit: Option<f64>,
    patterns: usize,
    non_finite: Tally,
    negative: Tally,
    /// Patterns that are 0 everywhere.
    dark: Tally,
    saturated: usize,
    /// Every value is a whole number.
    pub whole: bool,
    pub squares: WholeSquares,
    pub largest: f32,
    /// Σ v², and Σ √v².
    sums: [f64; 2],
}

/// How many there are, and where the first is.
#[derive(Clone, Debug, Default)]
struct Tally {
    count: usize,
    first: Vec<usize>,
}

impl Tally {
    fn add(&mut self, at: &[usize]) {
        if self.count == 0 {
            self.first = at.to_vec();
        }
        self.count += 1;
    }
}

impl Census {
    /// Of no pattern yet; `limit` is the largest value of the file's type, if unsigned.
    pub fn new(limit: Option<f64>) -> Census {
        Census {
            limit: limit.filter(|&limit| limit > BYTE),
            patterns: 0,
            non_finite: Tally::default(),
            negative: Tally::default(),
            dark: Tally::default(),
            saturated: 0,
            whole: true,
            squares: WholeSquares::default(),
            largest: 0.0,
            sums: [0.0; 2],
        }
    }

    /// How many patterns it has been shown.
    pub fn patterns(&self) -> usize {
        self.patterns
    }

    /// Counts the next patterns.
    pub fn add(&mut self, patterns: ArrayView3<f32>) {
        let saturation = self.limit.map_or(f32::INFINITY, |limit| limit as f32);
        for pattern in patterns.outer_iter() {
            if pattern.iter().any(|v| !(v.is_finite() && *v >= 0.0)) {
                self.add_bad(pattern);
            }
            let (mut dark, mut whole) = (true, true);
            for &v in pattern {
                dark &= v == 0.0;
                let v_whole = is_whole(v);
                whole &= v_whole;
                self.squares.add(v, v_whole);
                self.saturated += usize::from(v >= saturation);
                self.largest = self.largest.max(v);
                self.sums[0] += f64::from(v).powi(2);
                self.sums[1] += f64::from(v.sqrt()).powi(2);
            }
            self.whole &= whole;
            if dark {
                self.dark.add(&[self.patterns]);
            }
            self.patterns += 1;
        }
    }

    /// Counts what no detector gives in the next pattern.
    fn add_bad(&mut self, pattern: ArrayView2<f32>) {
        for ((y, x), &v) in pattern.indexed_iter() {
            let at = [self.patterns, y, x];
            if !v.is_finite() {
                self.non_finite.add(&at);
            }
            if v < 0.0 {
                self.negative.add(&at);
            }
        }
    }

    /// Σ a² per pattern, averaged over the patterns, of the values or of their `roots`.
    pub fn mean_energy(&self, roots: bool) -> f64 {
        self.sums[usize::from(roots)] / self.patterns.max(1) as f64
    }

    /// What is wrong with the patterns, which the file calls `key`.
    pub fn problems(&self, key: &str) -> Vec<Problem> {
        let bad = |tally: &Tally| (tally.count > 0).then(|| (tally.count, tally.first.clone()));
        let non_finite = bad(&self.non_finite).map(|(count, first)| Problem::NonFinite {
            key: key.to_owned(),
            count,
            first,
        });
        let negative = bad(&self.negative).map(|(count, first)| Problem::Negative {
            key: key.to_owned(),
            count,
            first,
        });
        let bad: Vec<Problem> = [non_finite, negative].into_iter().flatten().collect();
        if !bad.is_empty() {
            return bad;
        }
        let (patterns, count) = (self.patterns, self.dark.count);
        if count == patterns {
            return vec![Problem::AllDark { patterns }];
        }
        let mut problems = Vec::new();
        if let Some(&first) = self.dark.first.first() {
            problems.push(Problem::DarkPatterns { count, patterns, first });
        }
        if let Some(limit) = self.limit.filter(|_| self.saturated > 0) {
            problems.push(Problem::Saturated { count: self.saturated, limit });
        }
        problems
    }
}

/// Whether a finite value is a whole number; as `fract` says it, which is a call on most processors.
fn is_whole(v: f32) -> bool {
    // From 2^24 on there are no others.
    v as i32 as f32 == v || v.abs() >= 16_777_216.0
}

/// Sets the pixels of a frame that the mask ignores to 0: they may hold anything, NaN too.
pub fn silence<'a>(frame: impl IntoIterator<Item = &'a mut f32>, mask: &Array2<f32>) {
    for (value, &weight) in frame.into_iter().zip(mask) {
        if weight == 0.0 {
            *value = 0.0;
        }
    }
}

/// The NaN and infinite among indexed values.
pub fn non_finite<const AXES: usize>(
    key: &str,
    values: impl Iterator<Item = ([usize; AXES], f32)>,
) -> Option<Problem> {
    let (count, first) = count(values, |v| !v.is_finite())?;
    Some(Problem::NonFinite { key: key.to_owned(), count, first })
}

/// The negative among indexed values.
pub fn negative<const AXES: usize>(
    key: &str,
    values: impl Iterator<Item = ([usize; AXES], f32)>,
) -> Option<Problem> {
    let (count, first) = count(values, |v| v < 0.0)?;
    Some(Problem::Negative { key: key.to_owned(), count, first })
}

/// How many values are `bad`, and where the first is.
fn count<const AXES: usize>(
    values: impl Iterator<Item = ([usize; AXES], f32)>,
    bad: fn(f32) -> bool,
) -> Option<(usize, Vec<usize>)> {
    let mut hits = values.filter(|&(_, v)| bad(v));
    let (first, _) = hits.next()?;
    Some((1 + hits.count(), first.to_vec()))
}
