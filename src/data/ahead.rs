//! Reading ahead: the patterns of the next batch are read while the present one is computed.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::stack::Stacks;
use crate::{Error, Result};

/// Patterns by batches. Those in memory are copied when they are asked for; those in a file are read by
/// a thread of their own.
#[derive(Debug)]
pub struct Ahead {
    stacks: Stacks,
    reader: Option<Reader>,
    pixels: Vec<f32>,
}

/// A thread that reads what it is asked for, in the order in which it is asked.
#[derive(Debug)]
struct Reader {
    ask: Sender<(Vec<usize>, Vec<f32>)>,
    answers: Receiver<Result<Vec<f32>>>,
    /// What has been asked for and not yet been taken.
    asked: Option<Vec<usize>>,
}

impl Ahead {
    pub fn new(stacks: Stacks) -> Ahead {
        let reader = stacks.any_filed().then(|| Reader::start(stacks.clone()));
        Ahead { stacks, reader, pixels: Vec::new() }
    }

    /// The pixels of the patterns `now`, one pattern after the other. Those of `next` are begun with.
    ///
    /// # Errors
    /// A file cannot be read, or has become shorter.
    pub fn take(&mut self, now: &[usize], next: Option<&[usize]>) -> Result<&[f32]> {
        let Some(reader) = &mut self.reader else {
            self.pixels.clear();
            self.stacks.read(now, &mut self.pixels)?;
            return Ok(&self.pixels);
        };
        let mut spare = std::mem::take(&mut self.pixels);
        let asked = reader.asked.take();
        if asked.as_deref() != Some(now) {
            if asked.is_some() {
                // Nobody wants it any more, and so not its errors either.
                let _ = reader.answer();
            }
            reader.ask(now, std::mem::take(&mut spare))?;
        }
        let answer = reader.answer();
        reader.asked = None;
        self.pixels = answer?;
        if let Some(next) = next {
            reader.ask(next, spare)?;
        }
        Ok(&self.pixels)
    }
}

impl Reader {
    fn start(stacks: Stacks) -> Reader {
        let (ask, asked) = channel::<(Vec<usize>, Vec<f32>)>();
        let (give, answers) = channel();
        // It ends when the one who asks has gone.
        thread::spawn(move || {
            for (indices, mut pixels) in asked {
                pixels.clear();
                let read = stacks.read(&indices, &mut pixels).map(|()| pixels);
                if give.send(read).is_err() {
                    break;
                }
            }
        });
        Reader { ask, answers, asked: None }
    }

    fn ask(&mut self, indices: &[usize], room: Vec<f32>) -> Result<()> {
        self.asked = Some(indices.to_vec());
        self.ask.send((indices.to_vec(), room)).map_err(|_| Reader::gone())
    }

    fn answer(&mut self) -> Result<Vec<f32>> {
        self.answers.recv().map_err(|_| Reader::gone())?
    }

    fn gone() -> Error {
        Error::Run(
            "the thread that reads the patterns has ended: this is an error of the program".into(),
        )
    }
}
