//! ovsdb: asks Open vSwitch's database server over its socket (RFC 7047): JSON values, one after the other.
//!
//! The server is a stranger: what it sends has a limit of size and of depth, every exchange one of time, and
//! no word of it reaches the terminal as it is.

use std::fmt;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::stat::Mode;
use nix::sys::time::{TimeVal, TimeValLike};
use serde_json::{Value, json};
use unshare::fail::hint;

use crate::signals::{Signals, Wake};

/// A thousand ports are described in half a megabyte.
const LONGEST_MESSAGE: usize = 8 << 20;
/// serde_json refuses what is nested deeper than 128; the database nests to 8.
const DEEPEST: usize = 100;
/// Of what the server says in an error.
const LONGEST_TEXT: usize = 300;
/// sockaddr_un has room for 107 bytes and a zero.
const LONGEST_ADDRESS: usize = 107;
const CONNECT: Duration = Duration::from_secs(2);

/// Until when to wait, and whether a signal cuts that short: not while something is being undone.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    pub until: Instant,
    pub signals: Option<&'a Signals>,
}

impl Patience<'_> {
    /// What is left, at least a millisecond: to the kernel no time at all means no limit.
    fn left(&self) -> Result<Duration> {
        match self.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => bail!("the database did not answer in time"),
            left => Ok(left.max(Duration::from_millis(1))),
        }
    }

    /// Until `stream` can be read.
    fn wait(&self, stream: &UnixStream) -> Result<()> {
        if let Some(signals) = self.signals {
            return match signals.wait(&[stream.as_fd()], self.until)? {
                Wake::Ready => Ok(()),
                Wake::Deadline => self.left().map(drop),
            };
        }
        loop {
            let left = self.left()?.as_millis() as u64 + 1;
            let mut polled = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno).context("cannot wait for the database"),
            }
        }
    }
}

/// An operation that the database would not do.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which of the operations; one more than there are when it was the commit.
    pub operation: usize,
    pub error: String,
    pub details: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the database refuses: {}", self.error)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details) }
    }
}

impl std::error::Error for Refused {}

pub struct Client {
    stream: UnixStream,
    incoming: Frames,
    next: u64,
}

impl Client {
    /// None where no socket is at `path`: there is no Open vSwitch.
    pub fn connect(path: &Path) -> Result<Option<Client>> {
        let failed = || format!("cannot reach Open vSwitch's database at '{}'", path.display());
        match dial(path) {
            Ok(stream) => Ok(Some(Client { stream, incoming: Frames::default(), next: 1 })),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno @ (Errno::ECONNREFUSED | Errno::EAGAIN)) => {
                let error = Error::new(errno).context("ovsdb-server does not answer");
                Err(hint(error, "service openvswitch-switch restart")).with_context(failed)
            }
            Err(errno) => Err(errno).with_context(failed),
        }
    }

    /// All operations or none; the results in their order.
    pub fn transact(&mut self, operations: &[Value], patience: Patience<'_>) -> Result<Vec<Value>> {
        let mut params = vec![json!("Open_vSwitch")];
        params.extend_from_slice(operations);
        let results = self.ask("transact", Value::from(params), patience)?;
        let Value::Array(results) = results else { bail!("the database's answer is no list of results") };
        match results.iter().enumerate().find_map(|(at, result)| refusal(at, result)) {
            Some(refused) => Err(refused.into()),
            None if results.len() == operations.len() => Ok(results),
            None => bail!("the database answers {} operations with {}", operations.len(), results.len()),
        }
    }

    fn ask(&mut self, method: &str, params: Value, patience: Patience<'_>) -> Result<Value> {
        let id = self.next;
        self.next += 1;
        self.send(&json!({"method": method, "params": params, "id": id}), patience)?;
        loop {
            let mut message = self.receive(patience)?;
            if message["method"] == "echo" {
                // The server asks whether we live (RFC 7047 4.1.11).
                let (result, id) = (message["params"].take(), message["id"].take());
                self.send(&json!({"result": result, "error": null, "id": id}), patience)?;
            }
            if message["id"] != json!(id) || message.get("method").is_some() {
                continue; // not the answer to this
            }
            return match message["error"].take() {
                Value::Null => Ok(message["result"].take()),
                error => bail!("the database refuses: {}", printable(&error)),
            };
        }
    }

    fn send(&mut self, message: &Value, patience: Patience<'_>) -> Result<()> {
        let text = message.to_string();
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            self.stream.set_write_timeout(Some(patience.left()?)).context("cannot set a time limit")?;
            match self.stream.write(rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) if again(&error) => {}
                Err(error) => return Err(error).context("cannot send to the database"),
            }
        }
        Ok(())
    }

    fn receive(&mut self, patience: Patience<'_>) -> Result<Value> {
        let mut piece = [0; 16 * 1024];
        loop {
            if let Some(frame) = self.incoming.next()? {
                return serde_json::from_slice(&frame).context("what the database says is no JSON");
            }
            patience.wait(&self.stream)?;
            match self.stream.read(&mut piece) {
                Ok(0) => bail!("the database has closed the connection"),
                Ok(length) => self.incoming.extend(&piece[..length]),
                Err(error) if again(&error) => {}
                Err(error) => return Err(error).context("cannot hear from the database"),
            }
        }
    }
}

