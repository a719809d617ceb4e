/* netns.c: helper of scripts/bench/netns.
 *
 *   netns time COMMAND [ARGUMENT...]  run it, print the microseconds that it took
 *   netns flow N                      N namespaces, a bridge, N links with addresses: raw netlink, one process,
 *                                     no check and no way back: what nobody can be much faster than
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char buffer[65536];
static unsigned filled, last;

static void *room(unsigned length)
{
	void *at = buffer + filled;
	memset(at, 0, length);
	filled += NLMSG_ALIGN(length);
	return at;
}

static void begin(int kind, int flags, const void *fixed, unsigned length)
{
	struct nlmsghdr *header;
	last = filled;
	header = room(sizeof *header);
	header->nlmsg_type = kind;
	header->nlmsg_flags = NLM_F_REQUEST | flags;
	memcpy(room(length), fixed, length);
}

static void put(int kind, const void *value, unsigned length)
{
	struct rtattr *attribute = room(RTA_LENGTH(0));
	attribute->rta_type = kind;
	attribute->rta_len = RTA_LENGTH(length);
	memcpy(room(length), value, length);
}

static void put32(int kind, unsigned value) { put(kind, &value, 4); }
static void put_text(int kind, const char *text) { put(kind, text, strlen(text) + 1); }

static unsigned open_nest(int kind)
{
	unsigned at = filled;
	put(kind, "", 0);
	return at;
}

static void close_nest(unsigned at) { ((struct rtattr *)(buffer + at))->rta_len = filled - at; }
static void end(void) { ((struct nlmsghdr *)(buffer + last))->nlmsg_len = filled - last; }

/* Sends all that was put together and waits for the last acknowledgement. */
static void tell(int fd)
{
	struct nlmsghdr *header;
	char answer[8192];
	end();
	((struct nlmsghdr *)(buffer + last))->nlmsg_flags |= NLM_F_ACK;
	if (send(fd, buffer, filled, 0) < 0 || recv(fd, answer, sizeof answer, 0) < 0)
		err(1, "netlink");
	header = (struct nlmsghdr *)answer;
	if (header->nlmsg_type != NLMSG_ERROR || ((struct nlmsgerr *)NLMSG_DATA(header))->error)
		errx(1, "netlink: %s", strerror(-((struct nlmsgerr *)NLMSG_DATA(header))->error));
	filled = 0;
}

static int route_socket(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd < 0)
		err(1, "socket");
	return fd;
}

static void up(int index)
{
	struct ifinfomsg link = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
	if (filled)
		end();
	begin(RTM_NEWLINK, 0, &link, sizeof link);
}

static void pair(int fd, int number, int bridge, int namespace)
{
	struct ifinfomsg link = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP}, peer = {0};
	unsigned info, data, other;
	char name[16];
	snprintf(name, sizeof name, "v%d", number);
	begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link, sizeof link);
	put_text(IFLA_IFNAME, name);
	put32(IFLA_MASTER, bridge);
	put32(IFLA_NUM_TX_QUEUES, 1);
	put32(IFLA_NUM_RX_QUEUES, 1);
	info = open_nest(IFLA_LINKINFO);
	put_text(IFLA_INFO_KIND, "veth");
	data = open_nest(IFLA_INFO_DATA);
	other = open_nest(VETH_INFO_PEER);
	memcpy(room(sizeof peer), &peer, sizeof peer);
	put_text(IFLA_IFNAME, "eth0");
	put32(IFLA_NUM_TX_QUEUES, 1);
	put32(IFLA_NUM_RX_QUEUES, 1);
	put32(IFLA_NET_NS_FD, namespace);
	close_nest(other);
	close_nest(data);
	close_nest(info);
	tell(fd);
}

static void inside(int number)
{
	struct ifaddrmsg address = {.ifa_family = AF_INET, .ifa_prefixlen = 16};
	unsigned value = htonl(0x0a000001 + number / 250 * 256 + number % 250);
	int fd = route_socket(), index = if_nametoindex("eth0");
	up(1);
	up(index);
	end();
	address.ifa_index = index;
	begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &address, sizeof address);
	put32(IFA_LOCAL, value);
	put32(IFA_ADDRESS, value);
	tell(fd);
	close(fd);
}

static int flow(int count)
{
	struct ifinfomsg link = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP};
	int home = open("/proc/self/ns/net", O_RDONLY), fd = route_socket(), bridge, at;
	unsigned info;
	begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link, sizeof link);
	put_text(IFLA_IFNAME, "br0");
	info = open_nest(IFLA_LINKINFO);
	put_text(IFLA_INFO_KIND, "bridge");
	close_nest(info);
	tell(fd);
	bridge = if_nametoindex("br0");
	mkdir("/run/netns", 0755);
	mount("/run/netns", "/run/netns", NULL, MS_BIND | MS_REC, NULL);
	mount(NULL, "/run/netns", NULL, MS_SHARED | MS_REC, NULL);
	for (at = 0; at < count; at++) {
		char path[32];
		int namespace;
		snprintf(path, sizeof path, "/run/netns/n%d", at);
		close(open(path, O_CREAT | O_EXCL, 0));
		if (unshare(CLONE_NEWNET) || mount("/proc/self/ns/net", path, NULL, MS_BIND, NULL))
			err(1, "%s", path);
		namespace = open(path, O_RDONLY);
		pair(fd, at, bridge, namespace);
		inside(at);
		close(namespace);
	}
	return setns(home, CLONE_NEWNET);
}

static int timed(char **command)
{
	struct timespec before, after;
	int status;
	clock_gettime(CLOCK_MONOTONIC, &before);
	if (!vfork()) {
		execvp(command[0], command);
		_exit(127);
	}
	wait(&status);
	clock_gettime(CLOCK_MONOTONIC, &after);
	if (status)
		errx(1, "'%s' failed", command[0]);
	printf("%ld\n", (after.tv_sec - before.tv_sec) * 1000000 + (after.tv_nsec - before.tv_nsec) / 1000);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "time"))
		return timed(argv + 2);
	if (argc == 3 && !strcmp(argv[1], "flow"))
		return flow(atoi(argv[2]));
	return 2;
}
