//! nsenter --bind, --fstab, --fstab-line: mounts that are carried into a running mount namespace, and what a
//! hostile one can do about it.

mod common;

use common::{inside, theirs};

/// A target with a root directory of its own (pivot_root), an own pid and net namespace; `$P` is its pid, `$R`
/// its root as the caller sees it. Ends with the test.
const TARGET: &str = r#"
    mkdir -p $T/root/bin $T/root/proc $T/root/dir $T/root/tmp
    cp "$(command -v busybox)" $T/root/bin/busybox
    for name in sh cat ls mount grep mkdir touch ln stat umount; do ln -s busybox $T/root/bin/$name; done
    echo target >$T/root/file
    mkfifo $T/up $T/down
    "$BIN/unshare" -m -u -i -n -p -C -f --kill-child --mount-proc --pivot-root $T/root \
        sh -c 'echo up; read x' <$T/down >$T/up &
    exec 4>$T/down
    read line <$T/up
    P=$(cat /proc/$!/task/$!/children); P=${P% }
    mkdir -p $T/source/below; echo carried >$T/source/name
    there() { "$BIN/nsenter" -t $P -a /bin/sh -c "$*"; }
    enter() { "$BIN/nsenter" -t $P -a "$@"; }
"#;

fn with_target(script: &str) -> common::Outcome {
    inside(&(TARGET.to_owned() + script))
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_directory_is_carried_in_before_the_program_or_alone() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        "$BIN/nsenter" -t $P -a --bind $T/source:/dir cat /dir/name
        there cat /dir/name
        there umount /dir
        "$BIN/nsenter" -t $P --bind $T/source:/dir    # the mount namespace is meant; no program, no shell
        there 'cat /dir/name; touch /dir/new; mount | grep -c " on /dir "'
        test -e $T/source/new && echo writable
        test -e $T/root/dir/name || echo not outside
    "#,
    )
    .ended_with(0)
    .printed("carried\ncarried\ncarried\n1\nwritable\nnot outside\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn read_only_holds_for_all_below_and_for_files() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        mount -t tmpfs below $T/source/below
        enter --bind $T/source:/dir:ro --bind $T/source/name:/file:ro
        there 'touch /dir/x 2>/dev/null || echo ro; touch /dir/below/x 2>/dev/null || echo ro below; cat /file; echo >/file' 2>/dev/null || echo ro file
        touch $T/source/below/x && echo "the caller's own is not"
    "#,
    )
    .ended_with(0)
    .printed("ro\nro below\ncarried\nro file\nthe caller's own is not\n");
}

/// What is mounted on the one side stays there: the caller's mounts are shared with nobody.
#[test]
#[ignore = "needs root: tests/run"]
fn a_carried_directory_is_private() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        mount --make-shared /tmp
        enter --bind $T/source:/dir
        there 'mount -t tmpfs inside /dir/below'
        grep -c inside /proc/self/mountinfo || :
        mount -t tmpfs outside $T/source/below
        there 'grep -c outside /proc/mounts' || :
    "#,
    )
    .ended_with(0)
    .printed("0\n0\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn hostile_links_lead_nowhere_but_into_their_own_root() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        mkdir -p $T/victim
        ln -s $T/victim $T/root/absolute; ln -s ../../../../tmp/t/victim $T/root/relative
        ln -s /proc/1/root/tmp $T/root/magic; ln -s loop $T/root/loop
        for link in absolute relative magic loop; do
            enter --bind $T/source:/$link /bin/true 2>/dev/null && echo "mounted on $link"
            enter --fstab-line "tmpfs /$link tmpfs" /bin/true 2>/dev/null && echo "tmpfs on $link"
            enter --bind $T/source:/$link/x:x-mount.mkdir /bin/true 2>/dev/null && echo "below $link"
        done
        mkdir -p $T/root$T/victim
        enter --bind $T/source:/absolute    # where it leads inside
        there ls $T/victim
        ls -A $T/victim
        grep -c victim /proc/self/mountinfo || :
    "#,
    )
    .ended_with(0)
    .printed("below\nname\n0\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn lines_of_an_fstab_are_mounted_inside() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        printf '%s\n' '# a comment' 'tmpfs /a tmpfs size=1m,x-mount.mkdir' "$T/source /a/b none bind,ro,x-mount.mkdir" \
            "/no/such /a/c none bind,nofail,x-mount.mkdir" 'proc /a/p proc nosuid,x-mount.mkdir' >$T/fstab
        enter --fstab $T/fstab /bin/sh -c 'cat /a/b/name; ls /a; ls -d /a/p/1'
        enter --fstab-line 'sysfs /dir sysfs ro' /bin/ls /dir/class/net
    "#,
    )
    .ended_with(0)
    .printed("carried\nb\np\n/a/p/1\nlo\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_proc_of_the_callers_does_not_get_in() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        "$BIN/nsenter" -t $P -m --fstab-line 'proc /dir proc' /bin/true || echo $?
        "$BIN/nsenter" -t $P -m --fstab-line 'sysfs /dir sysfs' /bin/true || echo $?
        "$BIN/nsenter" -t $P -m -p --fstab-line 'proc /dir proc' /bin/ls -d /dir/1
    "#,
    )
    .ended_with(0)
    .said("add --pid")
    .printed("1\n1\n/dir/1\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_disk_is_the_callers_whatever_lies_at_its_path_inside() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        mkdir $T/content; echo of the disk >$T/content/name
        truncate -s 2M $T/image; mke2fs -q -t ext2 -d $T/content $T/image
        disk=$(losetup -f --show -r $T/image)
        mkdir -p $T/root/dev; echo false >$T/root$disk
        status=0
        enter --fstab-line "$disk /dir ext2 ro,nodev" cat /dir/name || status=$?
        losetup -d $disk    # goes when its mount goes
        exit $status
    "#,
    )
    .ended_with(0)
    .printed("of the disk\n");
}

