//! A page that shows a run while it goes on, served on this machine alone.
//!
//! The run says what happens and asks whether it should stop; it never waits for a client. Clients are
//! few and have queues of their own, from which the oldest events go when they are slow. Everything
//! needs the token in the address that is printed at the start.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ndarray::Array2;
use num_complex::Complex32;
use serde_json::{Value, json};

use super::complex::ComplexPicture;
use super::picture::{Picture, draw_pixels};
use super::{Colormap, html};
use crate::{Error, Result};

mod http;
mod serve;

/// Connections at one time; those beyond are turned away.
const MOST_CONNECTIONS: usize = 16;
/// Pages that are told of every event.
const MOST_PAGES: usize = 4;
/// Events that wait for a page; the oldest go.
const MOST_WAITING: usize = 32;
/// Epochs that a page is told of when it is opened; older ones are thinned.
const MOST_POINTS: usize = 500;
/// Between two events within an epoch.
const STEP_EVERY: Duration = Duration::from_millis(300);
/// A picture may take this part of the time.
const PICTURE_SHARE: u32 = 10;
/// ... and there is no other before this.
const PICTURE_EVERY: Duration = Duration::from_secs(1);
/// Longest side of a picture.
const MOST_PIXELS: usize = 384;

/// What a run is, for its page.
pub struct Facts {
    /// `train`, `reconstruct` or `refine`.
    pub command: &'static str,
    /// Of the scan.
    pub name: String,
    pub epochs: usize,
    /// Whether a checkpoint can be asked for.
    pub checkpoints: bool,
}

/// How an epoch went.
#[derive(Clone, Copy, Debug)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: usize,
    pub loss: f64,
    pub validation: Option<f64>,
    pub patterns_per_second: f64,
}

/// The page of a run. Dropped, it tells the pages that the run has ended, and closes.
pub struct Live {
    state: Arc<State>,
    server: Option<JoinHandle<()>>,
    last_step: Mutex<Instant>,
    /// When the next picture may be made.
    next_picture: Mutex<Instant>,
}

/// What the run and the clients share.
struct State {
    port: u16,
    token: String,
    facts: Facts,
    page: String,
    known: Mutex<Known>,
    pages: Mutex<Vec<Arc<Queue>>>,
    connections: AtomicUsize,
    stop: AtomicBool,
    checkpoint: AtomicBool,
    closing: AtomicBool,
}

/// What a page that is opened now is told.
struct Known {
    /// Epoch, loss, validation loss.
    points: Vec<(usize, f64, Option<f64>)>,
    /// One of so many epochs is kept, and the last one.
    every: usize,
    last: Option<Epoch>,
    note: String,
    /// PNG of complex, amplitude, phase, and how many there have been.
    pictures: Option<[Arc<Vec<u8>>; 3]>,
    picture: usize,
    ended: bool,
}

impl Known {
    fn nothing() -> Known {
        Known {
            points: Vec::new(),
            every: 1,
            last: None,
            note: String::new(),
            pictures: None,
            picture: 0,
            ended: false,
        }
    }
}

/// Events on their way to one page.
#[derive(Default)]
struct Queue {
    events: Mutex<VecDeque<String>>,
    more: Condvar,
}

