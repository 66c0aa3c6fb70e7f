// A clock that jumps: the calendar's back and forth by ten years at each look, the steady one ahead by
// an hour at each tenth. Preloaded, it stands before the system's.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    static atomic_long looks;
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    long look = atomic_fetch_add(&looks, 1);
    if (clock == CLOCK_REALTIME) time->tv_sec += look % 2 ? 315360000 : -315360000;
    else if (clock == CLOCK_MONOTONIC) time->tv_sec += look / 10 * 3600;
    return result;
}
