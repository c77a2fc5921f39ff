/* Mapping, locking, processes, faults. See state.h. */
#define _GNU_SOURCE
#include "state.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const int LOCK_SECONDS = 10;

static sim_host *map_file(int fd) {
    void *memory = mmap(NULL, sizeof(sim_host), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

sim_host *sim_map(const char *path) {
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return NULL;
    struct stat info;
    sim_host *host = NULL;
    if (fstat(fd, &info) == 0 && (size_t)info.st_size == sizeof(sim_host)) host = map_file(fd);
    close(fd);
    if (host == NULL) return NULL;
    bool known = host->magic == SIM_MAGIC && host->layout == SIM_LAYOUT &&
                 host->size == sizeof(sim_host) && host->ready;
    if (!known) {
        munmap(host, sizeof(sim_host));
        errno = EPROTO;
        return NULL;
    }
    return host;
}

int sim_create(const char *path) {
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return errno;
    /* Other users' daemons and engines open the same host, as they do /dev/nvidia*. */
    if (fchmod(fd, 0666) != 0 || ftruncate(fd, sizeof(sim_host)) != 0) {
        int failed = errno;
        close(fd);
        return failed;
    }
    sim_host *host = map_file(fd);
    close(fd);
    if (host == NULL) return errno;
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&host->lock, &kind);
    pthread_mutexattr_destroy(&kind);
    host->magic = SIM_MAGIC;
    host->layout = SIM_LAYOUT;
    host->size = sizeof(sim_host);
    host->next_serial = 1;
    host->privileged = 1;
    host->driver_loaded = 1;
    __atomic_store_n(&host->ready, 1, __ATOMIC_RELEASE);
    munmap(host, sizeof(sim_host));
    return 0;
}

static sim_host *attached;
static pthread_once_t attach_once = PTHREAD_ONCE_INIT;

static void attach(void) {
    Dl_info where;
    if (dladdr((void *)&sim_attach, &where) == 0 || where.dli_fname == NULL) return;
    char real[PATH_MAX], path[PATH_MAX + 16];
    if (realpath(where.dli_fname, real) == NULL) return;
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(real, '/');
        if (slash == NULL) return;
        *slash = '\0';
    }
    snprintf(path, sizeof path, "%s/state", real);
    attached = sim_map(path);
}

sim_host *sim_attach(void) {
    pthread_once(&attach_once, attach);
    return attached;
}

bool sim_lock(sim_host *host) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += LOCK_SECONDS;
    int failed = pthread_mutex_timedlock(&host->lock, &until);
    if (failed == EOWNERDEAD) {
        /* Its holder was killed. Records are whole or unused: see state.h. */
        pthread_mutex_consistent(&host->lock);
        failed = 0;
    }
    return failed == 0;
}

void sim_unlock(sim_host *host) { pthread_mutex_unlock(&host->lock); }

double sim_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

uint64_t sim_started(pid_t pid) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    if (got <= 0) return 0;
    text[got] = '\0';
    char *after = strrchr(text, ')'); /* the command may hold blanks and brackets */
    char state = 0;
    unsigned long long started = 0;
    if (after == NULL) return 0;
    /* State is field 3, the start time field 22. */
    int read_fields = sscanf(after + 1,
        " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
        &state, &started);
    if (read_fields != 2 || state == 'Z' || state == 'X') return 0;
    return started ? started : 1;
}

void sim_reap(sim_host *host) {
    for (unsigned i = 0; i < SIM_PROCESSES; i++) {
        sim_process *process = &host->processes[i];
        if (process->used && process->started && sim_started(process->pid) != process->started)
            process->used = 0;
    }
}

uint64_t sim_used_bytes(const sim_host *host, uint32_t gpu, uint32_t instance_id) {
    uint64_t sum = 0;
    for (unsigned i = 0; i < SIM_PROCESSES; i++) {
        const sim_process *process = &host->processes[i];
        if (process->used && process->gpu == gpu &&
            (instance_id == SIM_NONE || process->instance_id == instance_id))
            sum += process->context_bytes + process->allocated_bytes;
    }
    return sum;
}

