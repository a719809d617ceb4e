//! cgset: what is planned on layouts that this machine does not have, on made-up hosts ($CGSET_ROOT), and what stays
//! when a step fails. tests/vm/cgset.sh proves the layouts on real kernels.

mod cgset_bed;
mod common;

use std::fs;

use cgset_bed::{Host, Scratch};

#[test]
fn on_v2_each_level_hands_down_what_is_needed_and_no_more() {
    let host = Host::v2("cpuset cpu io memory pids\n");
    host.write("sys/fs/cgroup/cgroup.subtree_control", "cpu memory\n");
    let plan = host.plan(&["farm/web", "mem=100M", "swap=0", "procs=50"]);
    let want = "\
echo +pids > /sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/farm
echo +memory > /sys/fs/cgroup/farm/cgroup.subtree_control
echo +pids > /sys/fs/cgroup/farm/cgroup.subtree_control
mkdir /sys/fs/cgroup/farm/web
echo 0 > /sys/fs/cgroup/farm/web/memory.swap.max
echo 104857600 > /sys/fs/cgroup/farm/web/memory.max
echo 50 > /sys/fs/cgroup/farm/web/pids.max
";
    assert_eq!(plan, want);
    let plan = host.plan(&["web", "mem=none", "cpu=150%", "swap=-1"]);
    let want = "\
mkdir /sys/fs/cgroup/web
echo max > /sys/fs/cgroup/web/memory.swap.max
echo max > /sys/fs/cgroup/web/memory.max
echo 150000 > /sys/fs/cgroup/web/cpu.max
";
    assert_eq!(plan, want);
}

#[test]
fn on_v1_controllers_mounted_together_are_one_tree() {
    let host = Host::new(
        "30 1 0:1 / /cg/cpu rw - cgroup c rw,cpu,cpuacct,cpuset\n31 1 0:2 / /cg/mem rw - cgroup c rw,memory,pids\n",
    );
    let plan = host.plan(&["web", "mem=100M", "procs=5", "cpu=0.5"]);
    let want = "\
mkdir /cg/cpu/web
cat /cg/cpu/cpuset.cpus > /cg/cpu/web/cpuset.cpus
cat /cg/cpu/cpuset.mems > /cg/cpu/web/cpuset.mems
mkdir /cg/mem/web
echo 50000 > /cg/cpu/web/cpu.cfs_quota_us
echo 104857600 > /cg/mem/web/memory.limit_in_bytes
echo 5 > /cg/mem/web/pids.max
";
    assert_eq!(plan, want);
    host.cgset(&["web", "mem=1M", "swap=0"])
        .ended_with(1)
        .said("does not count swap")
        .said("hint: boot with swapaccount=1");
    assert!(!host.plan(&["web", "mem=1M", "swap=0?"]).contains("memsw"));
    host.write("cg/mem/memory.memsw.limit_in_bytes", "");
    assert!(host.plan(&["web", "mem=1M", "swap=1M"]).ends_with(
        "echo 1048576 > /cg/mem/web/memory.limit_in_bytes\necho 2097152 > /cg/mem/web/memory.memsw.limit_in_bytes\n"
    ));
    host.cgset(&["web", "swap=0"]).ended_with(1).said("hint: give both");
}

#[test]
fn on_a_mixed_host_each_word_finds_its_tree() {
    let host = Host::new(
        "30 1 0:1 / /cg/memory rw - cgroup c rw,memory\n31 1 0:2 / /cg/freezer rw - cgroup c rw,freezer\n\
         32 1 0:3 / /cg/unified rw - cgroup2 c rw\n",
    );
    host.write("cg/unified/cgroup.controllers", "pids\n");
    host.write("cg/unified/cgroup.subtree_control", "pids\n");
    let plan = host.plan(&["web", "mem=64K", "procs=9", "--", "echo", "it's"]);
    let want = "\
mkdir /cg/freezer/web
mkdir /cg/memory/web
mkdir /cg/unified/web
echo 65536 > /cg/memory/web/memory.limit_in_bytes
echo 9 > /cg/unified/web/pids.max
status=0
(
    echo 0 > /cg/freezer/web/tasks
    echo 0 > /cg/memory/web/tasks
    echo 0 > /cg/unified/web/cgroup.procs
    exec echo 'it'\\''s'
) || status=$?
rmdir /cg/unified/web
rmdir /cg/memory/web
rmdir /cg/freezer/web
exit $status
";
    assert_eq!(plan, want);
}

#[test]
fn a_missing_controller_is_an_error_or_skipped_as_asked() {
    let host = Host::v2("cpu memory\n");
    let failed = host.cgset(&["web", "procs=5"]).ended_with(1);
    failed
        .said("no 'pids' controller on this host: it was switched off at boot (cgroup_disable=cpuset,pids)");
    assert_eq!(host.plan(&["web", "procs=5?"]), "mkdir /sys/fs/cgroup/web\n");
    Host::v2("").cgset(&["web", "mem=5M"]).ended_with(1).said("no 'memory' controller");
}

