//! report: hops as lines and as JSON.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::Hop;
use super::names::Names;
use super::reply::{Reply, What};

/// "TTL  ADDRESS [open]  0.123 ms  0.120 ms *": an address once for the times that follow it.
pub fn line(ttl: u8, hop: &Hop, names: &Names) -> String {
    let mut line = format!("{ttl:2} ");
    let mut last = None;
    for reply in hop {
        let Some(reply) = reply else {
            line += " *";
            continue;
        };
        if last != Some((reply.from, &reply.what)) {
            line += &format!(" {}{}", shown(reply.from, names), reply.what.mark());
            last = Some((reply.from, &reply.what));
        }
        let us = reply.time.as_micros();
        line += &format!("  {}.{:03} ms", us / 1000, us % 1000);
    }
    line + "\n"
}

fn shown(address: Option<IpAddr>, names: &Names) -> String {
    let Some(address) = address else { return "?".into() };
    match names.of(address) {
        Some(name) => format!("{name} ({address})"),
        None => address.to_string(),
    }
}

pub fn json(ttl: u8, hop: &Hop, names: &Names) -> Value {
    let replies: Vec<Value> = hop.iter().map(|reply| reply_json(reply.as_ref(), names)).collect();
    json!({"ttl": ttl, "replies": replies})
}

fn reply_json(reply: Option<&Reply>, names: &Names) -> Value {
    let Some(reply) = reply else { return Value::Null };
    let (state, why) = match reply.what {
        What::Passing => ("passing", None),
        What::Open => ("open", None),
        What::Closed => ("closed", None),
        What::Refused(why) => ("refused", Some(why)),
    };
    let name = reply.from.and_then(|address| names.of(address));
    json!({
        "address": reply.from.map(|address| address.to_string()), "name": name, "state": state, "why": why,
        "ms": reply.time.as_micros() as f64 / 1e3,
    })
}
