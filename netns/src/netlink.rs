//! netlink: messages for rtnetlink(7), sent in batches, and the kernel's own words when it refuses.
//!
//! A batch is one datagram, which the kernel works off before the call returns: a kill can come before it
//! or after it, not in between. It is not all or nothing, though: messages after a failed one still run.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use anyhow::{Context, Error, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

use crate::signals::{Signals, Wake};
use crate::sys;

// linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_REPLACE: u16 = 0x100;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE: u16 = 0x3fff;
const NLMSGERR_ATTR_MSG: u16 = 1;
const HEADER: usize = 16;

/// One message under construction.
pub struct Message {
    bytes: Vec<u8>,
    /// What it does, for the error: "cannot …".
    what: String,
}

impl Message {
    /// `fixed` is the structure that comes before the attributes (struct ifinfomsg and its like).
    pub fn new(what: impl Into<String>, kind: u16, flags: u16, fixed: &[u8]) -> Message {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(0u32.to_ne_bytes()); // the length, filled in when sent
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend([0; 8]); // sequence, port
        bytes.extend(fixed);
        Message { bytes, what: what.into() }
    }

    pub fn put(mut self, attribute: u16, value: &[u8]) -> Message {
        self.bytes.extend((4 + value.len() as u16).to_ne_bytes());
        self.bytes.extend(attribute.to_ne_bytes());
        self.bytes.extend(value);
        self.pad()
    }

    pub fn put_u32(self, attribute: u16, value: u32) -> Message {
        self.put(attribute, &value.to_ne_bytes())
    }

    /// Strings end with a zero byte.
    pub fn put_str(self, attribute: u16, value: &str) -> Message {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(attribute, &bytes)
    }

    /// Raw bytes between attributes: the ifinfomsg that opens the nest of a veth's peer.
    pub fn raw(mut self, bytes: &[u8]) -> Message {
        self.bytes.extend(bytes);
        self.pad()
    }

