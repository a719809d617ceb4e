# attack.pl: what a root in a ship tries; prints the name of each attempt that gets through.
#
# A call got through unless it ends with EPERM, ENOSYS or EAFNOSUPPORT; its arguments are such that nothing
# happens then. Files are only opened. Outside there should be: the file /run/outside, descriptor 7 open on /, a
# shared memory segment with the key 0x5117, and a listener at the abstract address 'outside'.
use strict;
use warnings;
use Errno qw(EPERM ENOSYS EAFNOSUPPORT);
use Fcntl qw(O_RDONLY O_NONBLOCK);
use POSIX ();

my $arm = (POSIX::uname())[4] eq 'aarch64';
my $NEWUSER = 0x10000000;

sub got_through {
	my ($x86_64, $aarch64, @arguments) = @_;
	my $number = $arm ? $aarch64 : $x86_64;
	return 0 unless defined $number;
	$! = 0;
	my $got = syscall $number, @arguments;
	return !($got == -1 && ($! == EPERM || $! == ENOSYS || $! == EAFNOSUPPORT));
}

sub in_child {
	my ($attempt) = @_;
	my $pid = fork // die "fork: $!";
	POSIX::_exit($attempt->() ? 0 : 1) unless $pid;
	waitpid $pid, 0;
	return $? == 0;
}

sub writable { open my $file, '>>', $_[0] }
sub readable { sysopen my $file, $_[0], O_RDONLY | O_NONBLOCK or return 0; return sysread $file, my $byte, 1 }

my @calls = (
	# name                 x86_64 aarch64 arguments
	['io_uring_setup',        425, 425, 1, 0],
	['io_uring_enter',        426, 426, -1, 0, 0, 0, 0, 0],
	['io_uring_register',     427, 427, -1, 99, 0, 0],
	['userfaultfd',           323, 282, 1 << 30],
	['bpf',                   321, 280, 0, 0, 0],
	['perf_event_open',       298, 241, 0, 0, 0, 0, 0],
	['keyctl',                250, 219, 0, -4, 0],
	['add_key',               248, 217, 0, 0, 0, 0, 0],
	['request_key',           249, 218, 0, 0, 0, 0],
	['kexec_load',            246, 104, 0, 0, 0, 0x0fff0000],
	['init_module',           175, 105, 0, 0, 0],
	['finit_module',          313, 273, -1, 0, 0],
	['reboot',                169, 142, 0, 0, 0, 0],
	['swapon',                167, 224, '/no/such/file', 0],
	['swapoff',               168, 225, '/no/such/file'],
	['acct',                  163,  89, '/no/such/file'],
	['settimeofday',          164, 170, 0, 0],
	['clock_settime',         227, 112, 0, 0],
	['iopl',                  172, undef, 0],
	['ioperm',                173, undef, 0, 1, 0],
	['syslog',                103, 116, 10, 0, 0],
	['quotactl',              179,  60, 0, 0, 0, 0],
	['fanotify_init',         300, 262, 0, 0],
	['open_by_handle_at',     304, 265, -1, 0, 0],
	['personality',           135,  92, 0x0040000],
	['ptrace',                101, 117, 0x4206, 0, 0, 0],
	['process_vm_readv',      310, 270, $$, 0, 0, 0, 0, 0],
	['kcmp',                  312, 272, $$, $$, 0, 0, 0],
	['setns',                 308, 268, -1, 0],
	['mount',                 165,  40, 'none', '/no/such/place', 'tmpfs', 0, 0],
	['umount2',               166,  39, '/no/such/place', 0],
	['pivot_root',            155,  41, '/no/such/place', '/no/such/place'],
	['fsopen',                430, 430, 'tmpfs', 0],
	['open_tree',             428, 428, -100, '/', 1],
	['move_mount',            429, 429, -1, '', -1, '', 0],
	['mount_setattr',         442, 442, -1, '', 0, "\0" x 32, 32],
	['TIOCSTI',                16,  29, 0, 0x5412, 'x'],
	['TIOCSTI, 64 bits',       16,  29, 0, (5 << 32 | 0x5412), 'x'],
	['TIOCLINUX',              16,  29, 0, 0x541c, "\3"],
	['vsock',                  41, 198, 40, 1, 0],
	['alg',                    41, 198, 38, 5, 0],
	['bluetooth',              41, 198, 31, 3, 1],
	['packet',                 41, 198, 17, 3, 0],
	['sethostname',           170, 161, 'x', 65],
	['unshare user',          272,  97, $NEWUSER],
	# The numbers of mount and bpf with the bit of x32.
	['x32 mount',  0x40000000 + 165, undef, 0, 0, 0, 0, 0],
	['x32 bpf',    0x40000000 + 321, undef, 0, 0, 0],
);

