/* Preloaded into a process: fails, or kills it, at the n-th file call below a folder.

   armed by fault_arm(folder, at, error, stays, reads): call `at` (from 0) of those that change files, and with `reads` of those
   that read them too, returns `error`, or with 0 ends the process by SIGKILL before it is done; with `stays` every later one fails
   as well. `at` -1 only counts. A write that fails has written half of its bytes. Children do not inherit it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 65536
static char folder[PATH_MAX], last[PATH_MAX + 64];
static size_t length;
static long at = -1;
static int error, stays, reads, armed;
static atomic_long count;
static char below[FILES];

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) { unsetenv("LD_PRELOAD"); }

void fault_arm(const char *where, long when, int number, int for_good, int also_reads) {
  strncpy(folder, where, sizeof folder - 1);
  length = strlen(folder), at = when, error = number, stays = for_good, reads = also_reads;
  atomic_store(&count, 0);
  armed = 1;
}

long fault_count(void) { return atomic_load(&count); }
const char *fault_last(void) { return last; }

/* Whether a path is below the folder; relative ones are (the process stands there), unless they are below another open folder. */
static int is_below(int at_folder, const char *path) {
  if (!armed || path == NULL) return 0;
  if (path[0] == '/') return strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0);
  return at_folder == AT_FDCWD || (at_folder >= 0 && at_folder < FILES && below[at_folder]);
}

static int is_open_below(int file) { return armed && file >= 0 && file < FILES && below[file]; }

/* Counts a call; whether it is to fail. */
static int fails(const char *name, const char *path) {
  long now = atomic_fetch_add(&count, 1);
  if (at < 0 || now < at || (now > at && !stays)) return 0;
  snprintf(last, sizeof last, "%s %s", name, path ? path : "");
  if (error == 0) kill(getpid(), SIGKILL);
  errno = error;
  return 1;
}

static int opened(int file, int is_of_folder) {
  if (file >= 0 && file < FILES) below[file] = is_of_folder;
  return file;
}

#define MODE(flags) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }
#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    MODE(flags) \
    int own = is_below(AT_FDCWD, path), changes = (flags & (O_ACCMODE | O_CREAT)) != O_RDONLY; \
    if (own && (changes || reads) && fails(#name, path)) return -1; \
    return opened(REAL(name)(path, flags, mode), own); \
  }
#define OPENAT(name) \
  int name(int where, const char *path, int flags, ...) { \
    MODE(flags) \
    int own = is_below(where, path), changes = (flags & (O_ACCMODE | O_CREAT)) != O_RDONLY; \
    if (own && (changes || reads) && fails(#name, path)) return -1; \
    return opened(REAL(name)(where, path, flags, mode), own); \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int close(int file) {
  if (file >= 0 && file < FILES) below[file] = 0;
  return REAL(close)(file);
}

ssize_t write(int file, const void *data, size_t n) {
  if (is_open_below(file) && fails("write", NULL)) {
    int number = errno;
    if (n > 1) (void)!REAL(write)(file, data, n / 2);
    errno = number;
    return -1;
  }
  return REAL(write)(file, data, n);
}
ssize_t pwrite64(int file, const void *data, size_t n, off64_t place) {
  if (is_open_below(file) && fails("pwrite64", NULL)) return -1;
  return REAL(pwrite64)(file, data, n, place);
}
ssize_t writev(int file, const struct iovec *parts, int n) {
  if (is_open_below(file) && fails("writev", NULL)) return -1;
  return REAL(writev)(file, parts, n);
}
ssize_t sendfile64(int to, int from, off64_t *place, size_t n) {
  if (is_open_below(to) && fails("sendfile64", NULL)) return -1;
  ssize_t (*real)(int, int, off64_t *, size_t) = dlsym(RTLD_NEXT, "sendfile64");
  return real(to, from, place, n);
}
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t n, unsigned flags) {
  if (is_open_below(to) && fails("copy_file_range", NULL)) return -1;
  return REAL(copy_file_range)(from, a, to, b, n, flags);
}

#define OF_FILE(result, name, file, declared, given, when) \
  result name declared { \
    if ((when) && is_open_below(file) && fails(#name, NULL)) return (result)-1; \
    return REAL(name) given; \
  }
OF_FILE(int, fsync, file, (int file), (file), 1)
OF_FILE(int, fdatasync, file, (int file), (file), 1)
OF_FILE(int, ftruncate64, file, (int file, off64_t n), (file, n), 1)
OF_FILE(int, flock, file, (int file, int how), (file, how), 1)
OF_FILE(ssize_t, read, file, (int file, void *data, size_t n), (file, data, n), reads)
OF_FILE(ssize_t, pread64, file, (int file, void *data, size_t n, off64_t place), (file, data, n, place), reads)

void *mmap64(void *where, size_t n, int how, int flags, int file, off64_t place) {
  if (reads && is_open_below(file) && fails("mmap64", NULL)) return MAP_FAILED;
  return REAL(mmap64)(where, n, how, flags, file, place);
}

#define OF_PATH(name, where, path, declared, given, when) \
  int name declared { \
    if ((when) && is_below(where, path) && fails(#name, path)) return -1; \
    return REAL(name) given; \
  }
OF_PATH(unlink, AT_FDCWD, path, (const char *path), (path), 1)
OF_PATH(unlinkat, where, path, (int where, const char *path, int flags), (where, path, flags), 1)
OF_PATH(rmdir, AT_FDCWD, path, (const char *path), (path), 1)
OF_PATH(mkdir, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode), 1)
OF_PATH(mkdirat, where, path, (int where, const char *path, mode_t mode), (where, path, mode), 1)
OF_PATH(rename, AT_FDCWD, to, (const char *from, const char *to), (from, to), 1)
OF_PATH(renameat, where, to, (int a, const char *from, int where, const char *to), (a, from, where, to), 1)
OF_PATH(renameat2, where, to, (int a, const char *from, int where, const char *to, unsigned how), (a, from, where, to, how), 1)
OF_PATH(link, AT_FDCWD, to, (const char *from, const char *to), (from, to), 1)
OF_PATH(symlink, AT_FDCWD, to, (const char *from, const char *to), (from, to), 1)
OF_PATH(stat, AT_FDCWD, path, (const char *path, struct stat *found), (path, found), reads)
OF_PATH(lstat, AT_FDCWD, path, (const char *path, struct stat *found), (path, found), reads)
OF_PATH(stat64, AT_FDCWD, path, (const char *path, struct stat64 *found), (path, found), reads)
OF_PATH(lstat64, AT_FDCWD, path, (const char *path, struct stat64 *found), (path, found), reads)

DIR *opendir(const char *path) {
  if (reads && is_below(AT_FDCWD, path) && fails("opendir", path)) return NULL;
  return REAL(opendir)(path);
}
