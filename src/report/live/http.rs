//! As much of HTTP as a page on this machine needs: one request a connection, all of it bounded.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Most bytes of request line and headers together.
const MOST_HEAD: usize = 8192;
/// Most headers.
const MOST_HEADERS: usize = 48;
/// Most bytes of a body, which nothing here has a use for.
const MOST_BODY: usize = 256;
/// A request that is not there by then is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// A client that has not taken an answer, or what waits for a page, by then is given up, even if it takes a
/// byte now and then.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Debug)]
pub(super) struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub query: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
}

/// Why a request gets no answer of its own: status and words.
pub(super) type Refusal = (u16, &'static str);

impl Request {
    /// The value of the only header of that name; none also where it comes more than once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        let value = found.next().map(|(_, value)| value.as_str());
        if found.next().is_some() { None } else { value }
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(n, _)| n == name)
    }

    /// The value of the first parameter of that name.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .split('&')
            .find_map(|pair| pair.split_once('=').filter(|(n, _)| *n == name))
            .map(|p| p.1)
    }

    /// Reads a request.
    pub fn read(stream: &mut TcpStream) -> Result<Request, Refusal> {
        let until = Instant::now() + PATIENCE;
        let mut bytes = Vec::with_capacity(1024);
        let (request, head) = loop {
            if let Some(parsed) = parse(&bytes)? {
                break parsed;
            }
            if bytes.len() >= MOST_HEAD {
                return Err((431, "request line and headers are too long"));
            }
            let room = MOST_HEAD - bytes.len();
            receive(stream, &mut bytes, room, until)?;
        };
        let length = request.body()?;
        while bytes.len() < head + length {
            let room = head + length - bytes.len();
            receive(stream, &mut bytes, room, until)?;
        }
        Ok(request)
    }

    /// Bytes of the body.
    fn body(&self) -> Result<usize, Refusal> {
        if self.has("transfer-encoding") {
            return Err((501, "bodies in pieces are not taken"));
        }
        if !self.has("content-length") {
            return Ok(0);
        }
        let length = self.header("content-length").and_then(|text| text.parse::<usize>().ok());
        match length {
            None => Err((400, "the length of the body is no number")),
            Some(length) if length > MOST_BODY => Err((413, "the body is too long")),
            Some(length) => Ok(length),
        }
    }
}

/// The request and the bytes of its head, once it is whole.
fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let head = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err((431, "too many headers")),
        Err(_) => return Err((400, "this is no HTTP request")),
    };
    let target = parsed.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = Vec::new();
    for header in parsed.headers.iter() {
        let value = std::str::from_utf8(header.value).map_err(|_| (400, "a header is no text"))?;
        headers.push((header.name.to_ascii_lowercase(), value.trim().to_string()));
    }
    let method = parsed.method.unwrap_or_default().to_string();
    Ok(Some((Request { method, path: path.into(), query: query.into(), headers }, head)))
}

/// At least one byte more, at most `room`.
fn receive(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    room: usize,
    until: Instant,
) -> Result<(), Refusal> {
    const SLOW: Refusal = (408, "the request took too long");
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
        return Err(SLOW);
    }
    let mut piece = [0; 1024];
    let room = room.min(piece.len());
    match stream.read(&mut piece[..room]) {
        Ok(0) => Err((400, "the request is not whole")),
        Ok(count) => {
            bytes.extend_from_slice(&piece[..count]);
            Ok(())
        }
        Err(_) => Err(SLOW),
    }
}

/// Headers of every answer: nothing is kept, framed, guessed at or told to others.
const ALWAYS: &str = "Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
     X-Frame-Options: DENY\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n";

/// Sends a whole answer and closes.
pub(super) fn answer(stream: &mut TcpStream, status: u16, kind: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{ALWAYS}\r\n",
        reason(status),
        body.len()
    );
    // A client that has gone away is no loss.
    let _ = send(stream, &[head.as_bytes(), body].concat()).and_then(|()| close(stream));
}

/// Sends all of `bytes`, or gives the client up.
pub(super) fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    send_until(stream, bytes, Instant::now() + WRITE_PATIENCE)
}

fn send_until(stream: &mut TcpStream, bytes: &[u8], until: Instant) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Begins an answer that goes on.
pub(super) fn begin_events(stream: &mut TcpStream) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{ALWAYS}\r\n");
    send(stream, head.as_bytes())
}

/// What a client still sends is read for a moment: closed on unread bytes, a connection takes its last
/// answer with it.
fn close(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut piece = [0; 4096];
    for _ in 0..16 {
        if stream.read(&mut piece)? == 0 {
            break;
        }
    }
    Ok(())
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn request(text: &str) -> Request {
        parse(text.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn a_header_that_comes_twice_is_none() {
        let twice = request("GET /a?token=1&x=2 HTTP/1.1\r\nHost: a\r\nhost: b\r\nX: 1\r\n\r\n");
        assert_eq!((twice.header("host"), twice.header("x")), (None, Some("1")));
        assert_eq!((twice.path.as_str(), twice.parameter("x")), ("/a", Some("2")));
        assert_eq!(twice.parameter("y"), None);
    }

    #[test]
    fn bodies_are_bounded_and_whole() {
        let with = |headers: &str| request(&format!("POST / HTTP/1.1\r\n{headers}\r\n\r\n")).body();
        assert_eq!(with("A: b"), Ok(0));
        assert_eq!(with("Content-Length: 12"), Ok(12));
        assert_eq!(with("Content-Length: 257").unwrap_err().0, 413);
        assert_eq!(with("Content-Length: -1").unwrap_err().0, 400);
        assert_eq!(with("Content-Length: 1\r\nContent-Length: 2").unwrap_err().0, 400);
        assert_eq!(with("Transfer-Encoding: chunked").unwrap_err().0, 501);
    }

    #[test]
    fn a_client_that_takes_a_byte_now_and_then_is_given_up() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut slow = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut stream = listener.accept().unwrap().0;
        let began = Instant::now();
        let sending = std::thread::spawn(move || {
            // More than the buffers of the system take.
            send_until(&mut stream, &vec![0; 256 << 20], began + Duration::from_secs(1))
        });
        while !sending.is_finished() && began.elapsed() < Duration::from_secs(8) {
            // Enough each time that the system has room again.
            let _ = slow.read(&mut vec![0; 1 << 18]);
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(sending.is_finished(), "it is still waited for");
        assert!(sending.join().unwrap().is_err());
    }

    #[test]
    fn what_is_no_request_is_refused_and_a_part_is_waited_for() {
        assert!(parse(b"GET / HTTP/1.1\r\nHost: ").unwrap().is_none());
        assert_eq!(parse(b"\x16\x03\x01\x02\x00").unwrap_err().0, 400);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100));
        assert_eq!(parse(many.as_bytes()).unwrap_err().0, 431);
    }
}
