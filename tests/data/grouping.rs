use proptest::prelude::*;
use ptycho_gpu::data::geometry::{Neighbours, distance};
use ptycho_gpu::data::grouping::reach;
use ptycho_gpu::data::{Groups, Npz, Position, default_neighbor_count};

use super::{outside, scattered};

/// The k nearest of pattern i by looking at all of them.
fn brute_force(positions: &[Position], i: usize, k: usize) -> Vec<(usize, f64)> {
    let mut all: Vec<(usize, f64)> = (0..positions.len())
        .filter(|&j| j != i)
        .map(|j| (j, distance(positions[i], positions[j])))
        .collect();
    all.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    all.truncate(k);
    all
}

fn sorted(group: &[usize]) -> Vec<usize> {
    let mut group = group.to_vec();
    group.sort_unstable();
    group
}

/// A group is a seed and neighbours of it exactly when one member has all others near.
fn has_seed(positions: &[Position], group: &[usize], k: usize) -> bool {
    group.iter().any(|&seed| {
        let near: Vec<usize> = brute_force(positions, seed, k).iter().map(|n| n.0).collect();
        group.iter().all(|member| *member == seed || near.contains(member))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_grid_finds_the_neighbours_that_brute_force_finds(
        n in 1usize..120, k in 0usize..12, seed in any::<u64>(), lattice in any::<bool>(), thin in any::<bool>(),
    ) {
        let mut positions = scattered(n, seed);
        for p in &mut positions {
            // Lattices have ties and repeats; a line has no area.
            if lattice { *p = Position { x: (p.x / 5.0).floor(), y: (p.y / 5.0).floor() }; }
            if thin { p.y = 3.0; }
        }
        let grid = Neighbours::new(&positions);
        for i in 0..n {
            prop_assert_eq!(grid.nearest(i, k), brute_force(&positions, i, k));
        }
    }

    #[test]
    fn groups_are_neighbours_in_rows_and_within_reach(
        n in 9usize..60, g in 2usize..4, extra in 0usize..6, seed in any::<u64>(), epoch in 0u32..4,
    ) {
        let positions = scattered(n, seed);
        let k = g * g - 1 + extra;
        let groups = Groups::build(&positions, g, k, None, seed, epoch).unwrap();
        prop_assert_eq!(groups.len(), n);
        let again = Groups::build(&positions, g, k, None, seed, epoch).unwrap();
        prop_assert_eq!(&groups, &again);
        for i in 0..groups.len() {
            let group = groups.group(i);
            let mut members = sorted(group);
            members.dedup();
            prop_assert_eq!(members.len(), g * g);
            prop_assert!(has_seed(&positions, group, k));
            for row in group.chunks(g) {
                prop_assert!(row.is_sorted_by(|&a, &b| positions[a].x <= positions[b].x));
            }
            let lowest = |row: &[usize]| row.iter().map(|&m| positions[m].y).fold(f64::MAX, f64::min);
            let highest = |row: &[usize]| row.iter().map(|&m| positions[m].y).fold(f64::MIN, f64::max);
            let rows: Vec<&[usize]> = group.chunks(g).collect();
            prop_assert!(rows.windows(2).all(|pair| highest(pair[0]) <= lowest(pair[1])));
        }
        let bound = reach(&positions, g, k).unwrap() + 1e-9;
        prop_assert!(groups.largest_offset(&positions) <= bound);
        let covering = Groups::covering(&positions, g, k).unwrap();
        prop_assert!(covering.largest_offset(&positions) <= bound);
        let covered: std::collections::BTreeSet<_> = covering.members.iter().copied().collect();
        prop_assert_eq!(covered.len(), n);
        prop_assert!(covering.len() <= n);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn shared_groups_hold_every_pattern_and_few_of_them_twice(
        n in 16usize..80, seed in any::<u64>(), epoch in 0u32..4, g in 2usize..4,
    ) {
        let positions = scattered(n, seed);
        let k = 12;
        let share = |count, epoch| Groups::sharing(&positions, g, k, count, seed, epoch).unwrap();
        let groups = share(None, epoch);
        prop_assert_eq!(&groups, &share(None, epoch));
        // A few groups of nearly all patterns may come out the same by chance.
        if n > 4 * g * g {
            prop_assert_ne!(&groups, &share(None, epoch + 1));
        }
        let mut times = vec![0; n];
        for i in 0..groups.len() {
            let mut members = sorted(groups.group(i));
            prop_assert!(has_seed(&positions, &members, k));
            members.iter().for_each(|&m| times[m] += 1);
            members.dedup();
            prop_assert_eq!(members.len(), g * g);
        }
        prop_assert!(times.iter().all(|&t| t > 0), "{:?}", times);
        // Groups drawn around every pattern would hold each of them g² times.
        prop_assert!(groups.members.len() <= 3 * n, "{} of {n}", groups.members.len());
        prop_assert!(groups.largest_offset(&positions) <= reach(&positions, g, k).unwrap() + 1e-9);
        // As many as are wanted, from several covers if need be.
        for count in [1, 3 * n] {
            prop_assert_eq!(share(Some(count), epoch).len(), count);
        }
    }
}

#[test]
fn reach_is_attained_by_some_group() {
    let positions = scattered(12, 5);
    let bound = reach(&positions, 2, 4).unwrap();
    let largest = (0..200)
        .map(|epoch| {
            Groups::build(&positions, 2, 4, None, 1, epoch).unwrap().largest_offset(&positions)
        })
        .fold(0.0, f64::max);
    assert!((largest - bound).abs() < 1e-9, "{largest} of {bound}");
}

#[test]
fn epochs_and_seeds_give_different_groups() {
    let positions = scattered(40, 1);
    let build = |seed, epoch| Groups::build(&positions, 2, 6, None, seed, epoch).unwrap();
    assert_ne!(build(1, 0), build(1, 1));
    assert_ne!(build(1, 0), build(2, 0));
}

#[test]
fn gridsize_one_makes_every_pattern_a_group_and_never_more() {
    let positions = scattered(7, 1);
    let groups = Groups::build(&positions, 1, 6, Some(100), 1, 0).unwrap();
    assert_eq!((groups.members.clone(), groups.size), ((0..7).collect(), 1));
    assert_eq!(groups.offsets(3, &positions), [[0.0, 0.0]]);
    assert_eq!(reach(&positions, 1, 6).unwrap(), 0.0);
    let few = Groups::build(&positions, 1, 6, Some(3), 1, 0).unwrap();
    assert_eq!(few.len(), 3);
    assert!(few.members.is_sorted());
    assert_eq!(Groups::covering(&positions, 1, 6).unwrap().members, (0..7).collect::<Vec<_>>());
}

#[test]
fn oversampling_draws_different_groups_and_states_its_limit() {
    let positions = scattered(10, 3);
    // Each seed has 4 choose 3 = 4 different groups.
    let all = Groups::build(&positions, 2, 4, Some(40), 1, 0).unwrap();
    for seed in 0..10 {
        let draws: std::collections::BTreeSet<_> =
            (0..4).map(|i| sorted(all.group(4 * seed + i))).collect();
        assert_eq!(draws.len(), 4);
        assert!(draws.iter().all(|draw| draw.contains(&seed)));
    }
    let error = Groups::build(&positions, 2, 4, Some(41), 1, 0).unwrap_err().to_string();
    assert!(error.contains("at most 40"), "{error}");
}

#[test]
fn too_few_patterns_or_neighbours_are_refused_with_the_numbers() {
    let positions = scattered(8, 3);
    let complain = |g, k| Groups::build(&positions, g, k, None, 1, 0).unwrap_err().to_string();
    assert!(complain(3, 8).contains("8 patterns, but gridsize 3 groups 9"));
    assert!(complain(2, 2).contains("--neighbor-count is 2"));
    assert!(complain(0, 6).contains("gridsize is 0"));
    assert!(Groups::build(&positions, 2, 6, Some(0), 1, 0).is_err());
    assert!(Groups::build(&[], 1, 6, None, 1, 0).is_err());
    assert_eq!((default_neighbor_count(1), default_neighbor_count(3)), (6, 8));
    // More neighbours than there are patterns are all of them.
    assert_eq!(Groups::build(&positions, 2, 100, None, 1, 0).unwrap().len(), 8);
}

#[test]
fn offsets_survive_coordinates_far_from_the_origin() {
    let near = [(0.0, 0.0), (1.25, 0.0), (0.0, 1.5), (1.25, 1.5)];
    let far: Vec<Position> =
        near.iter().map(|&(x, y)| Position { x: x + 1e9, y: y - 1e9 }).collect();
    let groups = Groups::build(&far, 2, 3, Some(1), 1, 0).unwrap();
    let offsets = [[-0.625, -0.75], [0.625, -0.75], [-0.625, 0.75], [0.625, 0.75]];
    assert_eq!(groups.offsets(0, &far), offsets);
    assert_eq!(groups.centre(0, &far), Position { x: 1e9 + 0.625, y: 0.75 - 1e9 });
}

#[test]
fn neighbours_and_offsets_match_the_reference_vectors() {
    let Some(golden) = outside("PTYCHO_GOLDEN", "golden") else { return };
    let mut npz = Npz::open(golden.join("grouping/grouping.npz")).unwrap();
    let (x, y) = (npz.f64("xcoords").unwrap(), npz.f64("ycoords").unwrap());
    let positions: Vec<Position> = x.iter().zip(&y).map(|(&x, &y)| Position { x, y }).collect();
    let grid = Neighbours::new(&positions);
    let distances = npz.f64("knn12_dist").unwrap();
    for (i, row) in distances.outer_iter().enumerate() {
        // Column 0 is the pattern itself.
        for (theirs, (_, ours)) in row.iter().skip(1).zip(grid.nearest(i, 12)) {
            assert!((theirs - ours).abs() < 1e-9, "pattern {i}: {ours}, expected {theirs}");
        }
    }
    let bound = reach(&positions, 2, 6).unwrap();
    for case in ["gs2_K6_all_seed3", "gs2_K6_n64_seed7"] {
        let indices = npz.i64(&format!("{case}.nn_indices")).unwrap();
        let members: Vec<usize> = indices.iter().map(|&i| i as usize).collect();
        let groups = Groups { members, size: 4 };
        let centres = npz.f64(&format!("{case}.coords_offsets")).unwrap();
        let relative = npz.f64(&format!("{case}.coords_relative")).unwrap();
        for i in 0..groups.len() {
            let centre = groups.centre(i, &positions);
            assert!((centre.x - centres[[i, 0, 0, 0]]).abs() < 1e-9);
            assert!((centre.y - centres[[i, 0, 1, 0]]).abs() < 1e-9);
            for (c, offset) in groups.offsets(i, &positions).iter().enumerate() {
                // The reference stores them with the opposite sign.
                assert!((f64::from(offset[0]) + relative[[i, 0, 0, c]]).abs() < 1e-6);
                assert!((f64::from(offset[1]) + relative[[i, 0, 1, c]]).abs() < 1e-6);
            }
        }
    }
    assert!(bound > 1.0 && bound < 20.0, "reach of {bound} pixels");
}
