// The guest's first program: mounts what programs expect, runs /start, and hands its exit code to the monitor.
//
// It is C without a C library (the kernel's nolibc), because it is in the way of every boot: on a host whose KVM
// emulates the kernel, each page of a program costs milliseconds before its first instruction.
#define EXIT_PORT 0xf4 // of the monitor: the number written is the microVM's verdict, 0 is success

static void say(const char *what, const char *detail)
{
	char line[160];
	int n = 0;

	for (; *what; what++)
		line[n++] = *what;
	for (; *detail && n < 120; detail++)
		line[n++] = *detail;
	line[n++] = '\n';
	write(1, line, n);
}

// The guest's clock in seconds since its boot, as text.
static const char *uptime(void)
{
	static char text[64];
	int file = open("/proc/uptime", O_RDONLY, 0);
	int n = file < 0 ? 0 : read(file, text, sizeof text - 1);

	if (file >= 0)
		close(file);
	for (int i = 0; i < n; i++)
		if (text[i] == ' ')
			n = i;
	text[n > 0 ? n : 0] = 0;
	return text;
}

// Huge pages for whoever uses memory: the kernel has them off below 512 MiB, but here a fault of 4 KiB costs
// milliseconds, and a huge page costs less than 512 of them.
static void huge_pages(void)
{
	int file = open("/sys/kernel/mm/transparent_hugepage/enabled", O_WRONLY, 0);

	if (file < 0 || write(file, "always", 6) != 6)
		say("gmem: no huge pages", "");
	if (file >= 0)
		close(file);
}

// Runs /start and returns its exit code; 128 + the signal that killed it, as a shell would say.
static int start(char **environment)
{
	char *arguments[] = { "/bin/sh", "/start", NULL };
	int status = 0;
	pid_t child = fork();

	if (child == 0) {
		execve(arguments[0], arguments, environment);
		say("gmem: /bin/sh cannot be run", "");
		exit(127);
	}
	if (child < 0)
		return 127;
	// The first process also inherits those whose parents are gone.
	for (;;) {
		pid_t ended = wait(&status);
		if (ended == child)
			break;
		if (ended < 0)
			return 127;
	}
	return status & 0x7f ? 128 + (status & 0x7f) : status >> 8 & 0xff;
}

int main(void)
{
	char *environment[] = { "PATH=/bin", "HOME=/", "TERM=linux", NULL };

	mount("proc", "/proc", "proc", 0, NULL);
	say("gmem: init reached, guest clock ", uptime());
	mount("sys", "/sys", "sysfs", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("tmp", "/tmp", "tmpfs", 0, NULL);
	huge_pages();

	int verdict = start(environment);
	say(verdict ? "gmem: failed, guest clock " : "gmem: succeeded, guest clock ", uptime());

	my_syscall0(__NR_sync);
	// The port ends a gmem guest at once. Elsewhere nobody listens there, and the reset ends it.
	if (my_syscall3(__NR_ioperm, EXIT_PORT, 4, 1) == 0)
		asm volatile("outl %0, %w1" : : "a"(verdict), "Nd"(EXIT_PORT));
	reboot(LINUX_REBOOT_CMD_RESTART);
	return 1;
}
