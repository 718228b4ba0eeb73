//! A reader for pickles that executes nothing.
//!
//! A pickle is a program for a small stack machine, and Python's own machine calls whatever function
//! the program names. This one has no way to call anything: it builds a tree of plain data. It knows
//! the opcodes that Python 3 writes for state dicts and refuses the others by name. Of the names that
//! a pickle mentions it knows two kinds ([`Kind`]): the few that tensors are made of, which have a
//! meaning here, and the classes that a training leaves beside them (options, optimisers, callbacks),
//! which become [`Object::Opaque`]. Every other name is an error, so that a file that wants to run
//! something is refused, and not read in part.
//!
//! Objects lie in one list and refer to each other by index, so that memory grows with the length of
//! the pickle and with nothing else, whatever contains itself or the same list a million times.
//!
//! Why not a crate: serde-pickle has no persistent ids, by which tensors refer to their numbers, and
//! the readers for PyTorch in machine-learning crates have no list of allowed names to refuse by.

mod machine;

use super::globals::Kind;
use machine::Machine;

/// Bytes of a pickle. That of the largest network here takes some hundred kilobytes.
pub const MAX_BYTES: usize = 16 << 20;

/// An object, by its place in the list of its [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ref(usize);

/// What a pickle can hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// Bytes, or a number that is too large: nothing here depends on it.
    Other,
    Tuple(Vec<Ref>),
    /// A list or a set.
    List(Vec<Ref>),
    Dict(Vec<(Ref, Ref)>),
    /// A name of a class or function, which is never looked up.
    Global {
        name: String,
        kind: Kind,
    },
    /// Where the numbers of tensors are.
    Storage(Storage),
    /// Numbers of a storage, seen as an array.
    Tensor(View),
    /// An object of a class that is not known, only let pass: what was put into it.
    Opaque {
        class: Ref,
        items: Vec<(Ref, Ref)>,
        state: Option<Ref>,
    },
}

/// One block of numbers beside the pickle.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// Name of the class, such as `FloatStorage`.
    pub class: String,
    /// Name of the member that holds the numbers.
    pub key: String,
    /// Numbers in it.
    pub len: usize,
}

/// An array in a storage.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    pub storage: Ref,
    /// First number.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// Numbers from one entry to the next along each axis.
    pub strides: Vec<usize>,
}

/// What a pickle holds.
#[derive(Debug)]
pub struct Tree {
    objects: Vec<Object>,
    root: Ref,
}

impl Tree {
    /// Reads a pickle. Error: one sentence, with the byte at which it stopped.
    pub fn read(bytes: &[u8]) -> Result<Tree, String> {
        if bytes.len() > MAX_BYTES {
            return Err(format!("its pickle has {} bytes ({MAX_BYTES} at most)", bytes.len()));
        }
        let (objects, root) = Machine::new(bytes).run()?;
        Ok(Tree { objects, root })
    }

    pub fn root(&self) -> Ref {
        self.root
    }

    pub fn get(&self, of: Ref) -> &Object {
        &self.objects[of.0]
    }

    /// Keys and values of a dict, or of an object like one; attributes of an object that has any.
    pub fn entries(&self, of: Ref) -> &[(Ref, Ref)] {
        match self.get(of) {
            Object::Dict(items) => items,
            Object::Opaque { items, state: Some(state), .. } if items.is_empty() => {
                match self.get(*state) {
                    Object::Dict(attributes) => attributes,
                    _ => &[],
                }
            }
            Object::Opaque { items, .. } => items,
            _ => &[],
        }
    }

    /// The value under a text key; the last one counts.
    pub fn find(&self, of: Ref, key: &str) -> Option<Ref> {
        let is = |at: Ref| matches!(self.get(at), Object::Text(text) if text == key);
        self.entries(of).iter().rev().find(|(name, _)| is(*name)).map(|(_, value)| *value)
    }
}

/// A name as it is shown: control characters and length do no harm to a terminal.
pub(super) fn shown(name: &str) -> String {
    const LONGEST: usize = 80;
    let clean = name.chars().map(|c| if c.is_control() { '?' } else { c });
    let mut text: String = clean.take(LONGEST).collect();
    if name.chars().nth(LONGEST).is_some() {
        text.push('…');
    }
    text
}
