//! Checks of plain values: finite, not negative, not dark.

use ndarray::{Array2, Array3, Axis};

use super::check::Problem;

/// Types up to one byte reach their largest value in ordinary use; in wider ones it is a marker.
const BYTE: f64 = 255.0;

/// Problems of patterns [M, N, N]; `limit` is the largest value of the file's type, if unsigned.
pub fn check(key: &str, values: &Array3<f32>, limit: Option<f64>) -> Vec<Problem> {
    let indexed = || values.indexed_iter().map(|((m, y, x), &v)| ([m, y, x], v));
    let bad: Vec<Problem> =
        [non_finite(key, indexed()), negative(key, indexed())].into_iter().flatten().collect();
    if !bad.is_empty() {
        return bad;
    }
    let patterns = values.dim().0;
    let dark: Vec<usize> = (0..patterns)
        .filter(|&m| values.index_axis(Axis(0), m).iter().all(|&v| v == 0.0))
        .collect();
    let mut problems = Vec::new();
    match dark.first() {
        Some(_) if dark.len() == patterns => return vec![Problem::AllDark { patterns }],
        Some(&first) => {
            problems.push(Problem::DarkPatterns { count: dark.len(), patterns, first });
        }
        None => {}
    }
    if let Some(limit) = limit.filter(|&limit| limit > BYTE) {
        let count = values.iter().filter(|&&v| v >= limit as f32).count();
        if count > 0 {
            problems.push(Problem::Saturated { count, limit });
        }
    }
    problems
}

/// Sets the pixels that the mask ignores to 0 in every pattern: they may hold anything, NaN too.
pub fn silence(values: &mut Array3<f32>, mask: &Array2<f32>) {
    for mut pattern in values.outer_iter_mut() {
        pattern.zip_mut_with(mask, |value, &weight| {
            if weight == 0.0 {
                *value = 0.0;
            }
        });
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
