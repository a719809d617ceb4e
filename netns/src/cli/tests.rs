//! tests: command lines as they are read.

use std::time::Duration;

use unshare::fail::Usage;

use super::*;

fn parsed(line: &str) -> Result<Command> {
    parse(lexopt::Parser::from_args(line.split(' ').filter(|word| !word.is_empty()))).1
}

fn is_usage(line: &str) -> bool {
    parsed(line).is_err_and(|e| e.is::<Usage>() || e.is::<lexopt::Error>())
}

#[test]
fn a_link_is_read_in_any_order() {
    let Command::Make { statement: Statement::Link(link), .. } = parsed(
        "link web:eth0 --check 50 br0 10.0.0.1/24 mtu 1400 via 10.0.0.254 mac 02:00:00:00:00:01 fd00::1/64",
    )
    .unwrap() else {
        panic!("not a link")
    };
    assert_eq!((link.end.label().as_str(), link.onto.name()), ("web:eth0", "br0"));
    assert_eq!((link.addresses.len(), link.gateways.len()), (2, 1));
    assert_eq!((link.mtu, link.mac), (Some(1400), Some([2, 0, 0, 0, 0, 1])));
    assert_eq!(link.check, Some(Duration::from_millis(50)));
}

#[test]
fn what_is_malformed_is_a_usage_error() {
    for line in [
        "",
        "nothing",
        "add",
        "add -- -x",
        "add a/b",
        "add --wait x",
        "del",
        "del --all web",
        "attach web",
        "attach web 0",
        "attach web 1 2",
        "attach a/b 1",
        "list x",
        "pids",
        "pids a b",
        "identify x",
        "identify 0",
        "show --plan --json",
        "show web",
        "monitor x",
        "link web:eth0",
        "link web br0",
        "link web:eth0 br0 10.0.0.1",
        "link web:eth0 br0 10.0.0.1/24 via",
        "link web:eth0 br0 via 10.0.0.254",
        "link web:eth0 br0 10.0.0.1/24 via 10.0.0.2 via 10.0.0.3",
        "link web:eth0 br0 10.0.0.1/24 10.0.0.1/16",
        "link web:eth0 br0 mtu 67",
        "link web:eth0 br0 fd00::1/64 mtu 1000",
        "link web:eth0 br0 --check 0",
        "link web:eth0 br0 --check x",
        "link web:eth0 0123456789abcdef",
        "unlink",
        "unlink web:eth0 more",
        "link web:eth0 br0 tag 0",
        "link web:eth0 br0 tag 4095",
        "link web:eth0 br0 tag x",
        "link web:eth0 br0 tag 10 tag 11",
        "link web:eth0 br0 tag 10 trunk 10,20",
        "link web:eth0 br0 trunk 10,,20",
        "link web:eth0 br0 rate 80",
        "link web:eth0 br0 10.0.0.1/24 --next-free",
        "link web:eth0 macvlan:eth0 tag 10",
        "link web:eth0 macvlan: 10.0.0.1/24",
        "apply",
        "apply a b",
        "diff",
        "diff -n a",
        "nat",
        "nat maybe br0",
        "nat on",
        "nat on br;x",
        "nat off a b",
        "publish 80",
        "publish 0 web:80",
        "publish 80 web",
        "publish 80 web:80 icmp",
        "unpublish",
        "unpublish 80 udp x",
        "switch",
        "switch make br0",
        "switch add",
        "switch add a b",
        "switch add br0 --address 10.0.0.0/24",
        "switch add br0 --address 10.0.0.1/24 --address 10.0.1.1/24",
        "switch add br;x --nat",
        "switch show a b",
    ] {
        assert!(is_usage(line), "{line}: {:?}", parsed(line));
    }
}

#[test]
fn the_programs_options_are_its_own() {
    let expected = |argv: &[&str]| Command::Exec {
        target: Target::Name("web".into()),
        argv: argv.iter().map(OsString::from).collect(),
    };
    assert_eq!(parsed("exec web ls -l --help").unwrap(), expected(&["ls", "-l", "--help"]));
    assert_eq!(parsed("exec web -- ls -- x").unwrap(), expected(&["ls", "--", "x"]));
    assert!(is_usage("exec web") && is_usage("exec web --") && is_usage("exec"));
}

#[test]
fn help_is_there_for_every_command() {
    for line in ["-h", "--help", "add --help", "exec --help", "link -h", "switch --help", "switch add -h"] {
        assert_eq!(parsed(line).unwrap(), Command::Help, "{line}");
    }
}