# An ELF of 32 bits that ends with getpid's success: mov $20,%eax; int $0x80; mov $1,%eax; xor %ebx,%ebx; int $0x80.
sub int_80 {
	return 0 if $arm;
	my $code = "\xb8\x14\0\0\0\xcd\x80\xb8\x01\0\0\0\x31\xdb\xcd\x80";
	my $elf = pack('a4C5x7', "\x7fELF", 1, 1, 1, 0, 0) . pack('vvVVVVVvvvvvv', 2, 3, 1, 0x8048054, 52, 0, 0, 52, 32, 1, 0, 0, 0)
		. pack('V8', 1, 0, 0x8048000, 0x8048000, 84 + length $code, 84 + length $code, 5, 4096) . $code;
	my $path = "/tmp/attack-32-$$";
	open my $file, '>', $path or die "$path: $!";
	print $file $elf;
	close $file;
	chmod 0755, $path;
	my $status = system {$path} $path;
	unlink $path;
	return $status == 0;
}

# clone3 with struct clone_args: flags, ten more words; signal 17.
sub clone3 {
	my $arguments = pack 'Q11', $NEWUSER, 0, 0, 0, 17, (0) x 6;
	my $pid = syscall 435, $arguments, 88;
	POSIX::_exit(0) if $pid == 0;
	waitpid $pid, 0 if $pid > 0;
	return $pid > 0;
}

sub clone_user {
	my $pid = syscall $arm ? 220 : 56, $NEWUSER | 17, 0, 0, 0, 0;
	POSIX::_exit(0) if $pid == 0;
	waitpid $pid, 0 if $pid > 0;
	return $pid > 0;
}

sub chroot_out {
	my $dir = "/tmp/attack-root-$$";
	mkdir $dir;
	my $out = in_child(sub {
		chroot $dir or return 0;
		chdir '..' for 1 .. 50;
		chroot '.' and -e '/run/outside';
	});
	rmdir $dir;
	return $out;
}

sub device {
	my ($type, $major, $minor) = @_;
	my $path = "/tmp/attack-$$";
	return 0 if syscall($arm ? 33 : 133, $arm ? (-100) : (), $path, $type | 0600, $major << 8 | $minor) != 0;
	unlink $path;
	return 1;
}

sub fresh {
	my ($kind) = @_;
	my $dir = "/tmp/attack-$kind-$$";
	mkdir $dir;
	my $got = syscall $arm ? 40 : 165, $kind, $dir, $kind, 0, 0;
	syscall $arm ? 39 : 166, $dir, 2 if $got == 0;
	rmdir $dir;
	return $got == 0;
}

my @attempts = (
	(map { my $call = $_; [$call->[0], sub { in_child(sub { got_through(@$call[1 .. $#$call]) }) }] } @calls),
	['clone user', \&clone_user],
	['clone3 user', \&clone3],
	['32-bit entry', \&int_80],
	['chroot out', \&chroot_out],
	['mknod disk', sub { device(060000, 8, 0) }],
	['mknod kmsg', sub { device(020000, 1, 11) }],
	(map { my $kind = $_; ["fresh $kind", sub { fresh($kind) }] } qw(tmpfs proc sysfs cgroup2)),
	(map { my $path = $_; ["write $path", sub { writable($path) }] }
		qw(/proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sysrq-trigger /proc/irq/default_smp_affinity
		/proc/sys/net/ipv4/ip_forward /sys/kernel/uevent_helper /sys/kernel/mm/ksm/run)),
	(map { my $path = $_; ["read $path", sub { readable($path) }] } qw(/proc/kcore /proc/kmsg /dev/kmsg /dev/mem)),
	['inherited descriptor', sub { -e '/proc/self/fd/7/run/outside' }],
	['shared memory', sub { defined shmget 0x5117, 0, 0 }],
	['abstract socket', sub {
		socket my $socket, 1, 1, 0 or return 0;
		return connect $socket, pack 'Sa*', 1, "\0outside";
	}],
);

for my $attempt (@attempts) {
	my ($name, $try) = @$attempt;
	print "$name\n" if $try->();
}
