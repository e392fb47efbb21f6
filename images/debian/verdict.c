// Writes its argument to the exit port: the number is the microVM's verdict, 0 is success. A gmem guest ends at once;
// elsewhere nobody listens there.
#include <stdlib.h>
#include <sys/io.h>

int main(int count, char **arguments)
{
	if (count == 2 && ioperm(0xf4, 4, 1) == 0)
		outl(atoi(arguments[1]), 0xf4);
	return 1;
}
