//! cgset's words on made-up hosts: what is written where, in which order, and what is refused before.

mod cgset_bed;
mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use cgset_bed::Host;
use common::{finish, tool};

const ALL: &str = "cpuset cpu io memory pids\n";

fn v2_with_disks() -> Host {
    let host = Host::v2(ALL);
    host.write("sys/fs/cgroup/cgroup.subtree_control", ALL);
    disks(&host);
    host
}

/// A disk 8:0 with a partition 8:1.
fn disks(host: &Host) {
    host.write("sys/devices/sda/dev", "8:0\n");
    host.write("sys/devices/sda/sda1/dev", "8:1\n");
    host.write("sys/devices/sda/sda1/partition", "1\n");
    fs::create_dir_all(host.0.join("sys/dev/block")).unwrap();
    symlink("../../devices/sda", host.0.join("sys/dev/block/8:0")).unwrap();
    symlink("../../devices/sda/sda1", host.0.join("sys/dev/block/8:1")).unwrap();
}

#[test]
fn every_word_has_its_file_on_v2() {
    let host = v2_with_disks();
    let words = [
        "web",
        "high=80M",
        "low=20M",
        "min=1M",
        "oomgroup=1",
        "weight=50",
        "ioweight=2500",
        "cpus=0-1",
        "mems=max",
        "read=8:1:10M",
        "write=8:0:1.5M",
        "riops=8:0:100",
        "wiops=8:0:max",
        "cpu.max.burst=5000",
        "io.bfq.weight=7?",
    ];
    let want = "\
mkdir /sys/fs/cgroup/web
echo 83886080 > /sys/fs/cgroup/web/memory.high
echo 20971520 > /sys/fs/cgroup/web/memory.low
echo 1048576 > /sys/fs/cgroup/web/memory.min
echo 1 > /sys/fs/cgroup/web/memory.oom.group
echo 50 > /sys/fs/cgroup/web/cpu.weight
test -e /sys/fs/cgroup/web/io.weight || test -e /sys/fs/cgroup/web/io.bfq.weight
! test -e /sys/fs/cgroup/web/io.weight || echo 'default 2500' > /sys/fs/cgroup/web/io.weight
! test -e /sys/fs/cgroup/web/io.bfq.weight || echo 'default 1000' > /sys/fs/cgroup/web/io.bfq.weight
echo 0-1 > /sys/fs/cgroup/web/cpuset.cpus
echo '' > /sys/fs/cgroup/web/cpuset.mems
echo 8:0 rbps=10485760 > /sys/fs/cgroup/web/io.max
echo 8:0 wbps=1572864 > /sys/fs/cgroup/web/io.max
echo 8:0 riops=100 > /sys/fs/cgroup/web/io.max
echo 8:0 wiops=max > /sys/fs/cgroup/web/io.max
echo 5000 > /sys/fs/cgroup/web/cpu.max.burst
! test -e /sys/fs/cgroup/web/io.bfq.weight || echo 7 > /sys/fs/cgroup/web/io.bfq.weight
"
    .replace("echo 8:0 rbps=10485760", "echo '8:0 rbps=10485760'")
    .replace("echo 8:0 wbps=1572864", "echo '8:0 wbps=1572864'")
    .replace("echo 8:0 riops=100", "echo '8:0 riops=100'")
    .replace("echo 8:0 wiops=max", "echo '8:0 wiops=max'");
    assert_eq!(host.plan(&words), want);
}

