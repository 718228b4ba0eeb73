//! Groups of C = g² neighbouring patterns, which the network sees at once.

use std::collections::BTreeSet;

use log::info;

use super::geometry::Neighbours;
use super::scan::Position;
use crate::random::{Purpose, Stream};
use crate::{Error, Result};

/// Neighbours to draw from unless something else is asked for.
const NEIGHBOURS: usize = 6;

/// Groups of an epoch: their indices alone take gigabytes.
pub(crate) const MOST_DRAWN: usize = 1 << 28;

/// `NEIGHBOURS`, or as many as a group of `gridsize`² needs.
pub fn default_neighbor_count(gridsize: usize) -> usize {
    NEIGHBOURS.max(gridsize.saturating_mul(gridsize).saturating_sub(1))
}

/// Pattern indices in groups of equal size. Within a group the order is spatial: rows of g from low
/// to high y, each from low to high x.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// [G, C], flat.
    pub members: Vec<usize>,
    /// C.
    pub size: usize,
}

impl Groups {
    /// Groups for one epoch of training: each is a seed pattern and C − 1 of its `neighbor_count`
    /// nearest neighbours, drawn without replacement. Every pattern is a seed, or `n_groups` of
    /// them; above M, patterns are seeds repeatedly, each time with a different draw. With g = 1
    /// every pattern is a group of its own, and there are never more than M.
    ///
    /// The same arguments give the same groups. Fails when C patterns or C − 1 neighbours are not to
    /// be had, or when `n_groups` exceeds the number of different draws.
    pub fn build(
        positions: &[Position],
        gridsize: usize,
        neighbor_count: usize,
        n_groups: Option<usize>,
        seed: u64,
        epoch: u32,
    ) -> Result<Groups> {
        let pool = Pool::new(positions, gridsize, neighbor_count)?;
        let patterns = positions.len();
        let mut wanted = n_groups.unwrap_or(patterns);
        if wanted == 0 {
            return Err(Error::Config("0 groups were asked for, expected at least 1".to_owned()));
        }
        if pool.size == 1 && wanted > patterns {
            info!(
                "{wanted} groups of one pattern were asked for, the scan has {patterns}: using {patterns}"
            );
            wanted = patterns;
        }
        let most = pool.draws().saturating_mul(patterns);
        if wanted > MOST_DRAWN {
            return Err(Error::Config(format!(
                "{wanted} groups were asked for, but at most {MOST_DRAWN} can be held: ask for fewer"
            )));
        }
        if wanted > most {
            return Err(Error::Config(format!(
                "{wanted} groups were asked for, but {patterns} patterns with {} neighbours each \
                 give at most {most} different ones: ask for fewer or raise --neighbor-count",
                pool.nearest
            )));
        }
        let mut stream = Stream::new(seed, Purpose::Grouping, epoch);
        let times = seeds(patterns, wanted, &mut stream);
        let mut members = Vec::with_capacity(wanted * pool.size);
        for (seed, &times) in times.iter().enumerate() {
            pool.draw(seed, times, &mut stream, &mut members);
        }
        Ok(Groups { members, size: pool.size })
    }

    /// Groups for inference: few of them, yet every pattern is in at least one. Nothing is random.
    pub fn covering(
        positions: &[Position],
        gridsize: usize,
        neighbor_count: usize,
    ) -> Result<Groups> {
        let pool = Pool::new(positions, gridsize, neighbor_count)?;
        let members = pool.cover(0..positions.len());
        Ok(Groups { members, size: pool.size })
    }

