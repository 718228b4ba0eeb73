//! Who is let in, and what they get.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use subtle::ConstantTimeEq;

use super::http::{self, Refusal, Request};
use super::{MOST_CONNECTIONS, MOST_PAGES, Queue, State, hold};

/// A page that hears nothing for so long is sent a comment: that shows whether it is still there.
const HEARTBEAT: Duration = Duration::from_secs(5);

const TEXT: &str = "text/plain; charset=utf-8";

/// Takes connections until the run has ended.
pub(super) fn accept(listener: &TcpListener, state: &Arc<State>) {
    for stream in listener.incoming() {
        if state.closing.load(Ordering::SeqCst) {
            return;
        }
        // Too many open files, for example: the next may do better, but not at once.
        let Ok(stream) = stream else {
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        if state.connections.fetch_add(1, Ordering::SeqCst) >= MOST_CONNECTIONS {
            state.connections.fetch_sub(1, Ordering::SeqCst);
            let _ = stream.shutdown(Shutdown::Both);
            continue;
        }
        let open = Open(Arc::clone(state));
        let client = thread::Builder::new().name("live client".into());
        // Without a thread the closure is dropped, and the connection with it.
        let _ = client.spawn(move || serve(stream, &open.0));
    }
}

/// A connection that is counted.
struct Open(Arc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

fn serve(mut stream: TcpStream, state: &Arc<State>) {
    let _ = stream.set_nodelay(true);
    let answered = Request::read(&mut stream).and_then(|request| {
        state.admit(&request)?;
        state.respond(&request, &mut stream)
    });
    if let Err((status, text)) = answered {
        http::answer(&mut stream, status, TEXT, format!("{text}\n").as_bytes());
    }
}

impl State {
    /// Whether a request comes from the page of this run, or from someone who has its address.
    fn admit(&self, request: &Request) -> Result<(), Refusal> {
        // A name that leads here from another site would be another host.
        let hosts = [format!("127.0.0.1:{}", self.port), format!("localhost:{}", self.port)];
        let known = |host: &str| hosts.iter().any(|h| h.eq_ignore_ascii_case(host));
        match request.header("host") {
            Some(host) if known(host) => {}
            _ => return Err((403, "the host is not that of this page")),
        }
        let own = |origin: &str| origin.strip_prefix("http://").is_some_and(known);
        if request.header("origin").is_some_and(|origin| !own(origin)) {
            return Err((403, "the request comes from another site"));
        }
        let token = match request.method.as_str() {
            // Another site cannot send this header, nor make a browser send it.
            "POST" => request.header("x-token"),
            _ => request.parameter("token"),
        };
        let right = token.is_some_and(|t| t.as_bytes().ct_eq(self.token.as_bytes()).into());
        if right { Ok(()) } else { Err((403, "the token is missing or wrong")) }
    }

    fn respond(
        self: &Arc<State>,
        request: &Request,
        stream: &mut TcpStream,
    ) -> Result<(), Refusal> {
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/") => {
                http::answer(stream, 200, "text/html; charset=utf-8", self.page.as_bytes());
            }
            ("GET", "/events") => self.events(stream)?,
            ("GET", "/complex.png") => self.picture(stream, 0)?,
            ("GET", "/amplitude.png") => self.picture(stream, 1)?,
            ("GET", "/phase.png") => self.picture(stream, 2)?,
            ("POST", "/stop") => {
                self.stop.store(true, Ordering::Relaxed);
                self.tell("stopping", &serde_json::json!({}));
                http::answer(stream, 204, TEXT, b"");
            }
            ("POST", "/checkpoint") if self.facts.checkpoints => {
                self.checkpoint.store(true, Ordering::Relaxed);
                http::answer(stream, 204, TEXT, b"");
            }
            (_, "/" | "/events" | "/stop" | "/complex.png" | "/amplitude.png" | "/phase.png") => {
                return Err((405, "not with this method"));
            }
            (_, "/checkpoint") if self.facts.checkpoints => {
                return Err((405, "not with this method"));
            }
            _ => return Err((404, "there is no such page")),
        }
        Ok(())
    }

    fn picture(&self, stream: &mut TcpStream, which: usize) -> Result<(), Refusal> {
        let picture = hold(&self.known).pictures.as_ref().map(|all| Arc::clone(&all[which]));
        let picture = picture.ok_or((404, "there is no picture yet"))?;
        http::answer(stream, 200, "image/png", &picture);
        Ok(())
    }

    /// Sends events until the page goes away or the run ends.
    fn events(self: &Arc<State>, stream: &mut TcpStream) -> Result<(), Refusal> {
        let queue = Arc::new(Queue::default());
        {
            let mut pages = hold(&self.pages);
            if pages.len() >= MOST_PAGES {
                return Err((503, "too many pages are open"));
            }
            // Before the first words, so that nothing in between is lost.
            hold(&queue.events).push_back(self.hello());
            pages.push(Arc::clone(&queue));
        }
        if http::begin_events(stream).is_ok() {
            while self.send(&queue, stream) {}
        }
        hold(&self.pages).retain(|other| !Arc::ptr_eq(other, &queue));
        let _ = stream.shutdown(Shutdown::Both);
        Ok(())
    }

    /// Sends what waits, or waits; whether to go on.
    fn send(&self, queue: &Queue, stream: &mut TcpStream) -> bool {
        let mut events = hold(&queue.events);
        if events.is_empty() {
            if self.closing.load(Ordering::SeqCst) {
                return false;
            }
            let waited = queue.more.wait_timeout(events, HEARTBEAT);
            events = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        let mut text: String = events.drain(..).collect();
        drop(events);
        if text.is_empty() {
            text.push_str(":\n\n");
        }
        http::send(stream, text.as_bytes()).is_ok()
    }
}
