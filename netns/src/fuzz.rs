//! fuzz: what the kernel or a file says may be garbled; no reader may panic or run on for ever. A third of a
//! second each, or FUZZ_SECONDS; the seed is in the message of a failure.

use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::chains::Chain;
use crate::netlink::{Attributes, Parts, refusal};
use crate::ovs::bridge;
use crate::rtnl::{self, Link, VlanEntry};
use crate::{file, rate, uplink};

/// xorshift64*: small, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }
}

fn for_a_while(mut each: impl FnMut(&mut Dice)) {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|word| word.parse().ok()).unwrap_or(0.3);
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut seed = (u64::from(std::process::id()) << 32) | 1;
    while Instant::now() < end {
        for _ in 0..100 {
            seed += 2;
            each(&mut Dice(seed));
        }
    }
}

fn garble(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.roll(6) {
        match dice.roll(4) {
            0 if !bytes.is_empty() => {
                let at = dice.roll(bytes.len());
                bytes[at] = [0, 1, 3, 4, 0x7f, 0x80, 0xff, dice.roll(256) as u8][dice.roll(8)];
            }
            1 => bytes.truncate(dice.roll(bytes.len() + 1)),
            2 => bytes.extend((0..dice.roll(40)).map(|_| dice.roll(256) as u8)),
            _ => {
                let from = dice.roll(bytes.len() + 1);
                let piece: Vec<u8> = bytes[from..].iter().take(dice.roll(30)).copied().collect();
                let at = dice.roll(bytes.len() + 1);
                bytes.splice(at..at, piece);
            }
        }
    }
}

#[test]
fn no_message_of_the_kernel_makes_a_reader_panic() {
    let own = std::fs::File::open("/proc/self/ns/net").unwrap();
    let pair = rtnl::Pair {
        what: String::new(),
        outer: "outer",
        master: Some(7),
        inner: "eth0",
        namespace: std::os::fd::AsFd::as_fd(&own),
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: Some(1400),
    };
    let cidr = crate::address::Cidr::parse("10.0.0.1/24").unwrap();
    let seeds = [
        rtnl::new_pair(&pair),
        rtnl::new_bridge("br0", [2, 0, 0, 0, 0, 1]),
        rtnl::new_address(3, &cidr),
        rtnl::new_default_route(3, cidr.address),
        rtnl::add_vlan(3, VlanEntry { id: 7, untagged: true }),
        rate::limit(3, rate::Rate::parse("80mbit").unwrap()),
    ]
    .map(|message| message.sealed());
    for_a_while(|dice| {
        let mut bytes = seeds[dice.roll(seeds.len())].clone();
        garble(dice, &mut bytes);
        let state = dice.0;
        let read = catch_unwind(|| {
            for part in Parts(&bytes) {
                let _ = refusal(&part);
                read_all(part.payload);
            }
            read_all(bytes.get(16..).unwrap_or(&[]));
        });
        assert!(read.is_ok(), "at {state:#x}: {bytes:02x?}");
    });
}

#[test]
fn no_row_of_a_database_makes_a_reader_panic() {
    let good = br#"[{"rows":[{"name":"br0","datapath_type":"netdev","ports":["set",[["uuid","1"],["uuid","2"]]]}]},
        {"rows":[{"_uuid":["uuid","1"],"name":"p","interfaces":["uuid","3"],"tag":7,"trunks":["set",[1,2]],
            "external_ids":["map",[["netns","web"],["netns-ifname","eth0"]]]},{"_uuid":["uuid","2"],"name":"br0"}]},
        {"rows":[{"_uuid":["uuid","3"],"name":"p","type":"vxlan","options":["map",[["remote_ip","192.0.2.1"],["key","7"]]],
            "mtu_request":["set",[]],"error":"x"}]}]"#;
    let read =
        |bytes: &[u8]| serde_json::from_slice::<Vec<Value>>(bytes).map(|selected| bridge::read(&selected));
    let whole = &read(good).unwrap()[0];
    assert_eq!((whole.ports.len(), whole.ports[0].tag, whole.netdev), (1, Some(7), true));
    let mut taken = 0;
    for_a_while(|dice| {
        let mut bytes = good.to_vec();
        let pieces =
            [&b"[]"[..], b"{}", b"null", b"-1", b"1e99", b"\"set\"", b"[\"map\",[3,[],[\"a\"]]]", b"\xff"];
        for _ in 0..=dice.roll(4) {
            let from = dice.roll(bytes.len());
            let to = from + dice.roll((bytes.len() - from).min(12));
            bytes.splice(from..to, pieces[dice.roll(pieces.len())].iter().copied());
        }
        taken += usize::from(read(&bytes).is_ok());
    });
    assert!(taken > 0);
}

fn read_all(payload: &[u8]) {
    let _ = Link::parse(payload);
    let _ = rtnl::parse_address(payload);
    let _ = rtnl::parse_vlans(payload);
    let _ = rate::parse(payload.get(20..).unwrap_or(&[]));
    let _ = Chain::parse(payload);
    let _ = uplink::sort(payload, 3);
    let _ = rtnl::gone(17, payload);
    assert!(Attributes(payload).count() <= payload.len() / 4 + 1);
}

#[test]
fn no_line_makes_the_reader_panic_and_what_is_taken_is_written_as_it_is_read() {
    const WORDS: [&str; 44] = [
        "add",
        "link",
        "switch",
        "nat",
        "on",
        "publish",
        "web",
        "web:eth0",
        "'a b'",
        "'a b:eth0'",
        "br0",
        "--address",
        "10.0.0.1/24",
        "10.0.0.2/24",
        "fd00::1/64",
        "via",
        "10.0.0.254",
        "mtu",
        "1400",
        "mac",
        "02:00:00:00:00:01",
        "tag",
        "10",
        "trunk",
        "20,30",
        "rate",
        "80mbit",
        "promisc",
        "--nat",
        "--mtu",
        "--uplink",
        "eth0",
        "8080",
        "web:80",
        "udp",
        "[fd00::1]:80",
        "macvlan:eth0",
        "--next-free",
        "pid:7:eth0",
        "/x/y:eth0",
        "#",
        "''",
        "\\",
        "ü:é",
    ];
    let mut taken = 0;
    for_a_while(|dice| {
        let starts = ["add", "link web:eth0 br0", "switch add br0", "nat on br0", "publish 80 web:80", ""];
        let mut line = starts[dice.roll(starts.len())].to_owned();
        for _ in 0..dice.roll(7) {
            line += " ";
            line += WORDS[dice.roll(WORDS.len())];
        }
        let Ok(Some(statement)) = file::read_line(&line) else { return };
        taken += 1;
        let written = statement.to_string();
        let mut again = match file::read_line(&written) {
            Ok(Some(statement)) => statement,
            other => panic!("{line} -> {written}: {other:?}"),
        };
        // Whether to ask is for the moment, not for the state.
        if let (crate::words::Statement::Link(one), crate::words::Statement::Link(other)) =
            (&statement, &mut again)
        {
            other.check = one.check;
        }
        assert_eq!(again, statement, "{line}");
    });
    assert!(taken > 0);
}
