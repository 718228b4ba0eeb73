//! Images in words of two channels, as tensor cores multiply numbers of 16 bits.
//!
//! A word holds channels 2 p and 2 p + 1 of a pixel in bfloat16: [B, C, H, W] become words [B, C/2, H, W].
//! Kernel twin: `words` in `kernels/conv2d_bf16.cu`. The CPU has the image in its own precision, and uses
//! no words; nor does a GPU write the image where it can do without.

use super::{Conv2d, Conv2dBackward, Operation, tensor};
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Role, Step, Value};
use crate::launch::Launch;
use crate::ops::Op;

/// Makes words of an image.
#[derive(Clone, Debug)]
pub struct Words {
    image: Value,
    words: Value,
    channels: usize,
    plane: usize,
    /// Of the words.
    total: usize,
}

impl Operation for Words {
    fn reads(&self) -> Vec<Value> {
        vec![self.image]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.words]
    }

    fn cpu<T: Real>(&self, _: &mut Mem<T>) {}

    fn launches(&self) -> Vec<Launch> {
        let Words { image, words, channels, plane, total } = *self;
        let launch = Launch::elements("conv2d_bf16_words", total);
        let launch = launch.buffers([image, words]).for_two();
        vec![launch.ints([channels, plane, total])]
    }
}

/// A buffer for the words of an image.
fn buffer(g: &mut Graph, image: Value) -> Value {
    let [batch, channels, height, width] = g.dims(image);
    let name = format!("words of {}", g.name(image));
    g.work(&name, &[batch, channels.div_ceil(2), height, width])
}

/// Gives each product by tensor cores the words that it reads: of x one buffer for all that read it,
/// made before the first, of dy one for its own. Call when the products have their weights.
pub fn make(g: &mut Graph) {
    let mut known: Vec<(Value, Value, usize)> = Vec::new();
    for i in 0..g.steps.len() {
        let x = match &g.steps[i].op {
            Op::Conv2d(op) if op.packed.is_some() => op.x,
            Op::Conv2dBackward(op) if op.by_tensor_cores().contains(&true) => {
                let (x, dy, pays) = (op.forward.x, op.dy, tensor::pays(&op.forward.sizes));
                let passed = buffer(g, dy);
                let Op::Conv2dBackward(op) = &mut g.steps[i].op else { continue };
                op.passed = Some(passed);
                if !pays {
                    continue;
                }
                x
            }
            _ => continue,
        };
        let found = known.iter().find(|(of, ..)| *of == x).map(|&(_, words, _)| words);
        let words = found.unwrap_or_else(|| {
            let words = buffer(g, x);
            known.push((x, words, i));
            words
        });
        match &mut g.steps[i].op {
            Op::Conv2d(op) => op.x_words = Some(words),
            Op::Conv2dBackward(op) => op.forward.x_words = Some(words),
            op => panic!("{} reads no words", op.name()),
        }
    }
    for &(image, words, user) in known.iter().rev() {
        let [batch, channels, height, width] = g.dims(image);
        let plane = height * width;
        let total = batch * channels.div_ceil(2) * plane;
        let op = Words { image, words, channels, plane, total }.into();
        let stage = g.steps[user].stage;
        g.steps.insert(user, Step { op, stage });
    }
}

/// Lets products write words themselves, in the place of the image, where nothing else reads the image;
/// and input gradients likewise. A pooling or an enlargement between two products is in words with both
/// of its images, or with none.
pub fn store(g: &mut Graph) {
    for i in (0..g.steps.len()).rev() {
        let images = match &g.steps[i].op {
            Op::MaxPool(op) => [op.x, op.y],
            Op::Upsample(op) => [op.x, op.y],
            _ => continue,
        };
        if images.iter().all(|&v| can_be_words(g, v, Some(i))) {
            images.into_iter().for_each(|v| set(g, v));
        }
    }
    for v in (0..g.slot_count()).map(Value) {
        if can_be_words(g, v, None) {
            set(g, v);
        }
    }
}

/// Whether all that make and read `v` can have it in words: products by tensor cores, for which it is
/// their result or the gradient of it, what between them is in words already, and the step `between`.
fn can_be_words(g: &Graph, v: Value, between: Option<usize>) -> bool {
    if g.slots[v.0].role != Role::Work {
        return false;
    }
    let (mut written, mut read) = (0, 0);
    for (i, step) in g.steps.iter().enumerate() {
        let writes = step.op.writes().contains(&v);
        if !writes && !step.op.reads().contains(&v) {
            continue;
        }
        let fits = match &step.op {
            Op::Conv2d(op) if writes => op.y == v && op.packed.is_some(),
            Op::Conv2d(op) => op.x_words.is_some() && op.weight != v && op.bias != Some(v),
            Op::Conv2dBackward(op) if writes => {
                let dx = op.dx.filter(|dx| dx.value == v && !dx.accumulate);
                dx.is_some() && op.packed.is_some()
            }
            Op::Conv2dBackward(op) => op.reads_in_words(v),
            Op::MaxPool(op) => op.in_words || between == Some(i),
            Op::Upsample(op) => op.in_words || between == Some(i),
            // Of the image that it pools; gradients come as numbers.
            Op::MaxPoolBackward(op) => !writes && op.dy != v,
            Op::Words(_) => !writes,
            _ => false,
        };
        if !fits {
            return false;
        }
        written += usize::from(writes);
        read += usize::from(!writes);
    }
    written == 1 && read > 0
}

/// Makes those that write and read `v` do so in words, and drops what made them.
fn set(g: &mut Graph, v: Value) {
    let made = g.steps.iter().find_map(|step| match &step.op {
        Op::Words(op) if op.image == v => Some(op.words),
        _ => None,
    });
    g.steps.retain(|step| !matches!(&step.op, Op::Words(op) if op.image == v));
    let switch = |op: &mut Conv2d| {
        op.y_in_words |= op.y == v;
        if made.is_some() && op.x_words == made {
            op.x_words = Some(v);
        }
    };
    for step in &mut g.steps {
        match &mut step.op {
            Op::Conv2d(op) => switch(op),
            Op::Conv2dBackward(op) => {
                switch(&mut op.forward);
                op.dy_in_words |= op.dy == v;
                op.dx_in_words |= op.dx.is_some_and(|dx| dx.value == v);
            }
            Op::MaxPool(op) => op.in_words |= op.x == v,
            Op::MaxPoolBackward(op) => op.forward.in_words |= op.forward.x == v,
            Op::Upsample(op) => op.in_words |= op.x == v,
            _ => {}
        }
    }
}

impl Conv2dBackward {
    /// Whether tensor cores compute the gradients of input and weights; of one that is not wanted, false.
    fn by_tensor_cores(&self) -> [bool; 2] {
        let weight = self.dweight.is_some() && tensor::pays(&self.forward.sizes);
        [self.packed.is_some(), weight]
    }

    /// Whether `v`, which it reads, is read in words alone, or could be.
    fn reads_in_words(&self, v: Value) -> bool {
        let [data, weight] = self.by_tensor_cores();
        // What is not computed by tensor cores reads dy and y as they are.
        let all = (data || self.dx.is_none()) && (weight || self.dweight.is_none());
        self.passed.is_some() && all && self.forward.weight != v
    }
}
