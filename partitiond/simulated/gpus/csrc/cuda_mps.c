/* A client of the stand-in for NVIDIA's MPS control daemon.
 *
 * One line each way over $CUDA_MPS_PIPE_DIRECTORY/control.sock, which is kept open for the
 * process's life; later lines of the daemon are orders. */
#define _GNU_SOURCE
#include "cuda_inner.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const int ANSWER_MS = 10000;

static char heard[1024]; /* what is read and not yet a whole line */
static size_t heard_bytes;

/* "0=10G,1=512M": the entry of one device, in bytes. */
int64_t sim_mps_asked_limit(int device) {
    const char *list = getenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT");
    while (list != NULL && *list) {
        char *end = NULL;
        long place = strtol(list, &end, 10);
        if (end == list || *end != '=') return -1;
        long long amount = strtoll(end + 1, &end, 10);
        int64_t unit = *end == 'G' ? 1024 * (int64_t)SIM_MIB : *end == 'M' ? (int64_t)SIM_MIB : 0;
        if (unit == 0 || amount < 0) return -1;
        if (place == device) return amount * unit;
        list = end[1] == ',' ? end + 2 : NULL;
    }
    return -1;
}

static int dial(const char *folder) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof address.sun_path, "%s/control.sock", folder);
    errno = ENAMETOOLONG;
    if (length < 0 || (size_t)length >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection >= 0 &&
        connect(connection, (struct sockaddr *)&address, sizeof address) != 0) {
        int failed = errno;
        close(connection);
        errno = failed;
        return -1;
    }
    return connection;
}

/* The next whole line into `line`: 1; 0: none yet; -1: the other side is gone. */
static int read_line(int connection, int wait_ms, char *line, size_t size) {
    for (;;) {
        char *end = memchr(heard, '\n', heard_bytes);
        if (end != NULL) {
            size_t length = (size_t)(end - heard);
            snprintf(line, size, "%.*s", (int)length, heard);
            heard_bytes -= length + 1;
            memmove(heard, end + 1, heard_bytes);
            return 1;
        }
        if (heard_bytes == sizeof heard) return -1; /* no line of ours is that long */
        struct pollfd ready = {connection, POLLIN, 0};
        int found = poll(&ready, 1, wait_ms);
        if (found == 0) return 0;
        if (found < 0 && errno == EINTR) continue;
        ssize_t got = found < 0 ? -1 : read(connection, heard + heard_bytes,
                                            sizeof heard - heard_bytes);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return -1;
        heard_bytes += (size_t)got;
    }
}

static CUresult understand(sim_cuda *self, const char *line) {
    int percent, code;
    long long limit;
    unsigned server;
    if (sscanf(line, "OK %d %lld %u", &percent, &limit, &server) == 3) {
        self->mps_percent = percent;
        self->mps_limit_bytes = limit;
        self->mps_server = server;
        return CUDA_SUCCESS;
    }
    return sscanf(line, "ERR %d", &code) == 1 && code > 0 ? code : CUDA_ERROR_MPS_RPC_FAILURE;
}

CUresult sim_mps_connect(const char *uuid) {
    sim_cuda *self = &sim_cuda_process;
    const char *folder = getenv("CUDA_MPS_PIPE_DIRECTORY");
    const char *share = getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
    if (folder == NULL || *folder == '\0') return CUDA_SUCCESS;
    int connection = dial(folder);
    /* Where there is no daemon at all, programs run without MPS, as NVIDIA's manual page says. */
    if (connection < 0) return errno == ENOENT ? CUDA_SUCCESS : CUDA_ERROR_MPS_CONNECTION_FAILED;
    char line[512];
    int length = snprintf(line, sizeof line, "CLIENT %d %d %lld %s\n", (int)getpid(),
                          share != NULL && *share ? (int)strtod(share, NULL) : -1,
                          (long long)sim_mps_asked_limit(0), uuid);
    heard_bytes = 0;
    CUresult result = CUDA_ERROR_MPS_CONNECTION_FAILED;
    if (send(connection, line, (size_t)length, MSG_NOSIGNAL) == length &&
        read_line(connection, ANSWER_MS, line, sizeof line) == 1)
        result = understand(self, line);
    if (result == CUDA_SUCCESS)
        self->mps_socket = connection;
    else
        close(connection);
    return result;
}

CUresult sim_mps_hear(void) {
    sim_cuda *self = &sim_cuda_process;
    char line[512];
    if (self->mps_socket < 0) return CUDA_SUCCESS;
    for (;;) {
        int found = read_line(self->mps_socket, 0, line, sizeof line);
        if (found == 0) return CUDA_SUCCESS;
        if (found < 0) return CUDA_ERROR_MPS_RPC_FAILURE;
        if (strcmp(line, "TERMINATE") == 0) return CUDA_ERROR_MPS_CLIENT_TERMINATED;
        if (strncmp(line, "FAULT", 5) == 0) return CUDA_ERROR_LAUNCH_FAILED;
    }
}
