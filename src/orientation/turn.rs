//! The eight symmetries of a square, of frames and of positions.

use ndarray::{Array2, ArrayView2};
use serde::{Serialize, Serializer};

/// One of the 8 ways to lay a square on itself: (x, y) → (y, x) if `transpose`, and then the signs.
///
/// For a frame, the pixel at column x and row y moves there, counted from the middle of the frame; for
/// positions, the coordinates change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Turn {
    /// Rows and columns change places, before the flips.
    pub transpose: bool,
    /// x → −x: left and right change places.
    pub flip_x: bool,
    /// y → −y: top and bottom change places.
    pub flip_y: bool,
}

impl Turn {
    /// Nothing is changed.
    pub const NONE: Turn = Turn { transpose: false, flip_x: false, flip_y: false };

    /// All eight; [`Turn::NONE`] first, every second one the twin of the one before it.
    pub fn all() -> [Turn; 8] {
        let turn = |transpose, flip_x, flip_y| Turn { transpose, flip_x, flip_y };
        [
            Turn::NONE,
            turn(false, true, true),
            turn(false, true, false),
            turn(false, false, true),
            turn(true, false, false),
            turn(true, true, true),
            turn(true, false, true),
            turn(true, true, false),
        ]
    }

    /// This turn and another half turn: what no pattern can tell from it.
    pub fn twin(self) -> Turn {
        Turn { flip_x: !self.flip_x, flip_y: !self.flip_y, ..self }
    }

    /// What undoes this turn.
    pub fn inverse(self) -> Turn {
        match self.transpose {
            false => self,
            true => Turn { flip_x: self.flip_y, flip_y: self.flip_x, ..self },
        }
    }

    /// Where a vector (x, y) goes.
    pub fn vector(self, [x, y]: [f64; 2]) -> [f64; 2] {
        let (x, y) = if self.transpose { (y, x) } else { (x, y) };
        [if self.flip_x { -x } else { x }, if self.flip_y { -y } else { y }]
    }

    /// A square array [N, N], turned about its middle, which lies between two pixels for even N: zero
    /// frequency moves from N/2 to N/2 − 1 along a flipped axis.
    pub fn frame<T: Copy>(self, frame: ArrayView2<T>) -> Array2<T> {
        let last = frame.nrows() - 1;
        self.moved(frame, |i| last - i)
    }

    /// A square array [N, N], turned about pixel (N/2, N/2), with row and column 0 wrapped around.
    pub fn about_pixel<T: Copy>(self, image: ArrayView2<T>) -> Array2<T> {
        let side = image.nrows();
        // For even N, −(i − N/2) + N/2 = N − i.
        self.moved(image, |i| (2 * (side / 2) + side - i) % side)
    }

    fn moved<T: Copy>(self, image: ArrayView2<T>, opposite: impl Fn(usize) -> usize) -> Array2<T> {
        assert_eq!(image.nrows(), image.ncols(), "only squares are turned");
        Array2::from_shape_fn(image.dim(), |(y, x)| {
            let x = if self.flip_x { opposite(x) } else { x };
            let y = if self.flip_y { opposite(y) } else { y };
            if self.transpose { image[[x, y]] } else { image[[y, x]] }
        })
    }