#[test]
fn every_word_that_v1_knows_has_its_file_there() {
    let host = Host::new(
        "30 1 0:1 / /cg/cpu rw - cgroup c rw,cpu,cpuset\n31 1 0:2 / /cg/mem rw - cgroup c rw,memory\n\
         32 1 0:3 / /cg/io rw - cgroup c rw,blkio\n",
    );
    disks(&host);
    host.write("cg/cpu/cpuset.cpus", "0-3\n");
    host.write("cg/cpu/cpuset.mems", "0\n");
    // Made by somebody who did not fill it.
    host.write("cg/cpu/farm/cpuset.cpus", "\n");
    host.write("cg/cpu/farm/cpuset.mems", "0\n");
    let words = [
        "farm/web",
        "swappiness=10",
        "weight=250",
        "ioweight=60?",
        "cpus=1",
        "read=8:1:10M",
        "wiops=8:0:none",
    ];
    let want = "\
cat /cg/cpu/cpuset.cpus > /cg/cpu/farm/cpuset.cpus
mkdir /cg/cpu/farm/web
cat /cg/cpu/farm/cpuset.cpus > /cg/cpu/farm/web/cpuset.cpus
cat /cg/cpu/farm/cpuset.mems > /cg/cpu/farm/web/cpuset.mems
mkdir /cg/mem/farm
mkdir /cg/mem/farm/web
mkdir /cg/io/farm
mkdir /cg/io/farm/web
echo 2560 > /cg/cpu/farm/web/cpu.shares
echo 1 > /cg/cpu/farm/web/cpuset.cpus
echo 10 > /cg/mem/farm/web/memory.swappiness
! test -e /cg/io/farm/web/blkio.bfq.weight || echo 60 > /cg/io/farm/web/blkio.bfq.weight
! test -e /cg/io/farm/web/blkio.weight || echo 300 > /cg/io/farm/web/blkio.weight
echo '8:0 10485760' > /cg/io/farm/web/blkio.throttle.read_bps_device
echo '8:0 0' > /cg/io/farm/web/blkio.throttle.write_iops_device
";
    assert_eq!(host.plan(&words), want);
    let refused = host.cgset(&["web", "high=5M"]).ended_with(1);
    refused.said("high= is a limit of cgroup v2 only").said("hint: to do without it: high=…?");
    host.cgset(&["web", "oomgroup=1"]).ended_with(1).said("only while cgset runs a command");
    assert!(!host.plan(&["web", "oomgroup=1?", "low=1M?", "oomgroup=0"][..3]).contains("echo"));
}

#[test]
fn swappiness_on_v2_is_swap_0_or_an_error() {
    let host = v2_with_disks();
    host.write("sys/fs/cgroup/web/memory.swap.max", "max\n");
    let said = host.cgset(&["web", "swappiness=0"]).ended_with(0);
    said.said("note: cgroup v2 has no swappiness for a group: swappiness=0 is done as swap=0");
    assert_eq!(host.read("sys/fs/cgroup/web/memory.swap.max"), "0");
    host.cgset(&["web", "swappiness=0", "swap=0"]).ended_with(0);
    host.cgset(&["web", "swappiness=0", "swap=5M"]).ended_with(1).said("contradict each other");
    host.cgset(&["web", "swappiness=60"]).ended_with(1).said("hint: swap=SIZE limits the swap");
    host.cgset(&["web", "swappiness=60?"]).ended_with(0);
}

#[test]
fn a_disk_is_found_or_named() {
    let host = v2_with_disks();
    host.cgset(&["web", "read=9:9:1M"]).ended_with(1).said("'9:9' is on no block device");
    host.cgset(&["web", "read=/no/such:1M"]).ended_with(1).said("cannot find the device '/no/such'");
    // /proc is on no disk.
    host.cgset(&["web", "write=/proc:1M"]).ended_with(1).said("'/proc' is on no block device (0:");
    assert!(!host.0.join("sys/fs/cgroup/web").exists());
}

#[test]
fn a_limit_of_a_disk_is_read_back_and_undone() {
    let host = v2_with_disks();
    // The fixture shows what was written, where the kernel would merge it into the line of the disk.
    host.write("sys/fs/cgroup/web/io.max", "8:0 rbps=77 wbps=max riops=max wiops=max\n");
    host.write("sys/fs/cgroup/web/pids.max/x", "");
    host.cgset(&["web", "read=8:0:10M", "procs=5"]).ended_with(1).said("pids.max");
    assert!(host.read("sys/fs/cgroup/web/io.max").starts_with("8:0 rbps=77"));
}

