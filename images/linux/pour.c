// Moves a pattern by large pieces, and checks it. Pipes and small reads are what costs where the kernel is emulated.
//   pour write PATH MB           into a file, past the page cache
//   pour check PATH MB           the same, read back and compared
//   pour tcp ADDRESS PORT MB     to a service that sends all of it back once it has all of it
//   pour vsock CID PORT MB       the same
//   pour echo PORT               over vsock, gives one peer back what it sends
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum { MIB = 1 << 20, WORDS = MIB / 8 };

// A huge page of its own: its first touch is one fault.
static uint64_t piece[WORDS] __attribute__((aligned(2 * MIB)));

static int failed(const char *what)
{
	fprintf(stderr, "pour: %s: %s\n", what, strerror(errno));
	return 1;
}

static uint64_t word(uint64_t index)
{
	uint64_t mixed = (index + 1) * 0x9e3779b97f4a7c15;
	return mixed ^ mixed >> 32;
}

static void fill(uint64_t number)
{
	for (uint64_t i = 0; i < WORDS; i++)
		piece[i] = word(number * WORDS + i);
}

static int wrong(uint64_t number)
{
	for (uint64_t i = 0; i < WORDS; i++) {
		uint64_t want = word(number * WORDS + i);
		if (piece[i] == want)
			continue;
		fprintf(stderr, "pour: at byte %llu: %016llx, expected %016llx\n",
			(unsigned long long)(number * MIB + i * 8), (unsigned long long)piece[i],
			(unsigned long long)want);
		return 1;
	}
	return 0;
}

static int write_all(int to, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = write(to, (char *)piece + done, size - done);
		if (n < 0)
			return -1;
		done += n;
	}
	return 0;
}

static int read_all(int from)
{
	for (size_t done = 0; done < MIB;) {
		ssize_t n = read(from, (char *)piece + done, MIB - done);
		if (n == 0)
			errno = ENODATA;
		if (n <= 0)
			return -1;
		done += n;
	}
	return 0;
}

static int send_pattern(int to, uint64_t count)
{
	for (uint64_t number = 0; number < count; number++) {
		fill(number);
		if (write_all(to, MIB))
			return failed("write");
	}
	return 0;
}

static int check_pattern(int from, uint64_t count)
{
	for (uint64_t number = 0; number < count; number++) {
		if (read_all(from))
			return failed("read");
		if (wrong(number))
			return 1;
	}
	if (read(from, piece, MIB) > 0) {
		fprintf(stderr, "pour: more came than %llu MiB\n", (unsigned long long)count);
		return 1;
	}
	return 0;
}

static int there_and_back(int peer, uint64_t count)
{
	if (send_pattern(peer, count))
		return 1;
	if (shutdown(peer, SHUT_WR))
		return failed("shutdown");
	return check_pattern(peer, count);
}

static int tcp(const char *host, const char *port, uint64_t count)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
	if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
		return failed(host);
	int peer = socket(AF_INET, SOCK_STREAM, 0);
	if (peer < 0 || connect(peer, (struct sockaddr *)&address, sizeof address))
		return failed("connect");
	return there_and_back(peer, count);
}

static int vsock(const char *cid, const char *port, uint64_t count)
{
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK, .svm_cid = strtoul(cid, NULL, 10), .svm_port = strtoul(port, NULL, 10),
	};
	int peer = socket(AF_VSOCK, SOCK_STREAM, 0);
	if (peer < 0 || connect(peer, (struct sockaddr *)&address, sizeof address))
		return failed("connect");
	return there_and_back(peer, count);
}

static int echo(const char *port)
{
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = strtoul(port, NULL, 10),
	};
	int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1))
		return failed("listen");
	int peer = accept(listener, NULL, NULL);
	if (peer < 0)
		return failed("accept");
	ssize_t n;
	while ((n = read(peer, piece, MIB)) > 0)
		if (write_all(peer, n))
			return failed("write");
	return n < 0 ? failed("read") : 0;
}

static int file(const char *path, uint64_t count, int writing)
{
	int flags = O_DIRECT | (writing ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY);
	int fd = open(path, flags, 0644);
	if (fd < 0)
		return failed(path);
	if (!writing)
		return check_pattern(fd, count);
	return send_pattern(fd, count) || fsync(fd) ? 1 : 0;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "write"))
		return file(argv[2], strtoul(argv[3], NULL, 10), 1);
	if (argc == 4 && !strcmp(argv[1], "check"))
		return file(argv[2], strtoul(argv[3], NULL, 10), 0);
	if (argc == 5 && !strcmp(argv[1], "tcp"))
		return tcp(argv[2], argv[3], strtoul(argv[4], NULL, 10));
	if (argc == 5 && !strcmp(argv[1], "vsock"))
		return vsock(argv[2], argv[3], strtoul(argv[4], NULL, 10));
	if (argc == 3 && !strcmp(argv[1], "echo"))
		return echo(argv[2]);
	fprintf(stderr, "pour: write PATH MB | check PATH MB | tcp ADDRESS PORT MB | vsock CID PORT MB | echo PORT\n");
	return 2;
}
