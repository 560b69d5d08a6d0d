/* What stacks of optimised programs are made of: recursion, callbacks from libc, printf, and a
   signal handler that interrupts all of them. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

static volatile unsigned long sink;

__attribute__((noinline)) static unsigned long spin(unsigned long rounds) {
    unsigned long sum = 0;
    for (unsigned long i = 0; i < rounds; i++) {
        sum += i * i;
        sum ^= sum >> 3;
    }
    return sum;
}
__attribute__((noinline)) static int compare(const void *one, const void *other) {
    int a = *(const int *)one, b = *(const int *)other;
    return a < b ? -1 : a > b;
}
__attribute__((noinline)) static void sort(int count) {
    int *numbers = malloc(count * sizeof *numbers);
    for (int i = 0; i < count; i++)
        numbers[i] = rand();
    qsort(numbers, count, sizeof *numbers, compare);
    sink += numbers[0];
    free(numbers);
}
__attribute__((noinline)) static unsigned long down(int depth) {
    char room[64];
    memset(room, depth, sizeof room);
    if (depth == 0)
        return spin(3000) + room[3];
    return down(depth - 1) + room[5];
}
__attribute__((noinline)) static void print(int count) {
    char text[256];
    for (int i = 0; i < count; i++) {
        snprintf(text, sizeof text, "%d %f %s", i, i * 0.5, "hello");
        sink += strlen(text);
    }
}
static void on_alarm(int number) {
    sink += spin(20000) + number;
}
__attribute__((noinline)) static void work(void) {
    sort(20000);
    sink += down(40);
    print(3000);
    sink += spin(300000);
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 50;
    struct itimerval often = {{0, 2000}, {0, 2000}};
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < rounds; i++)
        work();
    return 0;
}