#[test]
fn a_file_of_the_other_version_is_answered_with_the_word_for_both() {
    let host = v2_with_disks();
    fs::create_dir(host.0.join("sys/fs/cgroup/web")).unwrap();
    for (word, hinted) in [
        ("memory.limit_in_bytes=100M", "the word for every host is mem=100M"),
        ("cpu.shares=512", "the word for every host is weight=100"),
        ("memory.nosuch=5", "a ? at the end of the value skips it then"),
        ("swap=5M", "a ? at the end of the value skips it then"),
        ("blkio.weight=500", "to do without it: blkio.weight=…?"),
    ] {
        host.cgset(&["web", word]).ended_with(1).said(hinted);
    }
    host.cgset(&["web", "ioweight=50"]).ended_with(1).said("hint: modprobe bfq");
    host.cgset(&["web", "ioweight=50?"]).ended_with(0);
    host.write("sys/fs/cgroup/web/io.bfq.weight", "default 100\n8:0 300\n");
    host.cgset(&["web", "ioweight=50"]).ended_with(0);
    assert_eq!(host.read("sys/fs/cgroup/web/io.bfq.weight"), "default 50");
    assert!(host.cgset(&["--show", "web"]).ended_with(0).out.contains("ioweight=50\n"));
    host.cgset(&["web", "memory.nosuch=5?", "blkio.weight=500?"]).ended_with(0);
}

#[test]
fn the_script_of_a_dry_run_changes_a_tree_as_cgset_does() {
    let words = ["web", "mem=100M", "swap=50M", "procs=50", "cpu=1.5", "weight=20", "cpus=0", "--own", "0:0"];
    let tree = || {
        let host = v2_with_disks();
        for file in ["memory.max", "memory.swap.max", "pids.max", "cpu.weight", "cpuset.cpus", "cgroup.procs"]
        {
            host.write(&format!("sys/fs/cgroup/web/{file}"), "1\n");
        }
        host.write("sys/fs/cgroup/web/cpu.max", "1 100000\n");
        host.write("sys/fs/cgroup/web/memory.current", "5\n");
        host
    };
    let (by_cgset, by_script) = (tree(), tree());
    by_cgset.cgset(&words).ended_with(0);
    let mut dry = Command::new(tool("cgset"));
    dry.arg("--dry-run").args(words).env("CGSET_ROOT", &by_script.0);
    let mut sh = Command::new("sh");
    sh.args(["-c", &finish(dry, "").ended_with(0).out]);
    finish(sh, "").ended_with(0);
    let mut compared = 0;
    for entry in fs::read_dir(by_cgset.0.join("sys/fs/cgroup/web")).unwrap() {
        let file = format!("sys/fs/cgroup/web/{}", entry.unwrap().file_name().to_string_lossy());
        assert_eq!(by_cgset.read(&file), by_script.read(&file), "{file}");
        compared += 1;
    }
    assert_eq!((compared, by_cgset.read("sys/fs/cgroup/web/memory.max").as_str()), (8, "104857600"));
}

#[test]
fn a_group_is_given_away_with_the_files_that_the_kernel_lists() {
    let host = v2_with_disks();
    host.write("sys/kernel/cgroup/delegate", "cgroup.procs\ncgroup.subtree_control\nmemory.reclaim\n");
    let want = "\
mkdir /sys/fs/cgroup/web
chown 1000:5 /sys/fs/cgroup/web
for file in cgroup.procs cgroup.subtree_control memory.reclaim; do ! test -e /sys/fs/cgroup/web/$file || \
chown 1000:5 /sys/fs/cgroup/web/$file; done
";
    assert_eq!(host.plan(&["web", "--own", "1000:5"]), want);
}