    pub fn nest(mut self, attribute: u16, fill: impl FnOnce(Message) -> Message) -> Message {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend((attribute | NLA_F_NESTED).to_ne_bytes());
        let mut filled = fill(self);
        let length = (filled.bytes.len() - start) as u16;
        filled.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    fn pad(mut self) -> Message {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// As it is sent.
    #[cfg(test)]
    pub fn sealed(mut self) -> Vec<u8> {
        self.seal(1, 0);
        self.bytes
    }

    fn seal(&mut self, sequence: u32, more_flags: u16) {
        let length = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[6] |= more_flags.to_ne_bytes()[0];
        self.bytes[7] |= more_flags.to_ne_bytes()[1];
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// The kernel's refusal: its error number and, where it gives one, its sentence.
#[derive(Debug)]
pub struct Refused {
    pub errno: Errno,
    text: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.errno)?;
        match &self.text {
            Some(text) => write!(f, " ({})", text.trim_end_matches('.')),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refused {}

/// The error number behind an error of this module.
pub fn errno(error: &Error) -> Option<Errno> {
    error.downcast_ref::<Refused>().map(|refused| refused.errno)
}

/// What came back for one message of a batch.
pub struct Answer {
    pub result: Result<()>,
    /// Without header: fixed structure and attributes.
    pub payload: Option<Vec<u8>>,
}

pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Room for the largest datagram that a dump makes.
const BUFFER: usize = 32 * 1024;

impl Socket {
    /// A route socket of the network namespace that this process is in now; there it stays.
    pub fn open() -> Result<Socket> {
        Socket::of(SockProtocol::NetlinkRoute)
    }

    /// The same of another family of netlink.
    pub fn of(protocol: SockProtocol) -> Result<Socket> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .context("cannot open a netlink socket")?;
        // Before 4.12 there are no texts; the error number is then all that there is.
        let _ = sys::netlink_option(fd.as_fd(), libc::NETLINK_EXT_ACK);
        Ok(Socket { fd, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// One that is told of every change to a link.
    pub fn listen_to_links() -> Result<Socket> {
        const RTMGRP_LINK: u32 = 1;
        let socket = Socket::open()?;
        bind(socket.fd.as_raw_fd(), &NetlinkAddr::new(0, RTMGRP_LINK)).context("cannot listen to links")?;
        Ok(socket)
    }

    /// Sends one message; its answer, or why the kernel refused.
    pub fn ask(&mut self, message: Message) -> Result<Option<Vec<u8>>> {
        let mut answers = self.batch(vec![message])?;
        let answer = answers.remove(0);
        answer.result.map(|()| answer.payload)
    }

    /// Sends messages whose answers do not matter but for errors: the first one is returned.
    pub fn tell(&mut self, messages: Vec<Message>) -> Result<()> {
        self.batch(messages)?.into_iter().try_for_each(|answer| answer.result)
    }

    /// Sends all messages in one datagram and gives back an answer for each.
    pub fn batch(&mut self, mut messages: Vec<Message>) -> Result<Vec<Answer>> {
        let Some(last) = messages.len().checked_sub(1) else { return Ok(Vec::new()) };
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::with_capacity(512);
        for (at, message) in messages.iter_mut().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            // Errors always come; to know that all is done the last acknowledgement is enough.
            message.seal(self.sequence, if at == last { NLM_F_ACK } else { 0 });
            datagram.extend(&message.bytes);
        }
        send(self.fd.as_raw_fd(), &datagram, MsgFlags::empty()).context("cannot send to the kernel")?;
        let mut answers: Vec<Answer> =
            messages.iter().map(|_| Answer { result: Ok(()), payload: None }).collect();
        loop {
            let length = self.receive()?;
            for part in Parts(&self.buffer[..length]) {
                let at = part.sequence.wrapping_sub(first) as usize;
                let Some(answer) = answers.get_mut(at) else { continue };
                if part.kind != NLMSG_ERROR {
                    answer.payload = Some(part.payload.to_vec());
                    continue;
                }
                if let Some(refused) = refusal(&part) {
                    answer.result = Err(Error::new(refused).context(format!("cannot {}", messages[at].what)));
                }
                if at == last {
                    return Ok(answers);
                }
            }
        }
    }

    /// Asks for a list and hands every entry to `each`. The kernel checks the filter strictly, so that an
    /// attribute which it does not know is an error and not a longer list. What changes meanwhile may be in
    /// the list or not, as a moment later.
    pub fn dump(&mut self, message: Message, mut each: impl FnMut(&[u8])) -> Result<()> {
        let _ = sys::netlink_option(self.fd.as_fd(), libc::NETLINK_GET_STRICT_CHK); // since 4.20
        let mut message = message;
        self.sequence = self.sequence.wrapping_add(1);
        message.seal(self.sequence, NLM_F_DUMP);
        send(self.fd.as_raw_fd(), &message.bytes, MsgFlags::empty()).context("cannot send to the kernel")?;
        loop {
            let length = self.receive()?;
            for part in Parts(&self.buffer[..length]).filter(|part| part.sequence == self.sequence) {
                match part.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => match refusal(&part) {
                        Some(refused) => {
                            return Err(Error::new(refused).context(format!("cannot {}", message.what)));
                        }
                        None => return Ok(()),
                    },
                    _ => each(part.payload),
                }
            }
        }
    }

    /// Waits for the next notification, at most until `deadline`: hands each one to `each` as its kind and
    /// content. False when the time is over.
    pub fn notified(
        &mut self,
        deadline: Instant,
        signals: &Signals,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<bool> {
        match signals.wait(&[self.fd.as_fd()], deadline)? {
            Wake::Deadline => return Ok(false),
            Wake::Ready => {}
        }
        let length = self.receive()?;
        for part in Parts(&self.buffer[..length]) {
            each(part.kind, part.payload);
        }
        Ok(true)
    }

    /// Takes in all notifications that wait; true when there were some, or so many that some were lost.
    pub fn drain(&mut self) -> Result<bool> {
        let mut some = false;
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::ENOBUFS) => some = true,
                Err(Errno::EAGAIN) => return Ok(some),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("cannot hear from the kernel"),
            }
        }
    }

    fn receive(&mut self) -> Result<usize> {
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(length) if length > self.buffer.len() => {
                    bail!("the kernel's answer is too long: {length}")
                }
                Ok(length) => return Ok(length),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("cannot hear from the kernel"),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One message of a datagram from the kernel.
pub struct Part<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    pub payload: &'a [u8],
}

pub struct Parts<'a>(pub &'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let length = u32_at(self.0, 0)? as usize;
        let message = self.0.get(..length).filter(|_| length >= HEADER)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Part {
            kind: u16_at(message, 4)?,
            flags: u16_at(message, 6)?,
            sequence: u32_at(message, 8)?,
            payload: &message[HEADER..],
        })
    }
}

/// None for an acknowledgement. The kernel's sentence comes behind a copy of what it refused.
pub fn refusal(part: &Part<'_>) -> Option<Refused> {
    let errno = u32_at(part.payload, 0)? as i32;
    if errno == 0 {
        return None;
    }
    let copy = if part.flags & NLM_F_CAPPED != 0 { HEADER } else { u32_at(part.payload, 4)? as usize };
    let behind = part.payload.get(4 + copy.next_multiple_of(4)..).unwrap_or(&[]);
    let text = (part.flags & NLM_F_ACK_TLVS != 0)
        .then(|| Attributes(behind).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG))
        .flatten()
        .map(|(_, text)| string(text));
    Some(Refused { errno: Errno::from_raw(errno.wrapping_neg()), text })
}

/// The attributes of a payload or a nest, as (type, value).
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length = u16_at(self.0, 0)? as usize;
        let kind = u16_at(self.0, 2)? & NLA_TYPE;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub fn string(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nests_know_their_length() {
        let message =
            Message::new("try", 16, 0, &[7; 4]).nest(18, |m| m.put_str(1, "veth").put_u32(2, 0x01020304));
        let nest = &message.bytes[20..];
        assert_eq!(u16_at(nest, 0), Some(4 + 12 + 8));
        assert_eq!(u16_at(nest, 2), Some(18 | NLA_F_NESTED));
        let inner: Vec<_> = Attributes(&nest[4..]).collect();
        assert_eq!(inner, [(1, &b"veth\0"[..]), (2, &0x01020304u32.to_ne_bytes()[..])]);
    }

    #[test]
    fn a_refusal_carries_the_kernels_sentence() {
        let mut payload = (-17i32).to_ne_bytes().to_vec();
        payload.extend(20u32.to_ne_bytes()); // the copy: a header that says 20, and four bytes
        payload.extend([0; 16]);
        payload.extend([8, 0, 1, 0]);
        payload.extend(b"no.\0");
        let part = Part { kind: NLMSG_ERROR, flags: NLM_F_ACK_TLVS, sequence: 1, payload: &payload };
        assert_eq!(refusal(&part).unwrap().to_string(), "EEXIST: File exists (no)");
        let plain = Part { flags: 0, ..part };
        assert_eq!(refusal(&plain).unwrap().to_string(), "EEXIST: File exists");
    }

    #[test]
    fn a_cut_datagram_ends_the_iteration() {
        assert_eq!(Parts(&[20, 0, 0, 0, 1]).count(), 0);
        assert_eq!(Attributes(&[200, 0, 1, 0, 1]).count(), 0);
        assert_eq!(Attributes(&[0, 0, 0, 0]).count(), 0);
    }
}