    /// Groups for one epoch of training that share out the scan: compact ones, every pattern in at
    /// least one of them and in few of them more than once; `n_groups` of them, from several covers
    /// if one is not enough.
    ///
    /// The same arguments give the same groups. Fails when C patterns or C − 1 neighbours are not to
    /// be had.
    pub fn sharing(
        positions: &[Position],
        gridsize: usize,
        neighbor_count: usize,
        n_groups: Option<usize>,
        seed: u64,
        epoch: u32,
    ) -> Result<Groups> {
        let pool = Pool::new(positions, gridsize, neighbor_count)?;
        if let Some(wanted) = n_groups.filter(|&wanted| wanted > MOST_DRAWN) {
            return Err(Error::Config(format!(
                "{wanted} groups were asked for, but at most {MOST_DRAWN} can be held: ask for fewer"
            )));
        }
        let mut stream = Stream::new(seed, Purpose::Grouping, epoch);
        let mut members = Vec::new();
        loop {
            let cover = pool.cover(stream.permutation(positions.len()));
            let count = cover.len() / pool.size;
            let have = members.len() / pool.size;
            let wanted = n_groups.map_or(count, |n| (n - have).min(count));
            // Which of them is as random as their order is not.
            for i in stream.permutation(count).into_iter().take(wanted) {
                members.extend(&cover[i * pool.size..(i + 1) * pool.size]);
            }
            if n_groups.is_none_or(|n| have + wanted == n) {
                return Ok(Groups { members, size: pool.size });
            }
        }
    }

    /// G.
    pub fn len(&self) -> usize {
        self.members.len().checked_div(self.size).unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The C patterns of group `i`.
    ///
    /// # Panics
    /// When `i` ≥ G.
    pub fn group(&self, i: usize) -> &[usize] {
        &self.members[i * self.size..(i + 1) * self.size]
    }

    /// Mean position of group `i`.
    pub fn centre(&self, i: usize, positions: &[Position]) -> Position {
        let n = self.size as f64;
        let sum = self
            .group(i)
            .iter()
            .fold((0.0, 0.0), |(x, y), &m| (x + positions[m].x, y + positions[m].y));
        Position { x: sum.0 / n, y: sum.1 / n }
    }

    /// (dx, dy) = position − centre for the members of group `i`, in pixels; the difference is taken
    /// in f64.
    pub fn offsets(&self, i: usize, positions: &[Position]) -> Vec<[f32; 2]> {
        let centre = self.centre(i, positions);
        let offset =
            |&m: &usize| [(positions[m].x - centre.x) as f32, (positions[m].y - centre.y) as f32];
        self.group(i).iter().map(offset).collect()
    }

    /// Largest |dx| or |dy| in these groups, in pixels: sizes a canvas that holds them.
    pub fn largest_offset(&self, positions: &[Position]) -> f64 {
        (0..self.len())
            .flat_map(|i| {
                let centre = self.centre(i, positions);
                self.group(i).iter().map(move |&m| {
                    (positions[m].x - centre.x).abs().max((positions[m].y - centre.y).abs())
                })
            })
            .fold(0.0, f64::max)
    }
}

/// Largest |dx| or |dy| that any group of any epoch can have, in pixels: the most extreme draw of
/// every seed and axis. A canvas sized by it once holds a whole training, and `covering` groups too.
pub fn reach(positions: &[Position], gridsize: usize, neighbor_count: usize) -> Result<f64> {
    let pool = Pool::new(positions, gridsize, neighbor_count)?;
    let mut reach = 0.0f64;
    for seed in 0..positions.len() {
        let near = pool.around(seed);
        for axis in [|p: Position| p.x, |p| -p.x, |p| p.y, |p| -p.y] as [fn(Position) -> f64; 4] {
            // Relative to the seed, which is in every group.
            let origin = axis(positions[seed]);
            let values = near.iter().map(|&i| axis(positions[i]) - origin).collect();
            reach = reach.max(largest_lead(values, pool.size));
        }
    }
    Ok(reach)
}

/// Largest lead of a member over the mean of its group along one axis, where a group is the seed at
/// 0 and `size` − 1 of `values`.
fn largest_lead(mut values: Vec<f64>, size: usize) -> f64 {
    let (n, drawn) = (size as f64, size - 1);
    if drawn == 0 {
        return 0.0;
    }
    values.sort_by(f64::total_cmp);
    let lowest = |count: usize| values[..count].iter().sum::<f64>();
    let seed_leads = -lowest(drawn) / n;
    let highest = values[values.len() - 1];
    let neighbour_leads = highest - (highest + lowest(drawn - 1)) / n;
    seed_leads.max(neighbour_leads)
}

/// How often each pattern is a seed: all equally often, the remainder chosen at random.
fn seeds(patterns: usize, wanted: usize, stream: &mut Stream) -> Vec<usize> {
    let mut times = vec![wanted / patterns; patterns];
    let rest = wanted % patterns;
    if rest > 0 {
        stream.permutation(patterns)[..rest].iter().for_each(|&seed| times[seed] += 1);
    }
    times
}

/// What groups are drawn from.
struct Pool<'a> {
    positions: &'a [Position],
    neighbours: Neighbours<'a>,
    /// K, at most all other patterns.
    nearest: usize,
    gridsize: usize,
    /// C.
    size: usize,
}