#[test]
fn on_a_host_without_groups_runs_what_can_do_without() {
    // A v1 tree of no controller is no tree for groups of ours.
    let host = Host::new("1 1 0:1 / / rw - ext4 x rw\n2 1 0:2 / /cg rw - cgroup c rw,name=systemd\n");
    let report = Scratch::new("without");
    let run = ["--report", report.str(), "--oom-exit", "9", "web", "mem=50M?", "procs=5?", "--"];
    let ended = host.cgset(&[&run[..], &["sh", "-c", "echo out; exit 7"]].concat()).ended_with(7);
    assert_eq!((ended.out.as_str(), ended.err.as_str()), ("out\n", ""));
    let text = fs::read_to_string(&report).unwrap();
    assert!(text.starts_with("group=web\nstatus=7\nsignal=0\noom_kills=0\npeak=?\nlimit=?\n"), "{text}");
    host.cgset(&["web", "mem=50M?", "--", "/no/such"]).ended_with(127);
    assert_eq!(
        host.plan(&["web", "mem=50M?", "--", "ls"]),
        "status=0\n(\n    exec ls\n) || status=$?\nexit $status\n"
    );
    for line in [
        "web -- true",
        "web mem=50M? procs=5 -- true",
        "--keep web mem=50M? -- true",
        "--parent . web mem=50M? -- true",
        "--own 5 web mem=50M? -- true",
        "--scope web mem=50M? -- true",
        "web mem=50M? --pid 1 -- true",
        "web mem=50M?",
        "web",
        "--show web",
        "--remove web",
        "--list",
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let status = if line.ends_with("true") { 125 } else { 1 };
        let failed = host.cgset(&words).ended_with(status);
        failed.said(
            "cgset: no cgroup file system is mounted here\nhint: mount -t cgroup2 cgroup2 /sys/fs/cgroup\n",
        );
    }
}

#[test]
fn a_share_of_memory_is_of_the_ram_and_a_parent_is_put_in_front() {
    let host = Host::v2("memory\n");
    host.write("sys/fs/cgroup/cgroup.subtree_control", "memory\n");
    assert!(host.plan(&["web", "mem=12.5%"]).ends_with("echo 262144000 > /sys/fs/cgroup/web/memory.max\n"));
    assert_eq!(
        host.plan(&["--parent", ".", "web"]),
        "mkdir /sys/fs/cgroup/mine\nmkdir /sys/fs/cgroup/mine/web\n"
    );
    assert_eq!(host.plan(&["--parent", "/", "web"]), "mkdir /sys/fs/cgroup/web\n");
    host.cgset(&["--parent", "farm", "web"]).ended_with(1).said("there is no group 'farm'");
}

#[test]
fn when_a_step_fails_the_earlier_ones_are_undone() {
    let host = Host::v2("memory pids cpu\n");
    host.write("sys/fs/cgroup/web/memory.max", "8192\n");
    host.write("sys/fs/cgroup/web/memory.current", "0\n");
    // The file of the last step cannot be opened for writing.
    host.write("sys/fs/cgroup/web/pids.max/x", "");
    let failed = host.cgset(&["web", "mem=100M", "procs=5"]).ended_with(1);
    failed.said("cannot open '/sys/fs/cgroup/web/pids.max': Is a directory");
    assert_eq!(host.read("sys/fs/cgroup/web/memory.max"), "8192");
    assert_eq!(host.read("sys/fs/cgroup/cgroup.subtree_control"), "-memory", "the last write to it");
    // In a new group: the directory goes too.
    host.cgset(&["new/er", "mem=1M"]).ended_with(1);
    assert!(!host.0.join("sys/fs/cgroup/new").exists());
}

#[test]
fn a_limit_below_what_is_in_use_is_refused_without_force() {
    let host = Host::v2("memory\n");
    host.write("sys/fs/cgroup/web/memory.max", "max\n");
    host.write("sys/fs/cgroup/web/memory.current", "20000000\n");
    host.cgset(&["web", "mem=10M"]).ended_with(1).said("uses 19.1M, more than the new limit of 10M");
    assert_eq!(host.read("sys/fs/cgroup/web/memory.max"), "max");
    host.cgset(&["web", "mem=10M", "--force"]).ended_with(0);
    assert_eq!(host.read("sys/fs/cgroup/web/memory.max"), "10485760");
}

#[test]
fn process_1_is_moved_only_by_force() {
    let host = Host::v2("");
    host.write("proc/1/cgroup", "0::/\n");
    host.cgset(&["web", "--pid", "1"]).ended_with(1).said("hint: if it is meant: --force");
    assert!(
        host.plan(&["web", "--force", "--pid", "1"]).ends_with("echo 1 > /sys/fs/cgroup/web/cgroup.procs\n")
    );
}