#[test]
fn our_own_processes_go_to_a_leaf_when_asked() {
    let host = v2_with_disks();
    host.write("sys/fs/cgroup/mine/cgroup.procs", "12\n34\n");
    host.write("sys/fs/cgroup/mine/cgroup.subtree_control", "\n");
    let want = "\
mkdir /sys/fs/cgroup/mine/cgset.leaf
echo 12 > /sys/fs/cgroup/mine/cgset.leaf/cgroup.procs
echo 34 > /sys/fs/cgroup/mine/cgset.leaf/cgroup.procs
echo +pids > /sys/fs/cgroup/mine/cgroup.subtree_control
mkdir /sys/fs/cgroup/mine/sub
echo 5 > /sys/fs/cgroup/mine/sub/pids.max
";
    assert_eq!(host.plan(&["--parent", ".", "--leaf", "sub", "procs=5"]), want);
    host.cgset(&["--parent", "/", "--leaf", "sub"]).ended_with(2).said("--leaf belongs to --parent .");
    // Once there, "." is still the group above the leaf.
    host.write("proc/self/cgroup", "0::/mine/cgset.leaf\n");
    host.write("sys/fs/cgroup/mine/cgroup.procs", "");
    assert!(host.plan(&["--parent", ".", "--leaf", "sub"]).contains("mkdir /sys/fs/cgroup/mine/sub\n"));
}

#[test]
fn systemds_groups_are_told_from_delegated_ones() {
    let host = v2_with_disks();
    host.write("run/systemd/system/x", "");
    host.write("sys/fs/cgroup/system.slice/web.service/pids.max", "1\n");
    host.write("sys/fs/cgroup/system.slice/cgroup.subtree_control", "pids\n");
    let web = "system.slice/web.service";
    let warned = host.cgset(&[web, "procs=5"]).ended_with(0);
    warned.said("belongs to systemd").said("systemctl set-property --runtime web.service");
    host.write("sys/fs/cgroup/web/pids.max", "1\n");
    host.cgset(&["web", "procs=5"]).ended_with(0).said("has not delegated 'web'").said("cgset --scope");
    let mark = Command::new("setfattr")
        .args(["-n", "user.delegate", "-v", "1"])
        .arg(host.0.join("sys/fs/cgroup/system.slice/web.service"))
        .status();
    if mark.is_ok_and(|status| status.success()) {
        assert_eq!(host.cgset(&[web, "procs=6"]).ended_with(0).err, "");
    }
}

#[test]
fn a_scope_is_asked_of_systemd_run() {
    let host = v2_with_disks();
    let words = ["--scope", "web", "mem=5M", "--", "ls", "a b", "--scope"];
    host.cgset(&words).ended_with(125).said("systemd manages, and it does not run here");
    host.cgset(&["--scope", "web"]).ended_with(2).said("--scope belongs to a command");
    host.write("run/systemd/system/x", "");
    host.write("bin/systemd-run", "#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 7\n");
    let program = host.0.join("bin/systemd-run");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(tool("cgset"));
    command.args(words).env("CGSET_ROOT", &host.0);
    command.env("PATH", format!("{}:{}", host.0.join("bin").display(), std::env::var("PATH").unwrap()));
    let ended = finish(command, "").ended_with(7).out;
    let root = if fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0) {
        ""
    } else {
        "--user\n"
    };
    let me = fs::canonicalize(tool("cgset")).unwrap();
    let want = format!(
        "{root}--scope\n--quiet\n--collect\n--property=Delegate=yes\n--description=cgset web\n--\n{}\n\
         --parent\n.\n--leaf\n--scope\nweb\nmem=5M\n--\nls\na b\n--scope\n",
        me.display()
    );
    assert_eq!(ended, want);
    // What is called there is no scope in a scope.
    host.write("sys/fs/cgroup/mine/cgroup.procs", "");
    let inner = host.plan(&["--parent", ".", "--leaf", "--scope", "web", "--", "ls"]);
    assert!(inner.contains("mkdir /sys/fs/cgroup/mine/web\n"), "{inner}");
    let dry = host.cgset(&["--scope", "--dry-run", "web", "--", "ls"]).ended_with(0).out;
    assert!(dry.contains("exec systemd-run") && !dry.contains("--dry-run"), "{dry}");
}

#[test]
fn a_report_that_cannot_be_written_is_told_before_anything_is_made() {
    let host = v2_with_disks();
    host.cgset(&["web", "--report", "/no/such/file", "--", "true"])
        .ended_with(125)
        .said("cannot open '/no/such/file' for the report");
    assert!(!host.0.join("sys/fs/cgroup/web").exists() && Path::new("/no").metadata().is_err());
}