fn again(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}

/// A path that is too long for a socket's address is reached through its directory. A server that has
/// stopped, with its queue full, must not hold us: hence a time limit for what is usually done at once.
fn dial(path: &Path) -> nix::Result<UnixStream> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(CONNECT.as_secs() as i64))?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::EINVAL) };
    let directory;
    let address = if path.as_os_str().len() <= LONGEST_ADDRESS {
        UnixAddr::new(path)?
    } else {
        directory = open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        UnixAddr::new(&PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))?
    };
    connect(socket.as_raw_fd(), &address)?;
    Ok(UnixStream::from(socket))
}

fn refusal(operation: usize, result: &Value) -> Option<Refused> {
    let error = result.get("error").filter(|error| !error.is_null())?;
    let details = result.get("details").map(printable).unwrap_or_default();
    Some(Refused { operation, error: printable(error), details })
}

/// A stranger's text for the terminal: one line, of no more than so many characters.
pub fn printable(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars().take(LONGEST_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Cuts what arrives into JSON objects by counting brackets, each byte looked at once.
#[derive(Default)]
struct Frames {
    buffer: Vec<u8>,
    looked_at: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Frames {
    fn extend(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next object that is there as a whole.
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        while let Some(&byte) = self.buffer.get(self.looked_at) {
            self.looked_at += 1;
            if self.depth == 0 {
                match byte {
                    b' ' | b'\t' | b'\n' | b'\r' => continue,
                    b'{' => {}
                    _ => bail!("what the database says is no JSON object"),
                }
            }
            self.step(byte);
            if self.depth > DEEPEST {
                bail!("what the database says is nested too deeply");
            }
            if self.depth == 0 {
                let rest = self.buffer.split_off(self.looked_at);
                self.looked_at = 0;
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
        }
        if self.buffer.len() > LONGEST_MESSAGE {
            bail!("what the database says has no end");
        }
        Ok(None)
    }

    fn step(&mut self, byte: u8) {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1, // not below zero: at zero only '{' gets here
            _ => {}
        }
    }
}

/// The rows that a `select` gave.
pub fn rows(result: &Value) -> &[Value] {
    result["rows"].as_array().map_or(&[], Vec::as_slice)
}

/// The elements of a set: one that has exactly one element is written without the frame (RFC 7047 5.1).
pub fn set(value: &Value) -> Vec<&Value> {
    match tagged(value, "set") {
        Some(elements) => elements.as_array().map_or_else(Vec::new, |list| list.iter().collect()),
        None if value.is_null() => Vec::new(),
        None => vec![value],
    }
}

/// What a map has under a key.
pub fn lookup<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    let pairs = tagged(value, "map")?.as_array()?;
    pairs.iter().find(|pair| pair[0] == key)?[1].as_str()
}

pub fn uuid(value: &Value) -> Option<&str> {
    tagged(value, "uuid")?.as_str()
}

fn tagged<'a>(value: &'a Value, tag: &str) -> Option<&'a Value> {
    match value.as_array()?.as_slice() {
        [first, second] if first == tag => Some(second),
        _ => None,
    }
}

