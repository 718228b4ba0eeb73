// Faults of the operating system, on request: preloaded before the program under test, this library stands
// between it and the C library, and fails calls that concern files under one folder.
//
//   FAULT=WHAT[@N]   what goes wrong, from the N-th such call on (or the N-th byte)
//   FAULT_UNDER=DIR  only files under DIR
//   FAULT_COUNT=FILE appends, at the end, how many calls of each kind there were
//
//   write-full@N   ENOSPC once N bytes are written        write-short    at most 7 bytes at a time
//   read-error@N   EIO at the N-th read                   sync-error@N   EIO at the N-th fsync
//   rename-error@N EIO at the N-th rename                 open-readonly  EROFS on opening to write
//   open-many@N    EMFILE from the N-th open on           clock          the clock jumps by days
//
// scripts/reliability builds and uses it.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITE, READ, SYNC, RENAME, OPEN, KINDS };
static const char* const kNames[KINDS] = {"bytes", "reads", "syncs", "renames", "opens"};

static atomic_long counts[KINDS];
static char fault[64];
static long from = 1;
static char under[4096];

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void start(void)
{
    const char* what = getenv("FAULT");
    const char* folder = getenv("FAULT_UNDER");
    snprintf(fault, sizeof fault, "%s", what ? what : "");
    snprintf(under, sizeof under, "%s", folder ? folder : "/nowhere");
    char* at = strchr(fault, '@');
    if (at) {
        from = atol(at + 1);
        *at = 0;
    }
}

__attribute__((destructor)) static void end(void)
{
    const char* path = getenv("FAULT_COUNT");
    if (!path) return;
    fault[0] = 0;
    FILE* file = fopen(path, "a");
    if (!file) return;
    for (int kind = 0; kind < KINDS; ++kind) fprintf(file, "%s %ld\n", kNames[kind], counts[kind]);
    fclose(file);
}

static int is(const char* what) { return strcmp(fault, what) == 0; }

static int concerns_path(const char* path)
{
    char whole[8192];
    if (path[0] != '/') {
        char here[4096];
        if (!getcwd(here, sizeof here)) return 0;
        snprintf(whole, sizeof whole, "%s/%s", here, path);
        path = whole;
    }
    return strncmp(path, under, strlen(under)) == 0;
}

static int concerns(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return concerns_path(path);
}

// Counts a call; whether it is one of those that fail.
static int hit(int kind, const char* what, int once)
{
    const long number = ++counts[kind];
    return is(what) && (once ? number == from : number >= from);
}

// How much of a write gets through: -1 for none, with errno set.
static ssize_t allowed(size_t size)
{
    if (is("write-short") && size > 7) size = 7;
    const long before = atomic_fetch_add(&counts[WRITE], (long)size);
    if (is("write-full") && before + (long)size > from) {
        errno = ENOSPC;
        return -1;
    }
    return (ssize_t)size;
}

ssize_t write(int fd, const void* data, size_t size)
{
    if (concerns(fd)) {
        const ssize_t some = allowed(size);
        if (some < 0) return -1;
        size = (size_t)some;
    }
    return NEXT(write)(fd, data, size);
}

ssize_t writev(int fd, const struct iovec* parts, int count)
{
    // A short write is allowed: the first part alone.
    if (concerns(fd) && count > 0) return write(fd, parts[0].iov_base, parts[0].iov_len);
    return NEXT(writev)(fd, parts, count);
}

ssize_t pwrite64(int fd, const void* data, size_t size, off64_t offset)
{
    if (concerns(fd)) {
        const ssize_t some = allowed(size);
        if (some < 0) return -1;
        size = (size_t)some;
    }
    return NEXT(pwrite64)(fd, data, size, offset);
}

ssize_t copy_file_range(int in, off64_t* at, int out, off64_t* to, size_t size, unsigned flags)
{
    if (concerns(out)) {
        const ssize_t some = allowed(size);
        if (some < 0) return -1;
        size = (size_t)some;
    }
    return NEXT(copy_file_range)(in, at, out, to, size, flags);
}

ssize_t read(int fd, void* data, size_t size)
{
    if (concerns(fd) && hit(READ, "read-error", 1)) {
        errno = EIO;
        return -1;
    }
    return NEXT(read)(fd, data, size);
}

ssize_t pread64(int fd, void* data, size_t size, off64_t offset)
{
    if (concerns(fd) && hit(READ, "read-error", 1)) {
        errno = EIO;
        return -1;
    }
    return NEXT(pread64)(fd, data, size, offset);
}

int fsync(int fd)
{
    if (concerns(fd) && hit(SYNC, "sync-error", 1)) {
        errno = EIO;
        return -1;
    }
    return NEXT(fsync)(fd);
}

int rename(const char* old, const char* new)
{
    if (concerns_path(new) && hit(RENAME, "rename-error", 1)) {
        errno = EIO;
        return -1;
    }
    return NEXT(rename)(old, new);
}

static int refused(const char* path, int flags)
{
    if (!concerns_path(path)) return 0;
    if (hit(OPEN, "open-many", 0)) {
        errno = EMFILE;
        return 1;
    }
    if (is("open-readonly") && (flags & O_ACCMODE) != O_RDONLY) {
        errno = EROFS;
        return 1;
    }
    return 0;
}

int open64(const char* path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    const mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return refused(path, flags) ? -1 : NEXT(open64)(path, flags, mode);
}

int open(const char* path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    const mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return refused(path, flags) ? -1 : NEXT(open)(path, flags, mode);
}

int clock_gettime(clockid_t clock, struct timespec* now)
{
    static atomic_long calls;
    const int status = NEXT(clock_gettime)(clock, now);
    // Back and forth; the monotonic clock never does that.
    if (is("clock") && clock == CLOCK_REALTIME) now->tv_sec += (++calls % 3 - 1) * 7 * 86400;
    return status;
}