impl<'a> Pool<'a> {
    fn new(positions: &'a [Position], gridsize: usize, neighbor_count: usize) -> Result<Pool<'a>> {
        let size = gridsize.saturating_mul(gridsize);
        if size == 0 {
            return Err(Error::Config("gridsize is 0, expected 1 or more".to_owned()));
        }
        let (patterns, needed) = (positions.len(), size - 1);
        if patterns < size {
            return Err(Error::Config(format!(
                "the scan has {patterns} patterns, but gridsize {gridsize} groups {size} of them: \
                 use a smaller gridsize"
            )));
        }
        if neighbor_count < needed {
            return Err(Error::Config(format!(
                "--neighbor-count is {neighbor_count}, but a group of gridsize {gridsize} is a \
                 pattern and {needed} of its neighbours: use {needed} or more"
            )));
        }
        let neighbours = Neighbours::new(positions);
        let nearest = neighbor_count.min(patterns - 1);
        Ok(Pool { positions, neighbours, nearest, gridsize, size })
    }

    /// The K nearest neighbours of `seed`, nearest first; none where a group is one pattern.
    fn around(&self, seed: usize) -> Vec<usize> {
        if self.size == 1 {
            return Vec::new();
        }
        self.neighbours.nearest(seed, self.nearest).into_iter().map(|(i, _)| i).collect()
    }

    /// Groups of neighbours, flat, so that every pattern is in one: each pattern of `order` that
    /// nobody has taken takes the nearest ones that nobody has taken.
    fn cover(&self, order: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let mut covered = vec![false; self.positions.len()];
        let mut members = Vec::new();
        for seed in order {
            if covered[seed] {
                continue;
            }
            let mut near = self.around(seed);
            // Patterns that nobody has taken yet first, the nearest among them first (stable sort).
            near.sort_by_key(|&i| covered[i]);
            let mut group = vec![seed];
            group.extend(&near[..self.size - 1]);
            group.iter().for_each(|&i| covered[i] = true);
            members.extend(self.in_rows(group));
        }
        members
    }

    /// Number of different groups around one seed: C − 1 of K, saturating.
    fn draws(&self) -> usize {
        let taken = self.size - 1;
        let draws = (0..taken).try_fold(1u128, |n, i| {
            n.checked_mul((self.nearest - i) as u128).map(|n| n / (i as u128 + 1))
        });
        draws.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX)
    }

    /// Appends `times` different groups around `seed`.
    fn draw(&self, seed: usize, times: usize, stream: &mut Stream, members: &mut Vec<usize>) {
        if times == 0 {
            return;
        }
        let near = self.around(seed);
        let mut drawn = BTreeSet::new();
        while drawn.len() < times {
            let mut picks = pick(near.len(), self.size - 1, stream);
            picks.sort_unstable();
            if drawn.insert(picks.clone()) {
                let mut group = vec![seed];
                group.extend(picks.iter().map(|&pick| near[pick]));
                members.extend(self.in_rows(group));
            }
        }
    }

    /// Rows of g by y, each by x; ties by index.
    fn in_rows(&self, mut group: Vec<usize>) -> Vec<usize> {
        let key = |i: usize| self.positions[i];
        group.sort_by(|&a, &b| {
            key(a).y.total_cmp(&key(b).y).then(key(a).x.total_cmp(&key(b).x)).then(a.cmp(&b))
        });
        for row in group.chunks_mut(self.gridsize) {
            row.sort_by(|&a, &b| key(a).x.total_cmp(&key(b).x).then(a.cmp(&b)));
        }
        group
    }
}

/// `count` of 0..n without replacement, by the first steps of a shuffle.
fn pick(n: usize, count: usize, stream: &mut Stream) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    for i in 0..count {
        all.swap(i, i + stream.below(n - i));
    }
    all.truncate(count);
    all
}