#[test]
#[ignore = "needs root: tests/run"]
fn all_or_nothing() {
    if theirs() {
        return;
    }
    with_target(
        r#"
        before=$(there cat /proc/mounts)
        for last in "$T/source:/none" "$T/name:/dir" "$T/source:/file" "$T/source/name:/dir"; do
            enter --bind $T/source:/dir --bind $T/source/name:/file --fstab-line 'tmpfs /tmp tmpfs' \
                --bind "$last" /bin/sh -c 'echo ran' 2>>$T/said && echo no error
            [ "$(there cat /proc/mounts)" = "$before" ] || echo "left behind by $last"
        done
        enter --bind $T/source:/dir --fstab-line 'proc /none proc' /bin/sh -c 'echo ran' 2>>$T/said && echo no error
        [ "$(there cat /proc/mounts)" = "$before" ] || echo "left behind by proc"
        cat $T/said
    "#,
    )
    .ended_with(0)
    .printed(
        "nsenter: cannot mount '/none': No such file or directory\n\
         hint: add the option x-mount.mkdir to make it\n\
         nsenter: cannot take '/tmp/t/name' along: No such file or directory\n\
         nsenter: cannot mount '/file': '/tmp/t/source' is a directory, the target is not\n\
         nsenter: cannot mount '/dir': '/tmp/t/source/name' is a file, the target is a directory\n\
         nsenter: cannot mount '/none': No such file or directory\n\
         hint: add the option x-mount.mkdir to make it\n",
    );
}

#[test]
#[ignore = "needs root: tests/run"]
fn a_container_of_a_user_namespace_gets_mounts_too() {
    if theirs() {
        return;
    }
    inside(
        r#"
        mkdir -p $T/source; echo carried >$T/source/name
        mkfifo $T/up $T/down
        setpriv --reuid=1000 --regid=1000 --clear-groups /usr/bin/unshare -rmpf --mount-proc --kill-child \
            sh -c 'echo up; read x' <$T/down >$T/up &
        exec 4>$T/down
        read line <$T/up
        P=$(cat /proc/$!/task/$!/children); P=${P% }
        "$BIN/nsenter" -t $P -a --bind $T/source:/mnt:ro --fstab-line 'tmpfs /srv tmpfs size=1m' \
            sh -c 'cat /mnt/name; touch /srv/x; id -u'
        # His own root may carry his own things in.
        chmod 755 $T
        setpriv --reuid=1000 --regid=1000 --clear-groups \
            "$BIN/nsenter" -t $P -U -m --preserve-credentials --fstab-line 'tmpfs /media tmpfs' sh -c 'touch /media/x && echo own'
    "#,
    )
    .ended_with(0)
    .printed("carried\n0\nown\n");
}
