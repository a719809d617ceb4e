//! unshare: user namespaces: who maps which ids, by which words, and what happens where two maps meet.

mod common;

use common::{Outcome, inside, run, theirs, theirs_lacks};

/// Prints both maps, one line each, `inner outer count` joined by commas, then setgroups, uid and gid.
const SHOW: &str = r#"
    maps() {
        for map in uid_map gid_map; do
            sed 's/^ *//; s/  */ /g' /proc/self/$map | tr '\n' ,
            echo
        done
        echo $(cat /proc/self/setgroups) $(id -u) $(id -g)
    }
    maps
"#;

/// Users and their subordinate ids for a sandbox; u1 has no groups of its own there.
const USERS: &str = r#"
    mkdir $T/etc
    cp /etc/passwd /etc/group $T/etc
    echo 'u1:x:1234:1235::/:/bin/sh' >>$T/etc/passwd
    echo 'g1:x:1235:' >>$T/etc/group
    printf 'other:1:2\nroot:500000:2000\nu1:600000:2000\n' >$T/etc/subuid
    printf 'broken\n0:500000:2000\nu1:700000:1000\n' >$T/etc/subgid
    touch /etc/subuid /etc/subgid
    for file in passwd group subuid subgid; do mount --bind $T/etc/$file /etc/$file; done
    as_user() { setpriv --reuid=1234 --regid=1235 --clear-groups "$@"; }
"#;

/// What the maps are with these options, for root and in the sandbox with users.
#[track_caller]
fn maps(options: &str) -> Outcome {
    inside(&format!(
        "{USERS}\nexport SHOW='{}'\n\"$BIN/unshare\" {options} sh -c \"$SHOW\"",
        SHOW.replace('\'', "'\\''")
    ))
}

/// The same for an ordinary user.
#[track_caller]
fn users_maps(options: &str) -> Outcome {
    inside(&format!(
        "{USERS}\nexport SHOW='{}'\nas_user \"$BIN/unshare\" {options} sh -c \"$SHOW\"",
        SHOW.replace('\'', "'\\''")
    ))
}

