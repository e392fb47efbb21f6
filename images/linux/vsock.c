// What nc is for TCP, for vsock:
//   vsock connect CID PORT   standard input to the peer, and what it sends to standard output
//   vsock echo PORT          gives one peer back what it sends
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

static char buffer[1 << 16];

static int failed(const char *what)
{
	fprintf(stderr, "vsock: %s: %s\n", what, strerror(errno));
	return 1;
}

static int write_all(int to, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = write(to, buffer + done, size - done);
		if (n < 0)
			return -1;
		done += n;
	}
	return 0;
}

static int echo(unsigned int port)
{
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port,
	};
	int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1))
		return failed("listen");
	int peer = accept(listener, NULL, NULL);
	if (peer < 0)
		return failed("accept");
	unsigned long long total = 0;
	for (;;) {
		ssize_t n = read(peer, buffer, sizeof buffer);
		if (n < 0)
			return failed("read");
		if (n == 0)
			break;
		if (write_all(peer, n))
			return failed("write");
		total += n;
	}
	printf("vsock: %llu bytes given back\n", total);
	return 0;
}

// One direction does not wait for the other: a peer that gives back what it gets would stop otherwise.
static int connect_to(unsigned int cid, unsigned int port)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port };
	int peer = socket(AF_VSOCK, SOCK_STREAM, 0);
	if (peer < 0 || connect(peer, (struct sockaddr *)&address, sizeof address))
		return failed("connect");
	pid_t child = fork();
	if (child < 0)
		return failed("fork");
	int from = child == 0 ? STDIN_FILENO : peer;
	int to = child == 0 ? peer : STDOUT_FILENO;
	for (;;) {
		ssize_t n = read(from, buffer, sizeof buffer);
		if (n < 0)
			return failed("read");
		if (n == 0)
			break;
		if (write_all(to, n))
			return failed("write");
	}
	if (child == 0)
		shutdown(peer, SHUT_WR);
	return 0;
}

int main(int count, char **arguments)
{
	if (count == 4 && !strcmp(arguments[1], "connect"))
		return connect_to(strtoul(arguments[2], NULL, 0), strtoul(arguments[3], NULL, 0));
	if (count == 3 && !strcmp(arguments[1], "echo"))
		return echo(strtoul(arguments[2], NULL, 0));
	fprintf(stderr, "vsock: usage: vsock connect CID PORT, or vsock echo PORT\n");
	return 2;
}