/// A thread that panicked while it held a lock has left nothing half done here.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    /// Serves on 127.0.0.1 at `port`, or at any free one for 0.
    pub fn start(port: u16, facts: Facts) -> Result<Live> {
        let refuse = |error: std::io::Error| {
            Error::Config(format!("--live {port}: cannot listen on 127.0.0.1:{port}: {error}"))
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(refuse)?;
        let port = listener.local_addr().map_err(refuse)?.port();
        let state = Arc::new(State {
            port,
            token: token()?,
            page: page(&facts),
            facts,
            known: Mutex::new(Known::nothing()),
            pages: Mutex::default(),
            connections: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            checkpoint: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        let server = thread::Builder::new()
            .name("live".into())
            .spawn(move || serve::accept(&listener, &shared))
            .map_err(refuse)?;
        let now = Instant::now();
        let (last_step, next_picture) = (Mutex::new(now), Mutex::new(now));
        Ok(Live { state, server: Some(server), last_step, next_picture })
    }

    /// The address of the page, token included: for the person at the keyboard, not for a log.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/?token={}", self.state.port, self.state.token)
    }

    /// A part of an epoch is done.
    pub fn step(&self, epoch: usize, done: f64, loss: f64) {
        let mut last = hold(&self.last_step);
        if last.elapsed() < STEP_EVERY {
            return;
        }
        *last = Instant::now();
        self.state.tell("step", &json!({"epoch": epoch, "done": done, "loss": loss}));
    }

    /// An epoch is done.
    pub fn epoch(&self, row: Epoch) {
        let mut known = hold(&self.state.known);
        // What was stepped back from is done again. The rest is thinned evenly, whatever its age.
        let every = known.every;
        known.points.retain(|&(e, ..)| e < row.epoch && (e - 1) % every == 0);
        known.points.push((row.epoch, row.loss, row.validation));
        if known.points.len() > MOST_POINTS {
            known.every *= 2;
        }
        known.last = Some(row);
        drop(known);
        self.state.tell("epoch", &row.json());
    }

    /// Whether a page is open, and the last picture is long enough ago.
    pub fn wants_picture(&self) -> bool {
        !hold(&self.state.pages).is_empty() && Instant::now() >= *hold(&self.next_picture)
    }

    /// The object as it is now, NaN where nothing is known. `began` is when the work on it did.
    pub fn picture(&self, object: &Array2<Complex32>, began: Instant) {
        let small = html::bin_object(object, MOST_PIXELS);
        let angle = |z: Complex32| if z.is_finite() { z.arg() } else { f32::NAN };
        let phase = Picture { colormap: Colormap::Cyclic, ..Picture::default() };
        let pictures = [
            ComplexPicture::default().pixels(&small),
            draw_pixels(&small.mapv(|z| z.norm()), &Picture::default()),
            draw_pixels(&small.mapv(angle), &phase),
        ];
        let encoded = pictures.map(|p| Arc::new(p.encode("Object").unwrap_or_default()));
        let mut known = hold(&self.state.known);
        known.pictures = Some(encoded);
        known.picture += 1;
        let event = json!({"picture": known.picture});
        drop(known);
        self.state.tell("picture", &event);
        let pause = (PICTURE_SHARE * began.elapsed()).max(PICTURE_EVERY);
        *hold(&self.next_picture) = Instant::now() + pause;
    }

    /// A sentence for the page.
    pub fn note(&self, text: &str) {
        hold(&self.state.known).note = text.into();
        self.state.tell("note", &json!({"note": text}));
    }

    /// Whether someone has asked for the run to end after this epoch.
    pub fn stop_asked(&self) -> bool {
        self.state.stop.load(Ordering::Relaxed)
    }

    /// Whether someone has asked for a checkpoint since this was asked last.
    pub fn take_checkpoint(&self) -> bool {
        self.state.checkpoint.swap(false, Ordering::Relaxed)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        hold(&self.state.known).ended = true;
        self.state.tell("end", &json!({}));
        self.state.closing.store(true, Ordering::SeqCst);
        hold(&self.state.pages).iter().for_each(|queue| queue.more.notify_all());
        // Wakes the server, which then ends.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.state.port));
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
        // The pages get their last words, unless they are slow.
        let until = Instant::now() + Duration::from_secs(1);
        while self.state.connections.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Epoch {
    fn json(&self) -> Value {
        json!({
            "epoch": self.epoch,
            "loss": self.loss,
            "validation": self.validation,
            "speed": self.patterns_per_second,
        })
    }
}

impl State {
    /// Puts an event into every queue.
    fn tell(&self, event: &str, value: &Value) {
        let text = format!("event: {event}\ndata: {value}\n\n");
        for queue in hold(&self.pages).iter() {
            let mut events = hold(&queue.events);
            if events.len() >= MOST_WAITING {
                events.pop_front();
            }
            events.push_back(text.clone());
            queue.more.notify_one();
        }
    }

    /// What a page is told first.
    fn hello(&self) -> String {
        let known = hold(&self.known);
        let points: Vec<Value> =
            known.points.iter().map(|(e, loss, val)| json!([e, loss, val])).collect();
        let value = json!({
            "points": points,
            "every": known.every,
            "last": known.last.map(|last| last.json()),
            "note": known.note,
            "picture": known.picture,
            "ended": known.ended,
            "stopping": self.stop.load(Ordering::Relaxed),
        });
        format!("retry: 2000\nevent: hello\ndata: {value}\n\n")
    }
}

/// 128 bits that nobody can guess, in hexadecimal digits.
fn token() -> Result<String> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::Run(format!("--live: no random numbers for a token: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

const BODY: &str = include_str!("live.html");
const SCRIPT: &str = include_str!("live.js");

fn page(facts: &Facts) -> String {
    let kind = match facts.command {
        "train" => "Training of a network",
        "refine" => "Refinement",
        _ => "Direct reconstruction",
    };
    let epochs = facts.epochs.to_string();
    let hidden = if facts.checkpoints { "" } else { "hidden" };
    let values = [
        ("kind", kind),
        ("name", &html::escape(&facts.name)),
        ("epochs", &epochs),
        ("checkpoints", hidden),
    ];
    let body = html::fill(BODY, &values);
    let title = format!("{} · live", facts.name);
    html::live_shell(&title, &body, &json!({"epochs": facts.epochs}), SCRIPT)
}
