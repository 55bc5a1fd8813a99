/* Adds the number of seconds in the file $CLOCK_OFFSET_FILE to the time of day of a process (LD_PRELOAD).
 *
 * The monotonic clock stays as it is, as on a machine whose clock is set.  (libfaketime 0.9.10 of Debian either moves
 * the monotonic clock too, or makes Python's time.sleep fail.)
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset_s(void) {
    char text[32] = {0};
    const char *path = getenv("CLOCK_OFFSET_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    long n = read(file, text, sizeof text - 1);
    close(file);
    return n > 0 ? strtol(text, NULL, 10) : 0;
}

int clock_gettime(clockid_t id, struct timespec *when) {
    int failed = (int)syscall(SYS_clock_gettime, id, when);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) when->tv_sec += offset_s();
    return failed;
}

int gettimeofday(struct timeval *restrict when, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    when->tv_sec = now.tv_sec;
    when->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *when) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (when) *when = now.tv_sec;
    return now.tv_sec;
}