unsigned sim_process_count(const sim_host *host, uint32_t gpu, uint32_t instance_id) {
    unsigned count = 0;
    for (unsigned i = 0; i < SIM_PROCESSES; i++) {
        const sim_process *process = &host->processes[i];
        count += process->used && process->gpu == gpu &&
                 (instance_id == SIM_NONE || process->instance_id == instance_id);
    }
    return count;
}

sim_process *sim_add_process(sim_host *host, uint32_t gpu, pid_t pid) {
    for (unsigned i = 0; i < SIM_PROCESSES; i++) {
        sim_process *process = &host->processes[i];
        if (process->used) continue;
        memset(process, 0, sizeof *process);
        process->gpu = gpu;
        process->instance_id = process->compute_id = SIM_NONE;
        process->pid = pid;
        process->kind = SIM_CONTEXT;
        process->started = sim_started(pid);
        process->used = 1;
        return process;
    }
    return NULL;
}

static bool matches(const sim_fault *fault, const char *function, uint32_t gpu) {
    if (fault->gpu != SIM_NONE && fault->gpu != gpu) return false;
    if (strcmp(fault->function, "mig") == 0)
        return strstr(function, "Mig") != NULL || strstr(function, "Instance") != NULL;
    return fnmatch(fault->function, function, 0) == 0;
}

bool sim_hangs(sim_host *host, const char *function, uint32_t gpu) {
    for (unsigned i = 0; i < SIM_FAULTS; i++) {
        const sim_fault *fault = &host->faults[i];
        if (__atomic_load_n(&fault->used, __ATOMIC_SEQ_CST) && fault->delay_ms == SIM_HANG &&
            matches(fault, function, gpu))
            return true;
    }
    return false;
}

void sim_delay(sim_host *host, const char *function, uint32_t gpu, uint32_t delay_ms) {
    if (delay_ms != SIM_HANG) usleep(delay_ms * 1000);
    else
        while (sim_hangs(host, function, gpu)) usleep(1000);
}

int sim_fault_of(sim_host *host, const char *function, uint32_t gpu, uint32_t *delay_ms) {
    host->calls++;
    for (unsigned i = 0; i < SIM_FAULTS; i++) {
        sim_fault *fault = &host->faults[i];
        if (!fault->used || !matches(fault, function, gpu)) continue;
        int64_t call = fault->seen++;
        if (call < fault->after) continue;
        if (fault->times >= 0 && call >= (int64_t)fault->after + fault->times) {
            fault->used = 0;
            continue;
        }
        if (fault->times >= 0 && call + 1 == (int64_t)fault->after + fault->times)
            fault->used = 0; /* that was the last */
        *delay_ms = fault->delay_ms;
        return fault->error;
    }
    return 0;
}

void sim_die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

bool sim_is_privileged(const sim_host *host) {
    if (host->privileged) return true;
    const char *granted = getenv("PARTITIOND_SIMULATED_PRIVILEGED");
    return granted != NULL && strcmp(granted, "1") == 0;
}

void sim_send_event(sim_host *host, uint32_t gpu, uint64_t type, uint64_t data, uint32_t instance) {
    uint64_t number = host->events_sent + 1;
    sim_event *event = &host->events[number % SIM_EVENTS];
    *event = (sim_event){number, gpu, instance, SIM_NONE, type, data};
    host->events_sent = number;
    __atomic_add_fetch(&host->event_bell, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &host->event_bell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

double sim_energy_joules(const sim_gpu *gpu) {
    return gpu->energy_joules + gpu->power_watts * (sim_now() - gpu->energy_at);
}

void sim_settle_energy(sim_gpu *gpu) {
    gpu->energy_joules = sim_energy_joules(gpu);
    gpu->energy_at = sim_now();
}
