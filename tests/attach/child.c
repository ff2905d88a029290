// A child of another kind than its parent: says that it lives, and whether the system takes it for one of other rights.
#include <stdio.h>
#include <sys/auxv.h>

int main(void) {
    printf("alive, secure %lu\n", getauxval(AT_SECURE));
    return 7;
}