    /// What happens to a frame, in words: "flipped left-right".
    pub fn words(self) -> &'static str {
        match (self.transpose, self.flip_x, self.flip_y) {
            (false, false, false) => "as they are",
            (false, true, false) => "flipped left-right",
            (false, false, true) => "flipped up-down",
            (false, true, true) => "turned by 180°",
            (true, false, false) => "transposed",
            (true, false, true) => "turned by 90° counter-clockwise",
            (true, true, false) => "turned by 90° clockwise",
            (true, true, true) => "transposed about the other diagonal",
        }
    }

    /// The flags that turn frames so on reading: first `--transpose`, then `--flip`, then `--rotate`
    /// counter-clockwise. Empty for [`Turn::NONE`].
    pub fn frame_flags(self) -> &'static str {
        match (self.transpose, self.flip_x, self.flip_y) {
            (false, false, false) => "",
            (false, true, false) => "--flip lr",
            (false, false, true) => "--flip ud",
            (false, true, true) => "--rotate 180",
            (true, false, false) => "--transpose",
            (true, false, true) => "--rotate 90",
            (true, true, false) => "--rotate 270",
            (true, true, true) => "--transpose --rotate 180",
        }
    }

    /// The flags that turn positions so: first `--swap-xy`, then the flips. Empty for [`Turn::NONE`].
    pub fn position_flags(self) -> String {
        let flags =
            [(self.transpose, "--swap-xy"), (self.flip_x, "--flip-x"), (self.flip_y, "--flip-y")];
        let given: Vec<&str> = flags.into_iter().filter(|(on, _)| *on).map(|(_, f)| f).collect();
        given.join(" ")
    }
}

impl Serialize for Turn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.words())
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Axis, arr2};

    use super::*;

    #[test]
    fn a_turn_and_its_inverse_leave_a_frame_as_it_was() {
        let frame = arr2(&[[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]);
        for turn in Turn::all() {
            let there = turn.frame(frame.view());
            assert_eq!(turn.inverse().frame(there.view()), frame, "{turn:?}");
            assert_eq!(turn.inverse().vector(turn.vector([1.0, 2.0])), [1.0, 2.0]);
            let about = turn.about_pixel(frame.view());
            assert_eq!(about[[2, 2]], frame[[2, 2]], "{turn:?} keeps pixel (N/2, N/2)");
            assert_eq!(turn.inverse().about_pixel(about.view()), frame, "{turn:?}");
        }
    }

    #[test]
    fn words_and_flags_say_what_happens_to_a_frame() {
        let frame = arr2(&[[1, 2], [3, 4]]);
        let by_words = |words: &str| {
            let turn = Turn::all().into_iter().find(|t| t.words() == words).unwrap();
            turn.frame(frame.view())
        };
        assert_eq!(by_words("flipped left-right"), arr2(&[[2, 1], [4, 3]]));
        assert_eq!(by_words("flipped up-down"), arr2(&[[3, 4], [1, 2]]));
        assert_eq!(by_words("transposed"), arr2(&[[1, 3], [2, 4]]));
        assert_eq!(by_words("turned by 90° counter-clockwise"), arr2(&[[2, 4], [1, 3]]));
        assert_eq!(by_words("turned by 90° clockwise"), arr2(&[[3, 1], [4, 2]]));
        assert_eq!(by_words("turned by 180°"), arr2(&[[4, 3], [2, 1]]));
        assert_eq!(by_words("transposed about the other diagonal"), arr2(&[[4, 2], [3, 1]]));
        for turn in Turn::all() {
            assert_eq!(by_flags(frame.clone(), turn.frame_flags()), turn.frame(frame.view()));
        }
    }

    /// What the loader does: transpose, flip, then quarter turns counter-clockwise.
    fn by_flags(mut frame: Array2<i32>, flags: &str) -> Array2<i32> {
        let quarter = |frame: Array2<i32>| {
            let mut turned = frame.t().to_owned();
            turned.invert_axis(Axis(0));
            turned
        };
        if flags.contains("--transpose") {
            frame = frame.t().to_owned();
        }
        if flags.contains("--flip lr") {
            frame.invert_axis(Axis(1));
        }
        if flags.contains("--flip ud") {
            frame.invert_axis(Axis(0));
        }
        let degrees = flags.split("--rotate ").nth(1).map_or(0, |d| d.parse().unwrap());
        (0..degrees / 90).fold(frame, |frame, _| quarter(frame))
    }

    #[test]
    fn the_twin_is_half_a_turn_away() {
        for turn in Turn::all() {
            let [x, y] = turn.vector([1.0, 2.0]);
            assert_eq!(turn.twin().vector([1.0, 2.0]), [-x, -y]);
            assert_eq!(turn.twin().twin(), turn);
        }
        assert!(Turn::all().chunks(2).all(|pair| pair[0].twin() == pair[1]));
    }
}