/// A map to be written.
pub fn map(pairs: &[(&str, String)]) -> Value {
    let pairs: Vec<Value> = pairs.iter().map(|(key, value)| json!([key, value])).collect();
    json!(["map", pairs])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::thread;

    fn soon<'a>() -> Patience<'a> {
        Patience { until: Instant::now() + Duration::from_secs(5), signals: None }
    }

    /// A client whose server sends `bytes` whatever it is asked, and then stays or goes.
    fn told(bytes: Vec<u8>, stays: bool) -> Client {
        let (stream, mut server) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let _ = server.write_all(&bytes);
            let mut drain = Vec::new();
            let _ = if stays { server.read_to_end(&mut drain) } else { Ok(0) };
        });
        Client { stream, incoming: Frames::default(), next: 1 }
    }

    fn transact(bytes: &[u8]) -> Result<Vec<Value>> {
        told(bytes.to_vec(), true).transact(&[json!({"op": "comment"})], soon())
    }

    #[test]
    fn objects_are_cut_where_they_end_not_at_brackets_in_strings() {
        let mut frames = Frames::default();
        let text = br#"{"a":"}\"\\"} {"b":[{}]}"#;
        for byte in &text[..text.len() - 1] {
            frames.extend(&[*byte]);
        }
        assert_eq!(frames.next().unwrap().unwrap(), br#"{"a":"}\"\\"}"#);
        assert_eq!(frames.next().unwrap(), None);
        frames.extend(b"}");
        assert_eq!(frames.next().unwrap().unwrap(), br#" {"b":[{}]}"#);
    }

    #[test]
    fn an_echo_is_answered_and_what_is_not_asked_for_passes_by() {
        let answer = br#"{"method":"echo","params":["x"],"id":"echo"}{"id":7,"result":[]}
            {"method":"update","id":1,"params":[]}{"id":1,"error":null,"result":[{"count":1}]}"#;
        let (stream, mut server) = UnixStream::pair().unwrap();
        let heard = thread::spawn(move || {
            server.write_all(answer).unwrap();
            let mut heard = String::new();
            server.read_to_string(&mut heard).unwrap();
            heard
        });
        let mut client = Client { stream, incoming: Frames::default(), next: 1 };
        assert_eq!(client.transact(&[json!({})], soon()).unwrap(), [json!({"count": 1})]);
        drop(client);
        let heard = heard.join().unwrap();
        assert!(heard.ends_with(r#"{"error":null,"id":"echo","result":["x"]}"#), "{heard}");
    }

    #[test]
    fn a_refusal_says_which_operation_and_is_one_printable_line() {
        let answer = br#"{"id":1,"error":null,"result":[{},{"error":"bad","details":"a\u001b[2J\nb"}]}"#;
        let error = transact(answer).unwrap_err();
        let refused = error.downcast_ref::<Refused>().unwrap();
        assert_eq!((refused.operation, refused.error.as_str()), (1, "bad"));
        assert_eq!(error.to_string(), "the database refuses: bad: a [2J b");
        assert!(transact(br#"{"id":1,"error":"no","result":null}"#).is_err());
        assert!(transact(br#"{"id":1,"error":null,"result":[]}"#).is_err());
        assert!(transact(br#"{"id":1}"#).is_err());
    }

    #[test]
    fn a_server_that_is_silent_or_endless_has_its_limits() {
        let start = Instant::now();
        let brief = Patience { until: start + Duration::from_millis(50), signals: None };
        let error = told(b"{\"id\":".to_vec(), true).transact(&[], brief).unwrap_err();
        assert_eq!(error.to_string(), "the database did not answer in time");
        assert!(start.elapsed() < Duration::from_secs(2));
        assert!(told(Vec::new(), false).transact(&[], soon()).is_err());
        let endless = [br#"{"a":""#.as_slice(), &vec![b'x'; LONGEST_MESSAGE + 1]].concat();
        assert_eq!(transact(&endless).unwrap_err().to_string(), "what the database says has no end");
        let deep = vec![b'{'; 1_000_000];
        assert_eq!(transact(&deep).unwrap_err().to_string(), "what the database says is nested too deeply");
        assert!(transact(b"[1]").is_err());
    }

    /// A server that echoes without end and reads nothing must not hold us beyond the limit.
    #[test]
    fn echoes_without_end_end_with_the_time() {
        let (stream, mut server) = UnixStream::pair().unwrap();
        thread::spawn(move || while server.write_all(br#"{"method":"echo","id":1,"params":[]}"#).is_ok() {});
        let mut client = Client { stream, incoming: Frames::default(), next: 1 };
        let start = Instant::now();
        let brief = Patience { until: start + Duration::from_millis(100), signals: None };
        assert!(client.transact(&[json!({})], brief).is_err());
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn sets_and_maps_are_read_as_the_server_writes_them() {
        assert_eq!(set(&json!(["set", [1, 2]])), [&json!(1), &json!(2)]);
        assert_eq!(set(&json!(7)), [&json!(7)]);
        assert_eq!(set(&json!(["uuid", "x"])), [&json!(["uuid", "x"])]);
        assert!(set(&json!(["set", []])).is_empty() && set(&Value::Null).is_empty());
        assert_eq!(lookup(&json!(["map", [["a", "b"]]]), "a"), Some("b"));
        assert_eq!(lookup(&json!(["map", [3, [], ["a"]]]), "a"), None);
        assert_eq!(lookup(&json!("map"), "a"), None);
    }

    /// Random and mutated answers, FUZZ_SECONDS long (else 300 of them): no panic, no hang.
    #[test]
    fn garbled_answers_never_harm() {
        let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|word| word.parse().ok());
        let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let good = br#"{"id":1,"error":null,"result":[{"rows":[{"_uuid":["uuid","1"],"ports":["set",[]],"m":["map",[["a","b"]]],"n":-1}]}]}"#;
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let mut rounds = 0;
        while end.map_or(rounds < 300, |end| Instant::now() < end) {
            rounds += 1;
            let mut bytes = good.to_vec();
            for _ in 0..=random(6) {
                let at = random(bytes.len());
                match random(5) {
                    0 => bytes[at] = random(256) as u8,
                    1 => bytes.truncate(at.max(1)),
                    2 => bytes.insert(at, br#"{}[]",:\0e-"#[random(11)]),
                    3 => drop(bytes.remove(at)),
                    _ => bytes.extend_from_within(at..),
                }
                if bytes.is_empty() {
                    bytes.push(b'{');
                }
            }
            let mut client = told(bytes, false);
            if let Ok(results) = client.transact(&[json!({"op": "select"})], soon()) {
                for row in rows(&results[0]) {
                    set(&row["ports"])
                        .into_iter()
                        .for_each(|port| assert!(uuid(port).is_none_or(|text| text.len() < 1000)));
                    lookup(&row["m"], "a");
                }
            }
        }
    }
}
