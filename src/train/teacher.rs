//! A reconstruction as the teacher of a network: what it says of the object, the probe and the
//! positions is taken for the truth.

use std::path::Path;

use ndarray::{Array2, ArrayView2, ArrayView3, s};
use num_complex::Complex32;

use crate::data::scan::{Position, Scan};
use crate::models::physics::probe_intensity;
use crate::reconstruction::Saved;
use crate::stitch;
use crate::{Error, Result};

/// Share of the light on a patch that must fall where the teacher knows the object.
const KNOWN: f32 = 0.99;

/// What a reconstruction says, in the gauge of the scan's file.
#[derive(Clone, Copy, Debug)]
pub struct Teacher<'a> {
    /// For messages.
    pub path: &'a Path,
    /// [H, W].
    pub object: ArrayView2<'a, Complex32>,
    /// [H, W], 0 where the object is not known.
    pub weights: ArrayView2<'a, f32>,
    /// Object coordinates (row, column) of pixel (0, 0).
    pub origin_yx: [f64; 2],
    /// [P, N, N].
    pub probe: ArrayView3<'a, Complex32>,
    /// [M'] refined positions of the patterns `indices`.
    pub positions: &'a [Position],
    pub indices: &'a [usize],
}

impl<'a> Teacher<'a> {
    /// `path` is where `saved` was read from.
    pub fn new(path: &'a Path, saved: &'a Saved) -> Teacher<'a> {
        Teacher {
            path,
            object: saved.object.view(),
            weights: saved.weights.view(),
            origin_yx: saved.origin_yx,
            probe: saved.probe.view(),
            positions: &saved.positions,
            indices: &saved.indices,
        }
    }

    /// The patterns of `scan` whose patches are known, with these patches as labels and with the
    /// teacher's probe and positions.
    ///
    /// # Errors
    /// [`Error::Input`] if the reconstruction is not one of this scan, or covers no patch.
    pub fn teach(&self, scan: &Scan) -> Result<Scan> {
        let n = scan.side();
        let (_, side, _) = self.probe.dim();
        let last = self.indices.iter().copied().max();
        let problem = if side != n {
            format!("its probe is {side}×{side} pixels, but the patterns are {n}×{n}")
        } else if last.is_some_and(|last| last >= scan.len()) {
            let (last, count) = (last.unwrap_or_default(), scan.len());
            format!("it used pattern {last}, but the scan has only {count} patterns")
        } else {
            let known: Vec<usize> = self.known(n);
            if !known.is_empty() {
                return self.labelled(scan, &known);
            }
            "it covers no patch of the scan".to_owned()
        };
        let path = scan.source.path.display();
        let problem = format!("{problem}: give a reconstruction of {path}");
        Err(Error::input(self.path, problem))
    }

    /// Which of the teacher's patterns have a patch that is known where it is lit.
    fn known(&self, n: usize) -> Vec<usize> {
        let light = probe_intensity(self.probe);
        let total: f32 = light.sum();
        let known = |&i: &usize| self.light_on_known(&light, self.positions[i], n) >= KNOWN * total;
        let known: Vec<usize> = (0..self.positions.len()).filter(known).collect();
        let rest = self.positions.len() - known.len();
        if rest > 0 && !known.is_empty() {
            log::info!("{rest} patterns at the rim of the teacher's object are not learned from");
        }
        known
    }

    fn light_on_known(&self, light: &Array2<f32>, at: Position, n: usize) -> f32 {
        let corner = |centre: f64, origin: f64| (centre - origin).round() as i64 - (n / 2) as i64;
        let (top, left) = (corner(at.y, self.origin_yx[0]), corner(at.x, self.origin_yx[1]));
        let (height, width) = self.weights.dim();
        // The part of the patch that lies on the canvas.
        let part = |first: i64, size: usize| {
            let from = first.clamp(0, size as i64);
            let to = (first + n as i64).clamp(0, size as i64);
            (from as usize..to as usize, (from - first) as usize)
        };
        let ((rows, skip_rows), (columns, skip_columns)) = (part(top, height), part(left, width));
        let lit = light.slice(s![
            skip_rows..skip_rows + rows.len(),
            skip_columns..skip_columns + columns.len()
        ]);
        let weights = self.weights.slice(s![rows, columns]);
        lit.iter().zip(weights).filter(|(_, w)| **w > 0.0).map(|(l, _)| l).sum()
    }

    fn labelled(&self, scan: &Scan, known: &[usize]) -> Result<Scan> {
        let patterns: Vec<usize> = known.iter().map(|&i| self.indices[i]).collect();
        let positions: Vec<Position> = known.iter().map(|&i| self.positions[i]).collect();
        let [top, left] = self.origin_yx;
        let moved = |p: &Position| Position { x: p.x - left, y: p.y - top };
        let on_canvas: Vec<Position> = positions.iter().map(moved).collect();
        let labels = stitch::extract(self.object, [0, 0], &on_canvas, scan.side())?;
        let probe = self.probe.to_owned();
        Ok(Scan { positions, probe, labels: Some(labels), ..scan.subset(&patterns)? })
    }
}
