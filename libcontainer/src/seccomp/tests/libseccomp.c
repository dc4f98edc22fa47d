/* Builds a filter with libseccomp from lines on stdin and writes its BPF to stdout:
 *   arch NAME
 *   name SYSCALL NUMBER NUMBER NUMBER        what we take it for on x86_64, x86 and x32, or -1
 *   rule ACTION SYSCALL [ARGUMENT OP A B]...
 * The first argument is the default action; actions are SECCOMP_RET_* words, OP is an enum scmp_compare.
 * On stderr: "unknown SYSCALL" for names it does not have on an architecture where we do, "differs SYSCALL" where it has
 * another number, "refused SYSCALL" for rules it does not take. */
#include <inttypes.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
	static char line[4096];
	scmp_filter_ctx ctx = argc == 2 ? seccomp_init(strtoul(argv[1], NULL, 0)) : NULL;
	if (!ctx)
		return 2;
	while (fgets(line, sizeof(line), stdin)) {
		char *save, *word = strtok_r(line, " \n", &save), *a[4];
		if (!word)
			continue;
		if (strcmp(word, "arch") == 0) {
			int rc = seccomp_arch_add(ctx, seccomp_arch_resolve_name(strtok_r(NULL, " \n", &save)));
			if (rc && rc != -17 /* EEXIST */)
				return 3;
			continue;
		}
		if (strcmp(word, "name") == 0) {
			const uint32_t archs[] = { SCMP_ARCH_X86_64, SCMP_ARCH_X86, SCMP_ARCH_X32 };
			const char *name = strtok_r(NULL, " \n", &save);
			for (int i = 0; i < 3; i++) {
				int ours = atoi(strtok_r(NULL, " \n", &save));
				int theirs = seccomp_syscall_resolve_name_arch(archs[i], name);
				if (theirs <= -100 && theirs >= -300 && i == 1)
					continue; /* behind socketcall or ipc */
				if (ours >= 0 && theirs < 0)
					fprintf(stderr, "unknown %s\n", name);
				else if (theirs >= 0 && ours != theirs)
					fprintf(stderr, "differs %s\n", name);
			}
			continue;
		}
		uint32_t action = strtoul(strtok_r(NULL, " \n", &save), NULL, 0);
		const char *name = strtok_r(NULL, " \n", &save);
		struct scmp_arg_cmp args[6];
		unsigned n = 0;
		while (n < 6 && (a[0] = strtok_r(NULL, " \n", &save))) {
			for (int i = 1; i < 4; i++)
				a[i] = strtok_r(NULL, " \n", &save);
			args[n++] = (struct scmp_arg_cmp){ atoi(a[0]), atoi(a[1]), strtoull(a[2], NULL, 0), strtoull(a[3], NULL, 0) };
		}
		int number = seccomp_syscall_resolve_name(name);
		if (number == __NR_SCMP_ERROR)
			fprintf(stderr, "unknown %s\n", name);
		else if (seccomp_rule_add_array(ctx, action, number, n, args))
			fprintf(stderr, "refused %s\n", name);
	}
	return seccomp_export_bpf(ctx, 1) ? 4 : 0;
}
