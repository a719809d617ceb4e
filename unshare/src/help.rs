//! help: the options as a table and as a page.

use unshare::options::Names;

pub const NAMES: Names = Names {
    standard: &[
        "help",
        "version",
        "mount[=]",
        "uts[=]",
        "ipc[=]",
        "net[=]",
        "pid[=]",
        "user[=]",
        "cgroup[=]",
        "time[=]",
        "fork",
        "kill-child[=]",
        "forward-signals[=]",
        "mount-proc[=]",
        "mount-binfmt[=]",
        "map-user=",
        "map-users=",
        "map-group=",
        "map-groups=",
        "map-root-user",
        "map-current-user",
        "map-auto",
        "map-subids",
        "owner=",
        "propagation=",
        "setgroups=",
        "keep-caps",
        "setuid=",
        "setgid=",
        "root=",
        "wd=",
        "monotonic=",
        "boottime=",
        "load-interp=",
        "clear-env",
        "whitelist-env=",
    ],
    ours: &[
        "init",
        "pid-file=",
        "new-session",
        "new-keyring",
        "close-fds",
        "keep-fd=",
        "caps=",
        "no-new-privs",
        "seccomp=",
        "rlimit=",
        "nice=",
        "hostname=",
        "loopback",
        "pivot-root=",
        "mount-sys",
        "mount-dev",
        "fstab=",
        "mask-paths",
        "jail",
    ],
};

pub const HELP: &str = "\
Usage: unshare [options] [PROGRAM [ARGUMENT...]]

Run PROGRAM (default: the login shell) in new namespaces.

Namespaces; with =FILE kept alive by a bind mount on FILE:
  -m, --mount[=FILE]         mount namespace
  -u, --uts[=FILE]           UTS namespace (host name)
  -i, --ipc[=FILE]           System V IPC and POSIX message queues
  -n, --net[=FILE]           network namespace
  -p, --pid[=FILE]           pid namespace, for children: see --fork
  -U, --user[=FILE]          user namespace
  -C, --cgroup[=FILE]        cgroup namespace
  -T, --time[=FILE]          time namespace

User and group ids in a new user namespace (all imply -U):
  -r, --map-root-user        be root: --map-user 0 --map-group 0
  -c, --map-current-user     be who you are
      --map-user UID         be UID, a number or a name
      --map-group GID        be in group GID
      --map-users MAP        map blocks of users: INNER:OUTER:COUNT[,...], or
                             auto, subids or all; may be repeated
      --map-groups MAP       map blocks of groups
      --map-auto             --map-users auto --map-groups auto: your first
                             block of subordinate ids, from 0 on
      --map-subids           the same block by its own numbers
      --owner UID:GID        let UID own the user namespace
      --setgroups allow|deny control setgroups(2) there
      --keep-caps            keep the capabilities that it gives, over exec

The process:
  -f, --fork                 run PROGRAM as a child and wait for it
      --kill-child[=SIGNAL]  kill the child when unshare dies (default KILL;
                             implies -f)
      --forward-signals[=LIST]  pass these on to the child (default TERM,INT;
                             all: whatever can be; implies -f)
      --init                 be process 1 before PROGRAM: reap, pass signals
                             on, end as it ends (implies -f and -p)
      --pid-file FILE        write the child's pid to FILE (implies -f)
      --new-session          make PROGRAM the leader of a session (setsid)
      --new-keyring          give PROGRAM a session keyring of its own
      --close-fds            close all inherited descriptors above 2
      --keep-fd N            but not N; may be repeated
      --rlimit NAME=SOFT:HARD  set a limit, named as in prlimit(1); may be
                             repeated
      --nice N               set the nice value, -20 to 19
      --caps LIST            keep these capabilities alone: names with commas,
                             'all', 'none' or 'default'
      --no-new-privs         nothing that runs here gains privileges by exec
      --seccomp default|FILE refuse system calls: what no service needs, or by a
                             compiled filter; 'i386' for programs of 32 bits,
                             too; 'none' takes it out of --jail
  -S, --setuid UID           set the user id
  -G, --setgid GID           set the group id, drop supplementary groups
      --clear-env            start with an empty environment
      --whitelist-env LIST   with these variables alone, names with commas

The world:
      --hostname NAME        set the host name (implies -u)
      --loopback             bring the loopback interface up (implies -n)
      --monotonic SECONDS    shift CLOCK_MONOTONIC (needs -T)
      --boottime SECONDS     shift CLOCK_BOOTTIME (needs -T)
      --propagation MODE     private (default), shared, slave or unchanged
  -R, --root DIR             change the root directory with chroot(2)
      --pivot-root DIR       make DIR the root, detach the old (implies -m)
  -w, --wd DIR               change the working directory, inside the root
      --mount-proc[=DIR]     mount a new proc (default /proc; implies -m)
      --mount-binfmt[=DIR]   mount a binfmt_misc of its own (default: in
                             /proc/sys/fs; implies -m and -U)
  -l, --load-interp STRING   register an interpreter there (see binfmt_misc)
      --mount-sys            mount sysfs read-only on /sys (implies -m)
      --mount-dev            mount a private /dev (implies -m)
      --fstab FILE           mount what FILE says, inside the root
                             (implies -m)
      --mask-paths           hide or write-protect the kernel's knobs in /proc
                             and /sys (implies -m)
      --jail                 -m -u -i -p -C -f --kill-child --forward-signals
                             --init --new-keyring --close-fds --caps default
                             --seccomp default --mount-proc --mount-sys
                             --mount-dev --mask-paths

  -h, --help                 print this help
  -V, --version              print the version
";
