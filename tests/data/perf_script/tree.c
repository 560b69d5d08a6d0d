/* A program with known shares: of the work, the child does a quarter and the parent the rest,
   2/3 of it in heavy() and 1/3 in light(). */
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile unsigned long sink;

__attribute__((noinline)) static void spin(unsigned long rounds) {
    for (unsigned long i = 0; i < rounds; i++)
        sink += i * i;
}
__attribute__((noinline)) static void light(unsigned long rounds) { spin(rounds); sink++; }
__attribute__((noinline)) static void heavy(unsigned long rounds) { spin(2 * rounds); sink++; }
__attribute__((noinline)) static void child(unsigned long rounds) { spin(rounds); sink++; }

int main(int argc, char **argv) {
    unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    if (fork() == 0) {
        child(rounds);
        _exit(0);
    }
    wait(NULL);
    light(rounds);
    heavy(rounds);
    return 0;
}
