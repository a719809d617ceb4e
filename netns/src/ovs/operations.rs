//! operations: what a transaction with Open vSwitch's database is made of (RFC 7047 5.2).

use std::time::Duration;

use serde_json::{Value, json};

use crate::ovsdb::rows;

pub fn named(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| select("Port", json!([["name", "==", name]]), &["_uuid"])).collect()
}

pub fn select(table: &str, condition: Value, columns: &[&str]) -> Value {
    json!({"op": "select", "table": table, "where": condition, "columns": columns})
}

pub fn insert(table: &str, called: &str, row: Value) -> Value {
    json!({"op": "insert", "table": table, "uuid-name": called, "row": row})
}

pub fn mutate(table: &str, condition: Value, mutation: Value) -> Value {
    json!({"op": "mutate", "table": table, "where": condition, "mutations": [mutation]})
}

pub fn wait(table: &str, condition: Value, column: &str, until: &str, rows: Value, limit: Duration) -> Value {
    json!({
        "op": "wait", "table": table, "where": condition, "columns": [column], "until": until, "rows": rows,
        "timeout": limit.as_millis() as u64,
    })
}

/// Tells ovs-vswitchd that there is something to do. The table has one row.
pub fn count_up() -> Value {
    mutate("Open_vSwitch", json!([]), json!(["next_cfg", "+=", 1]))
}

pub fn counters() -> Value {
    select("Open_vSwitch", json!([]), &["next_cfg", "cur_cfg"])
}

/// How far `cur_cfg` must come: said by the last operation, as it was in that moment.
pub fn goal(results: &[Value]) -> i64 {
    results.last().map_or(0, |result| counter(result, "next_cfg"))
}

pub fn counter(result: &Value, column: &str) -> i64 {
    rows(result).first().and_then(|row| row[column].as_i64()).unwrap_or_default()
}
