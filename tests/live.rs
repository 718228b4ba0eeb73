//! The live page: who is let in, that nothing a client does reaches the run, and that the buttons work.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ndarray::Array2;
use num_complex::Complex32;
use ptycho_gpu::checkpoint::Checkpoint;
use ptycho_gpu::random::{Purpose, Stream};
use ptycho_gpu::report::history;
use ptycho_gpu::report::live::{Epoch, Facts, Live};
use serde_json::Value;

fn page() -> Live {
    let name = "<scan>.npz".into();
    Live::start(0, Facts { command: "train", name, epochs: 9, checkpoints: true }).unwrap()
}

/// Port and token of an address.
fn parts(url: &str) -> (u16, String) {
    let rest = url.strip_prefix("http://127.0.0.1:").unwrap();
    let (port, token) = rest.split_once("/?token=").unwrap();
    (port.parse().unwrap(), token.into())
}

/// Sends `text` and reads what comes back, to its end.
fn exchange(port: u16, text: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer}")).parse().unwrap()
}

fn get(port: u16, path: &str) -> String {
    exchange(port, &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"))
}

fn post(port: u16, path: &str, token: &str) -> String {
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost:{port}\r\nX-Token: {token}");
    exchange(port, &format!("{head}\r\nContent-Length: 0\r\n\r\n"))
}

/// The events of a run.
struct Events {
    lines: BufReader<TcpStream>,
}

impl Events {
    fn open(port: u16, token: &str) -> Events {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let head = format!("GET /events?token={token} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        Events { lines }
    }

    /// The next event and its data; none at the end.
    fn next(&mut self) -> Option<(String, Value)> {
        let mut name = String::new();
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(event) = line.strip_prefix("event: ") {
                name = event.trim().into();
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some((name, serde_json::from_str(data).unwrap()));
            }
        }
    }

    fn until(&mut self, wanted: &str) -> Value {
        loop {
            let (name, data) = self.next().unwrap_or_else(|| panic!("ended before `{wanted}`"));
            if name == wanted {
                return data;
            }
        }
    }
}

fn row(epoch: usize) -> Epoch {
    Epoch { epoch, loss: 1.0 / epoch as f64, validation: None, patterns_per_second: 10.0 }
}

#[test]
fn the_page_and_its_events_are_for_those_with_the_token() {
    let live = page();
    let (port, token) = parts(&live.url());
    assert_eq!(token.len(), 32);
    let whole = get(port, &format!("/?token={token}"));
    assert_eq!(status(&whole), 200);
    assert!(whole.contains("&lt;scan&gt;.npz") && !whole.contains("<scan>"));
    assert!(whole.contains("connect-src 'self'") && !whole.contains(&token));
    for header in
        ["X-Frame-Options: DENY", "Cache-Control: no-store", "Referrer-Policy: no-referrer"]
    {
        assert!(whole.contains(header), "{header}");
    }
    let wrong = "0".repeat(32);
    for path in ["/", "/events", "/complex.png", "/nothing"] {
        assert_eq!(status(&get(port, path)), 403, "{path} without a token");
        assert_eq!(
            status(&get(port, &format!("{path}?token={wrong}"))),
            403,
            "{path} with a wrong one"
        );
        assert_eq!(
            status(&get(port, &format!("{path}?token={}", &token[..31]))),
            403,
            "{path}, cut"
        );
    }
    for path in ["/stop", "/checkpoint"] {
        assert_eq!(status(&post(port, path, &wrong)), 403, "{path}");
        assert_eq!(
            status(&post(port, &format!("{path}?token={token}"), "")),
            403,
            "{path}: not in the query"
        );
        assert_eq!(status(&get(port, &format!("{path}?token={token}"))), 405, "{path}");
    }
    assert!(!live.stop_asked() && !live.take_checkpoint());
    assert_eq!(status(&get(port, &format!("/complex.png?token={token}"))), 404, "no picture yet");
    assert_eq!(status(&post(port, "/checkpoint", &token)), 204);
    assert_eq!(status(&post(port, "/stop", &token)), 204);
    assert!(live.stop_asked() && live.take_checkpoint() && !live.take_checkpoint());
}

#[test]
fn another_host_and_another_site_are_refused() {
    let live = page();
    let (port, token) = parts(&live.url());
    let with = |headers: &str| {
        status(&exchange(port, &format!("GET /?token={token} HTTP/1.1\r\n{headers}\r\n\r\n")))
    };
    assert_eq!(with(&format!("Host: localhost:{port}")), 200);
    assert_eq!(with(&format!("Host: LocalHost:{port}\r\nOrigin: http://127.0.0.1:{port}")), 200);
    for headers in [
        format!("Host: attacker.example:{port}"),
        format!("Host: 127.0.0.1:{}", port ^ 1),
        "Host: 127.0.0.1".into(),
        format!("Host: 127.0.0.1:{port}\r\nHost: 127.0.0.1:{port}"),
        format!("Host: 127.0.0.1:{port}\r\nOrigin: http://attacker.example"),
        format!("Host: 127.0.0.1:{port}\r\nOrigin: null"),
        "X: y".into(),
    ] {
        assert_eq!(with(&headers), 403, "{headers}");
    }
}

#[test]
fn requests_that_are_too_long_or_none_are_refused() {
    let live = page();
    let (port, token) = parts(&live.url());
    let long = get(port, &format!("/?token={token}&x={}", "y".repeat(9000)));
    assert_eq!(status(&long), 431);
    let many = format!("GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{}\r\n", "A: b\r\n".repeat(60));
    assert_eq!(status(&exchange(port, &many)), 431);
    let body = format!("POST /stop HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Token: {token}\r\n");
    assert_eq!(status(&exchange(port, &format!("{body}Content-Length: 1000000\r\n\r\n"))), 413);
    assert_eq!(status(&exchange(port, &format!("{body}Transfer-Encoding: chunked\r\n\r\n"))), 501);
    assert_eq!(status(&exchange(port, "\x16\x03\x01 what is this\r\n\r\n")), 400);
    assert!(!live.stop_asked());
}

#[test]
fn it_listens_on_loopback_alone() {
    let live = page();
    let (port, token) = parts(&live.url());
    assert_eq!(status(&get(port, &format!("/?token={token}"))), 200);
    // Another address of this machine.
    assert!(TcpStream::connect(("127.0.0.2", port)).is_err());
}

#[test]
fn there_are_pages_and_no_files() {
    let live = page();
    let (port, token) = parts(&live.url());
    let own = format!("http://127.0.0.1:{port}/");
    for path in [
        "/../etc/passwd",
        "/../../../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/..\\..\\etc\\passwd",
        "//etc/passwd",
        "/etc/passwd%00.png",
        "/./complex.png/../../etc/passwd",
        "/live.html",
        "/Cargo.toml",
        "file:///etc/passwd",
        &own,
        "*",
    ] {
        let answer = get(port, &format!("{path}?token={token}"));
        assert_eq!(status(&answer), 404, "{path}");
        assert!(answer.ends_with("there is no such page\n"), "{path}: {answer}");
    }
}

#[test]
fn other_methods_are_refused() {
    let live = page();
    let (port, token) = parts(&live.url());
    let pages = ["/", "/events", "/complex.png", "/amplitude.png", "/phase.png"];
    for method in ["HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT", "get", "QUERY"]
    {
        for path in pages.iter().chain(&["/stop", "/checkpoint"]) {
            let text =
                format!("{method} {path}?token={token} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n");
            let answer = exchange(port, &format!("{text}X-Token: {token}\r\n\r\n"));
            assert_eq!(status(&answer), 405, "{method} {path}");
        }
    }
    for path in pages {
        assert_eq!(status(&post(port, path, &token)), 405, "POST {path}");
    }
    assert!(!live.stop_asked() && !live.take_checkpoint());
}

/// Requests that come in drops do not hold their places for ever, and others are served meanwhile.
#[test]
fn slow_requests_are_given_up_and_hold_nobody_up() {
    let live = page();
    let (port, token) = parts(&live.url());
    let open = || TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut slow: Vec<TcpStream> = (0..15).map(|_| open()).collect();
    let began = Instant::now();
    let mut served = 0;
    while began.elapsed() < Duration::from_secs(4) {
        slow.iter_mut().for_each(|stream| stream.write_all(b"G").unwrap());
        served += usize::from(status(&get(port, &format!("/?token={token}"))) == 200);
        std::thread::sleep(Duration::from_millis(700));
    }
    assert!(served >= 3, "{served} were served");
    for mut stream in slow {
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut answer = [0; 64];
        let count = loop {
            assert!(began.elapsed() < Duration::from_secs(12), "it is still waited for");
            let _ = stream.write_all(b"G");
            match stream.read(&mut answer) {
                Ok(count) => break count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                // Closed on what came after the answer.
                Err(_) => break 0,
            }
        };
        let answer = String::from_utf8_lossy(&answer[..count]);
        assert!(count == 0 || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    assert_eq!(status(&get(port, &format!("/?token={token}"))), 200);
}

/// Spoils a request: bytes changed, left out, put in, repeated.
fn spoil(bytes: &mut Vec<u8>, dice: &mut Stream) {
    const WORDS: [&[u8]; 10] = [
        b"\r\n",
        b"\r\n\r\n",
        b"\0",
        b"\xff",
        b" HTTP/1.1",
        b"Host: ",
        b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"?token=",
        b"%00",
    ];
    let at = dice.below(bytes.len() + 1);
    match dice.below(5) {
        0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
        1 if at < bytes.len() => bytes[at] = dice.next_u32() as u8,
        2 => drop(bytes.drain(at..(at + dice.below(20)).min(bytes.len()))),
        3 => drop(bytes.splice(at..at, WORDS[dice.below(WORDS.len())].iter().copied())),
        _ => {
            let piece = bytes[at..(at + dice.below(200)).min(bytes.len())].to_vec();
            bytes.splice(at..at, piece.repeat(1 + dice.below(100)));
        }
    }
}

/// Whatever bytes come, there is one answer or none, and only what has host and token whole is let in.
#[test]
fn spoiled_requests_reach_nothing() {
    let live = page();
    let (port, token) = parts(&live.url());
    let host = format!("Host: 127.0.0.1:{port}\r\n");
    let sound = [
        format!("GET /?token={token} HTTP/1.1\r\n{host}\r\n"),
        format!(
            "GET /complex.png?token={token}&number=1 HTTP/1.1\r\n{host}Origin: http://localhost:{port}\r\n\r\n"
        ),
        format!("POST /stop HTTP/1.1\r\n{host}X-Token: {token}\r\nContent-Length: 3\r\n\r\nabc"),
    ];
    for number in 0..600 {
        let mut dice = Stream::new(number, Purpose::Noise, 0);
        let mut bytes = sound[dice.below(sound.len())].clone().into_bytes();
        (0..1 + dice.below(4)).for_each(|_| spoil(&mut bytes, &mut dice));
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // Longer than what is read, it may be answered and closed before it is sent.
        let _ = stream.write_all(&bytes).and_then(|()| stream.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        let whole = stream.read_to_end(&mut answer).is_ok();
        let text = String::from_utf8_lossy(&bytes);
        if whole {
            let answer = String::from_utf8_lossy(&answer);
            let known = [200, 204, 400, 403, 404, 405, 408, 413, 431, 501];
            assert!(known.contains(&status(&answer)), "{number}: {answer}");
            let let_in = [200, 204].contains(&status(&answer));
            assert!(
                !let_in || text.contains(&token) && text.contains(&format!("127.0.0.1:{port}")),
                "{number}: {text}"
            );
        }
    }
    assert_eq!(status(&get(port, &format!("/?token={token}"))), 200);
}

#[test]
fn pages_are_few_and_one_that_does_not_read_holds_nothing_up() {
    let live = page();
    let (port, token) = parts(&live.url());
    let mut open: Vec<Events> = (0..4).map(|_| Events::open(port, &token)).collect();
    open.iter_mut().for_each(|events| drop(events.until("hello")));
    let fifth = get(port, &format!("/events?token={token}"));
    assert_eq!(status(&fifth), 503, "{fifth}");
    // None of the four reads from now on, and the buffers of the system are full soon.
    let began = Instant::now();
    let sentence = "x".repeat(4000);
    for epoch in 1..=5000 {
        live.epoch(row(epoch));
        live.note(&sentence);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // What they find when they read again is the newest.
    let last = loop {
        let epoch = open[0].until("epoch")["epoch"].as_u64().unwrap();
        if epoch == 5000 {
            break epoch;
        }
    };
    assert_eq!(last, 5000);
    drop(open);
    let again = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        live.note("are you there?");
        !get(port, &format!("/?token={token}")).is_empty() && {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let head =
                format!("GET /events?token={token} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            line.starts_with("HTTP/1.1 200")
        }
    });
    assert!(again, "the places of pages that are gone are free again");
}

#[test]
fn idle_connections_are_bounded_and_the_run_goes_on() {
    let live = page();
    let (port, token) = parts(&live.url());
    let idle: Vec<TcpStream> =
        (0..40).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(200));
    // Those beyond the bound are closed at once.
    let closed = idle.iter().filter(|stream| {
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut stream: &TcpStream = stream;
        match stream.read(&mut [0; 1]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    });
    assert!(closed.count() >= 24);
    live.epoch(row(1));
    drop(idle);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(status(&get(port, &format!("/?token={token}"))), 200);
}

#[test]
fn a_page_that_is_opened_late_is_told_what_there_was_and_when_it_ends() {
    let live = page();
    let (port, token) = parts(&live.url());
    assert!(!live.wants_picture(), "nobody looks");
    (1..=2000).for_each(|epoch| live.epoch(row(epoch)));
    let mut events = Events::open(port, &token);
    let hello = events.until("hello");
    let points = hello["points"].as_array().unwrap();
    assert!(points.len() <= 500 && points.len() > 200, "{}", points.len());
    let epochs: Vec<u64> = points.iter().map(|point| point[0].as_u64().unwrap()).collect();
    let (first, last) = (epochs[0], epochs[epochs.len() - 1]);
    let widest = epochs.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert_eq!((first, last), (1, 2000));
    assert!(widest <= Some(8), "the early epochs are there as well: {widest:?}");
    assert_eq!(hello["last"]["epoch"], 2000);
    assert!(live.wants_picture());
    let object =
        Array2::from_shape_fn((30, 20), |(r, c)| Complex32::from_polar(r as f32, c as f32));
    live.picture(&object, Instant::now());
    assert_eq!(events.until("picture")["picture"], 1);
    let picture = get(port, &format!("/phase.png?token={token}&number=1"));
    assert!(status(&picture) == 200 && picture.contains("image/png") && picture.contains("PNG"));
    drop(live);
    events.until("end");
    assert!(events.next().is_none());
    // Another test that is about to start a program holds copies of all ports for a moment.
    let free = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        TcpStream::connect(("127.0.0.1", port)).is_err()
    });
    assert!(free, "the port is free");
}

/// A training that is watched.
struct Watched {
    child: Child,
    port: u16,
    token: String,
}

fn scan(folder: &Path) -> PathBuf {
    let path = folder.join("scan.npz");
    if !path.exists() {
        let mut simulate = Command::new(env!("CARGO_BIN_EXE_ptycho-gpu"));
        simulate.arg("simulate").arg(&path);
        simulate.args(["--patterns=16", "--probe-diameter=20", "--photons=1e5", "--step=4"]);
        assert!(simulate.stdout(Stdio::null()).status().unwrap().success());
    }
    path
}

fn training(folder: &Path, run: &str, epochs: usize) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ptycho-gpu"));
    command.arg("train").arg("--train-data-file").arg(scan(folder)).arg("--output-dir");
    command.arg(folder.join(run)).args(["--n-filters-scale=1", "--n-images=4", "--batch-size=2"]);
    command.args(["--device=cpu", "--quiet", "--no-report"]).arg(format!("--max-epochs={epochs}"));
    command
}

impl Watched {
    fn start(mut command: Command) -> Watched {
        let mut child = command.arg("--live=0").stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = lines.find_map(|line| line.unwrap().strip_prefix("live: ").map(str::to_string));
        let (port, token) = parts(&url.expect("the address is printed, quiet or not"));
        std::thread::spawn(move || lines.for_each(drop));
        Watched { child, port, token }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_buttons_write_a_checkpoint_and_end_the_run_with_one() {
    let place = tempfile::tempdir().unwrap();
    let mut watched = Watched::start(training(place.path(), "run", 100_000));
    let mut events = Events::open(watched.port, &watched.token);
    events.until("hello");
    events.until("epoch");
    assert_eq!(status(&post(watched.port, "/checkpoint", &watched.token)), 204);
    let note = events.until("note")["note"].as_str().unwrap().to_string();
    let name = note.strip_prefix("Written: ").unwrap_or_else(|| panic!("{note}"));
    let asked = Checkpoint::load(place.path().join("run").join(name)).unwrap();
    assert!(asked.tensors.len() > 10);
    events.until("picture");
    assert_eq!(status(&post(watched.port, "/stop", &watched.token)), 204);
    events.until("end");
    assert!(watched.child.wait().unwrap().success());
    let run = place.path().join("run");
    let record: Value =
        serde_json::from_slice(&std::fs::read(run.join("run.json")).unwrap()).unwrap();
    let epochs = record["results"]["training"]["epochs"].as_u64().unwrap();
    assert!((1..100_000).contains(&epochs), "{epochs}");
    let last = Checkpoint::load(run.join("checkpoints/last.safetensors")).unwrap();
    assert_eq!(last.metadata["progress"]["epoch"].as_u64(), Some(epochs));
    assert!(!std::fs::read_to_string(run.join("log.txt")).unwrap().contains(&watched.token));
}

/// Losses and rates of history.csv, without what the clock says.
fn steps(run: &Path) -> Vec<Vec<u64>> {
    let rows = history::read(run.join("history.csv")).unwrap().rows;
    rows.iter().map(|row| row[..9].iter().map(|x| x.to_bits()).collect()).collect()
}

#[test]
fn a_training_that_is_watched_takes_the_same_steps() {
    let place = tempfile::tempdir().unwrap();
    let alone = training(place.path(), "alone", 6).stderr(Stdio::null()).status().unwrap();
    assert!(alone.success());
    let mut watched = Watched::start(training(place.path(), "watched", 6));
    let mut events = Events::open(watched.port, &watched.token);
    let _ = post(watched.port, "/checkpoint", &watched.token);
    while events.next().is_some() {}
    assert!(watched.child.wait().unwrap().success());
    let [alone, watched] = ["alone", "watched"].map(|run| place.path().join(run));
    assert_eq!(steps(&alone), steps(&watched));
    let tensors = |run: &Path, name: &str| {
        let checkpoint = Checkpoint::load(run.join("checkpoints").join(name)).unwrap();
        let bits = |t: &[f32]| t.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        checkpoint.tensors.iter().map(|(k, t)| (k.clone(), bits(&t.data))).collect::<Vec<_>>()
    };
    for name in ["best.safetensors", "last.safetensors"] {
        assert!(tensors(&alone, name) == tensors(&watched, name), "{name}");
    }
}

#[test]
fn a_solver_that_is_watched_takes_the_same_steps_and_can_be_stopped() {
    let place = tempfile::tempdir().unwrap();
    let solve = |run: &str, epochs: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ptycho-gpu"));
        command.arg("reconstruct").arg(scan(place.path())).arg("--output-dir");
        command.arg(place.path().join(run)).args(["--device=cpu", "--quiet", "--no-report"]);
        command.args(["--patience=100000", "--epochs", epochs]);
        command
    };
    assert!(solve("alone", "4").status().unwrap().success());
    let mut watched = Watched::start(solve("watched", "4"));
    let mut events = Events::open(watched.port, &watched.token);
    while events.next().is_some() {}
    assert!(watched.child.wait().unwrap().success());
    let losses = |run: &str| -> Vec<u64> {
        let rows = history::read(place.path().join(run).join("history.csv")).unwrap().rows;
        rows.iter().map(|row| row[3].to_bits()).collect()
    };
    assert_eq!(losses("alone"), losses("watched"));
    let mut long = Watched::start(solve("long", "100000"));
    let mut events = Events::open(long.port, &long.token);
    events.until("epoch");
    assert_eq!(status(&post(long.port, "/checkpoint", &long.token)), 404, "it has no checkpoints");
    assert_eq!(status(&post(long.port, "/stop", &long.token)), 204);
    events.until("end");
    assert!(long.child.wait().unwrap().success());
    assert!(place.path().join("long/reconstruction.npz").exists());
}

#[test]
fn a_port_that_is_taken_is_named_and_nothing_is_left() {
    let place = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut command = training(place.path(), "run", 1);
    let output = command.arg(format!("--live={port}")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&format!("--live {port}")) && said.contains("cannot listen"), "{said}");
    assert!(!place.path().join("run").exists());
}
