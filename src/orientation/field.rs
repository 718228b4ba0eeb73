//! The centres of mass of the frames as a vector field over the positions, and its rotation.

use rayon::prelude::*;

use super::turn::Turn;
use crate::data::geometry::Neighbours;
use crate::data::scan::Scan;

/// Neighbours whose centres of mass give the derivative at a pattern.
const NEIGHBOURS: usize = 8;

/// Neighbours that lie on a line to this part of their spread give no derivative across it.
const FLAT: f64 = 1e-3;

/// Where, and the centre of mass there.
type Point = ([f64; 2], [f64; 2]);

/// Derivatives of the centre of mass by the position.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// ∂(c_x, c_y)/∂(x, y) in detector pixels per object pixel: \[row\]\[column\], where it is known.
    jacobians: Vec<[[f64; 2]; 2]>,
}

impl Field {
    /// Of all patterns of `scan`, by least squares over the nearest neighbours of each.
    pub fn of(scan: &Scan) -> Field {
        let centres: Vec<Option<[f64; 2]>> =
            (0..scan.len()).into_par_iter().map(|i| centre_of_mass(scan, i)).collect();
        let neighbours = Neighbours::new(&scan.positions);
        let jacobian = |i: usize| {
            let near = neighbours.nearest(i, NEIGHBOURS);
            let here = scan.positions[i];
            let point = |j: usize| {
                let p = scan.positions[j];
                Some(([p.x - here.x, p.y - here.y], centres[j]?))
            };
            let points: Vec<_> =
                [i].into_iter().chain(near.into_iter().map(|(j, _)| j)).filter_map(point).collect();
            slope(&points)
        };
        Field { jacobians: (0..scan.len()).into_par_iter().filter_map(jacobian).collect() }
    }

    /// Share of the rotation in rotation² + divergence², with the frames turned by `turn`: 0 for
    /// the gradient of a potential. None where the field is constant or no derivative is known.
    pub fn curl_share(&self, turn: Turn) -> Option<f64> {
        let (mut curl, mut divergence) = (0.0, 0.0);
        for [[xx, xy], [yx, yy]] in &self.jacobians {
            let by_x = turn.vector([*xx, *yx]);
            let by_y = turn.vector([*xy, *yy]);
            curl += (by_x[1] - by_y[0]).powi(2);
            divergence += (by_x[0] + by_y[1]).powi(2);
        }
        let sum = curl + divergence;
        (sum > 0.0).then(|| curl / sum)
    }
}

/// (x, y) in pixels from the corner, weighted by intensity; a dark pattern has none.
fn centre_of_mass(scan: &Scan, index: usize) -> Option<[f64; 2]> {
    let (mut total, mut x_sum, mut y_sum) = (0.0, 0.0, 0.0);
    for ((y, x), &a) in scan.amplitude.held().index_axis(ndarray::Axis(0), index).indexed_iter() {
        let intensity = f64::from(a).powi(2);
        total += intensity;
        x_sum += intensity * x as f64;
        y_sum += intensity * y as f64;
    }
    (total > 0.0).then(|| [x_sum / total, y_sum / total])
}

/// J of value = constant + J place, by least squares.
fn slope(points: &[Point]) -> Option<[[f64; 2]; 2]> {
    let count = points.len().max(1) as f64;
    let mean = |of: &dyn Fn(&Point) -> f64| points.iter().map(of).sum::<f64>() / count;
    let place = [mean(&|p| p.0[0]), mean(&|p| p.0[1])];
    let value = [mean(&|p| p.1[0]), mean(&|p| p.1[1])];
    let ([mut xx, mut xy, mut yy], mut right) = ([0.0; 3], [[0.0; 2]; 2]);
    for (p, c) in points {
        let [x, y] = [p[0] - place[0], p[1] - place[1]];
        (xx, xy, yy) = (xx + x * x, xy + x * y, yy + y * y);
        for (i, sums) in right.iter_mut().enumerate() {
            let c = c[i] - value[i];
            *sums = [sums[0] + x * c, sums[1] + y * c];
        }
    }
    let determinant = xx * yy - xy * xy;
    let usable = determinant > FLAT * (xx + yy).powi(2);
    usable.then(|| {
        right.map(|[x, y]| [(yy * x - xy * y) / determinant, (xx * y - xy * x) / determinant])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hessian of a potential, in the orientation that `wrong` leaves it in.
    fn field(hessians: &[[f64; 3]], wrong: Turn) -> Field {
        let jacobian = |&[xx, xy, yy]: &[f64; 3]| {
            let (by_x, by_y) = (wrong.vector([xx, xy]), wrong.vector([xy, yy]));
            [[by_x[0], by_y[0]], [by_x[1], by_y[1]]]
        };
        Field { jacobians: hessians.iter().map(jacobian).collect() }
    }

    #[test]
    fn the_field_of_a_potential_has_no_rotation_in_the_right_orientation_alone() {
        let hessians = [[1.0, 0.5, -0.3], [0.2, -0.8, 0.9], [-0.4, 0.1, 1.3]];
        for wrong in Turn::all() {
            let field = field(&hessians, wrong);
            for turn in Turn::all() {
                let share = field.curl_share(turn).unwrap();
                let right = turn == wrong.inverse() || turn == wrong.inverse().twin();
                assert_eq!(share < 1e-20, right, "{wrong:?} undone by {turn:?}: {share}");
            }
        }
        let quarter = Turn { transpose: true, flip_x: false, flip_y: true };
        assert!(field(&hessians, quarter).curl_share(Turn::NONE).unwrap() > 1.0 - 1e-12);
        assert_eq!(field(&[[0.0; 3]], Turn::NONE).curl_share(Turn::NONE), None);
    }

    #[test]
    fn a_linear_field_has_its_slope_and_a_line_has_none() {
        let at = |x: f64, y: f64| ([x, y], [1.0 + 2.0 * x - y, 0.5 * x + 3.0 * y]);
        let points = [at(0.0, 0.0), at(1.0, 0.2), at(-0.3, 1.0), at(0.7, -0.9)];
        let slope = slope(&points).unwrap();
        for (row, want) in slope.iter().zip([[2.0, -1.0], [0.5, 3.0]]) {
            assert!((row[0] - want[0]).abs() < 1e-12 && (row[1] - want[1]).abs() < 1e-12);
        }
        assert_eq!(super::slope(&[at(0.0, 0.0), at(1.0, 1.0), at(2.0, 2.0)]), None);
    }
}