#[test]
#[ignore = "needs root: tests/run"]
fn without_a_map_all_ids_are_nobody() {
    maps("-U").ended_with(0).printed("\n\nallow 65534 65534\n");
    maps("-U --setgroups deny").ended_with(0).printed("\n\ndeny 65534 65534\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_own_id_becomes_root_itself_or_any() {
    users_maps("-r").ended_with(0).printed("0 1234 1,\n0 1235 1,\ndeny 0 0\n");
    users_maps("-c").ended_with(0).printed("1234 1234 1,\n1235 1235 1,\ndeny 1234 1235\n");
    users_maps("--map-user 7 --map-group=8").ended_with(0).printed("7 1234 1,\n8 1235 1,\ndeny 7 8\n");
    users_maps("--map-user=root --map-group g1")
        .ended_with(0)
        .printed("0 1234 1,\n1235 1235 1,\ndeny 0 1235\n");
    // Of several the last counts, whichever option it is.
    users_maps("-r --map-user 7").ended_with(0).printed("7 1234 1,\n0 1235 1,\ndeny 7 0\n");
    users_maps("--map-user 7 -c").ended_with(0).printed("1234 1234 1,\n1235 1235 1,\ndeny 1234 1235\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_user_alone_leaves_groups_as_they_were() {
    users_maps("--map-user 7").ended_with(0).printed("7 1234 1,\n\nallow 7 65534\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn names_and_numbers_that_mean_nobody_are_refused() {
    for option in ["--map-user nosuch", "--map-group nosuch", "--map-user 4294967296", "--map-user=-1"] {
        if theirs_lacks("unshare", "--owner") && !option.ends_with("nosuch") {
            continue; // cut to 32 bits there, and -1 means no map
        }
        maps(option).ended_with(1).said("failed to parse").printed("");
    }
    if theirs_lacks("unshare", "--map-subids") {
        return; // other words
    }
    for option in ["1:2", "0:1:2:3", "a:b:c", "1,2", "1:2:x"] {
        maps(&format!("--map-users {option}")).ended_with(1).said("invalid mapping").printed("");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn setgroups_cannot_be_allowed_with_a_group_of_ones_own() {
    run("unshare", &["-r", "--setgroups", "allow", "true"]).ended_with(1).said("mutually exclusive");
    run("unshare", &["-r", "--setgroups", "perhaps", "true"])
        .ended_with(1)
        .said("unsupported --setgroups argument 'perhaps'");
    if !theirs() {
        // util-linux writes it twice, and the second time the kernel refuses.
        users_maps("-r --setgroups deny").ended_with(0).printed("0 1234 1,\n0 1235 1,\ndeny 0 0\n");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn root_writes_blocks_of_ids_in_all_their_forms() {
    if theirs_lacks("unshare", "--map-subids") {
        return; // before 2.40 root needs newuidmap, too
    }
    let both = "0 100000 10,\n5 200000 3,\nallow 65534 65534\n";
    maps("--map-users 0:100000:10 --map-groups=5:200000:3").ended_with(0).printed(both);
    maps("--map-users 100000,0,10 --map-groups 200000,5,3").ended_with(0).printed(both);
    maps("--map-users 0:100000:10 --map-users 20:200000:3")
        .ended_with(0)
        .printed("0 100000 10,20 200000 3,\n\nallow 65534 65534\n");
    maps("--map-users all --map-groups all")
        .ended_with(0)
        .printed("0 0 4294967295,\n0 0 4294967295,\nallow 0 0\n");
    if !theirs() {
        // As the seed's launcher took the kernel's lines: commas for the ends of the lines.
        for map in ["0:100000:10,20:200000:3", "'0 100000 10,20 200000 3'"] {
            maps(&format!("--map-users {map}"))
                .ended_with(0)
                .printed("0 100000 10,20 200000 3,\n\nallow 65534 65534\n");
        }
        // util-linux writes this after the map, which the kernel refuses.
        maps("--map-users all --map-groups all --setgroups deny")
            .ended_with(0)
            .printed("0 0 4294967295,\n0 0 4294967295,\ndeny 0 0\n");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn blocks_lie_around_the_own_id_and_none_is_lost() {
    if theirs_lacks("unshare", "--owner") {
        return; // before 2.43 one is
    }
    if !theirs() {
        // util-linux gives root the ids of "other", which comes first: its name is read as the number 0.
        maps("-r --map-auto")
            .ended_with(0)
            .printed("0 0 1,1 500000 2000,\n0 0 1,1 500000 2000,\nallow 0 0\n");
        maps("--map-auto --map-users auto")
            .ended_with(0)
            .printed("0 500000 2000,\n0 500000 2000,\nallow 65534 65534\n");
        maps("--map-user 5 --map-users 0:100000:5")
            .ended_with(0)
            .printed("5 0 1,0 100000 5,\n\nallow 5 65534\n");
    }
    users_maps("-r --map-auto")
        .ended_with(0)
        .printed("0 1234 1,1 600000 2000,\n0 1235 1,1 700000 1000,\nallow 0 0\n");
    users_maps("-c --map-auto")
        .ended_with(0)
        .printed("1234 1234 1,0 600000 1234,1235 601234 766,\n1235 1235 1,0 700000 1000,\nallow 1234 1235\n");
    maps("-r --map-users 0:100000:10").ended_with(0).printed("0 0 1,1 100000 9,\n0 0 1,\ndeny 0 0\n");
    maps("--map-user 2 --map-users 0:0:5").ended_with(0).printed("2 0 1,0 1 2,3 3 2,\n\nallow 2 65534\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn subordinate_ids_can_be_mapped_as_themselves() {
    if theirs_lacks("unshare", "--map-subids") {
        return;
    }
    users_maps("-r --map-subids")
        .ended_with(0)
        .printed("0 1234 1,600000 600000 2000,\n0 1235 1,700000 700000 1000,\nallow 0 0\n");
    users_maps("--map-users subids --map-groups subids")
        .ended_with(0)
        .printed("600000 600000 2000,\n700000 700000 1000,\nallow 65534 65534\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn who_has_no_subordinate_ids_is_told() {
    inside(&format!("{USERS}\n: >$T/etc/subuid\nas_user \"$BIN/unshare\" --map-auto true"))
        .ended_with(1)
        .said("no line matching user \"u1\" in /etc/subuid");
    if !theirs() {
        inside(&format!("{USERS}\n: >$T/etc/subuid\nas_user \"$BIN/unshare\" --map-auto true"))
            .ended_with(1)
            .said("hint: usermod --add-subuids ");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_missing_or_failing_newuidmap_gives_its_status() {
    // Started by setpriv itself, which may still enter the directory of the binary: it may lie in /root.
    let without = "mkdir $T/path; setpriv=$(command -v setpriv); PATH=$T/path $setpriv --reuid=1234 --regid=1235 \
                   --clear-groups \"$BIN/unshare\" --map-auto touch $T/ran";
    inside(&format!("{USERS}\nchmod 777 $T\n{without} || echo $?; [ ! -e $T/ran ]"))
        .ended_with(0)
        .said("failed to execute newuidmap")
        .printed("127\n");
    let foreign = "as_user \"$BIN/unshare\" --map-users 0,0,5 touch $T/ran";
    inside(&format!("{USERS}\nchmod 777 $T\n{foreign} || echo $?; [ ! -e $T/ran ]"))
        .ended_with(0)
        .said("newuidmap")
        .printed("1\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn the_owner_of_the_namespace_is_who_was_named() {
    if theirs_lacks("unshare", "--owner") {
        return;
    }
    // NS_GET_OWNER_UID (0xb704) of the namespace, asked from outside it.
    let owner = r#"perl -e 'open(F, "<", $ARGV[0]) or die; $u = pack("L", 0); ioctl(F, 0xb704, $u) or die "$!"; print unpack("L", $u), "\n"'"#;
    let script = format!(
        r#"{USERS}
        mkfifo $T/up $T/go
        chmod 777 $T $T/up $T/go
        "$BIN/unshare" --owner 1234:1235 -r -n sh -c 'echo $$ $(id -u); read x <$0/go' $T >$T/up &
        read pid uid <$T/up
        echo $uid
        {owner} /proc/$pid/ns/user
        sed 's/  */ /g' /proc/$pid/uid_map
        grep -E '^(Uid|Gid|Groups)' /proc/$pid/status
        echo >$T/go
        wait"#
    );
    inside(&script).ended_with(0).printed(
        "65534\n1234\n 0 0 1\nUid:\t1234\t1234\t1234\t1234\nGid:\t1235\t1235\t1235\t1235\nGroups:\t \n",
    );
    run("unshare", &["--owner", "1234", "true"]).ended_with(1).said("failed to parse owner");
    if !theirs() {
        // util-linux is refused: it writes as who it has become.
        let time = std::path::Path::new("/proc/self/ns/time").exists();
        let options = if time { "-T --boottime 7" } else { "" };
        maps(&format!("--owner 1234:1235 --setgroups deny {options}"))
            .ended_with(0)
            .printed("\n\ndeny 65534 65534\n");
    }
}

#[test]
#[ignore = "needs root: tests/run"]
fn capabilities_survive_the_exec_of_an_unprivileged_user_on_request() {
    let ask = "grep -E 'Cap(Eff|Amb)' /proc/self/status";
    users(&format!("-c {ask}"), "CapEff:\t0000000000000000\nCapAmb:\t0000000000000000\n");
    let all = format!("{:016x}", all_caps());
    users(&format!("-c --keep-caps {ask}"), &format!("CapEff:\t{all}\nCapAmb:\t{all}\n"));
    // Without a user namespace it means nothing.
    users_outside(&format!("-u --keep-caps {ask}"));
}

#[track_caller]
fn users(arguments: &str, printed: &str) {
    inside(&format!("{USERS}\nas_user \"$BIN/unshare\" {arguments}")).ended_with(0).printed(printed);
}

#[track_caller]
fn users_outside(arguments: &str) {
    inside(&format!("{USERS}\n\"$BIN/unshare\" {arguments}"))
        .ended_with(0)
        .printed(&format!("CapEff:\t{:016x}\nCapAmb:\t0000000000000000\n", bounding()));
}

fn all_caps() -> u64 {
    let last: u32 = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap().trim().parse().unwrap();
    (1 << (last + 1)) - 1
}

/// What root in the sandbox has.
fn bounding() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[test]
#[ignore = "needs root: tests/run"]
fn another_user_keeps_the_capabilities_that_are_named() {
    if theirs() {
        return;
    }
    let ask = ["grep", "-E", "Cap|^Uid", "/proc/self/status"];
    let cap = "0000000000000400"; // net_bind_service
    run("unshare", &[&["-S", "7", "-G", "8", "--caps", "net_bind_service"][..], &ask].concat())
        .ended_with(0)
        .printed(&format!(
            "Uid:\t7\t7\t7\t7\nCapInh:\t{cap}\nCapPrm:\t{cap}\nCapEff:\t{cap}\nCapBnd:\t{cap}\nCapAmb:\t{cap}\n"
        ));
}

#[test]
#[ignore = "needs root: tests/run"]
fn setuid_and_setgid_take_numbers_and_drop_groups() {
    run("unshare", &["-S", "7", "-G", "8", "sh", "-c", "id -u; id -g; id -G"])
        .ended_with(0)
        .printed("7\n8\n8\n");
    run("unshare", &["-S", "nobody", "true"]).ended_with(1).said("failed to parse uid: 'nobody'");
    run("unshare", &["-G", "x", "true"]).ended_with(1).said("failed to parse gid: 'x'");
    let got = run("unshare", &["-r", "-G", "0", "true"]).ended_with(1).said("setgroups failed");
    if !theirs() {
        got.said("hint: ");
    }
}
