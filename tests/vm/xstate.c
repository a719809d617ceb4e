/*
 * xstate: lets user-mode-linux before 6.13 run on a processor with AMX.
 *
 * It saves and restores the floating point state of its processes in a buffer of
 * 2696 bytes. Reading less than all is fine; writing less than all fails with
 * EFAULT (xstateregs_set in arch/x86/kernel/fpu/regset.c), and with AMX there are
 * 11 kilobytes. So: what is given overwrites the beginning of what is there.
 * Preloaded by ./run where the processor asks for it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifndef NT_X86_XSTATE
#define NT_X86_XSTATE 0x202
#endif

typedef long (*ptrace_call)(enum __ptrace_request, pid_t, void *, void *);

long ptrace(enum __ptrace_request request, ...)
{
	static ptrace_call next;
	static char whole[1 << 16]; /* not on the stack: that of a guest's kernel is small */
	struct iovec all = {whole, sizeof(whole)};
	va_list rest;
	long result;

	va_start(rest, request);
	pid_t pid = va_arg(rest, pid_t);
	void *address = va_arg(rest, void *);
	void *data = va_arg(rest, void *);
	va_end(rest);

	if (!next)
		next = (ptrace_call)dlsym(RTLD_NEXT, "ptrace");
	result = next(request, pid, address, data);
	if (result == 0 || errno != EFAULT || request != PTRACE_SETREGSET || (long)address != NT_X86_XSTATE)
		return result;

	struct iovec *part = data;
	if (next(PTRACE_GETREGSET, pid, address, &all) != 0 || all.iov_len < part->iov_len)
		return -1;
	memcpy(whole, part->iov_base, part->iov_len);
	return next(PTRACE_SETREGSET, pid, address, &all);
}
