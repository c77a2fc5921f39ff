/* The part of CUDA's driver interface that the simulated library offers, and its own parts. */
#ifndef SIM_CUDA_INNER_H
#define SIM_CUDA_INNER_H

#include "geometry.h"
#include "state.h"

#define CUDA_EXPORT __attribute__((visibility("default")))

typedef int CUresult;
typedef int CUdevice;
typedef struct sim_context *CUcontext;
typedef unsigned long long CUdeviceptr;
typedef struct {
    char bytes[16];
} CUuuid;
_Static_assert(sizeof(CUuuid) == 16, "CUuuid");

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_DEVICE_UNAVAILABLE = 46,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_ERROR_CONTEXT_IS_DESTROYED = 709,
    CUDA_ERROR_LAUNCH_FAILED = 719,
    CUDA_ERROR_MPS_CONNECTION_FAILED = 805,
    CUDA_ERROR_MPS_RPC_FAILURE = 806,
    CUDA_ERROR_MPS_CLIENT_TERMINATED = 810,
    CUDA_ERROR_UNKNOWN = 999,
};

/* A device as this process sees it: a GPU, or one of its compute instances. */
typedef struct {
    unsigned gpu;
    uint64_t instance_serial, compute_serial; /* 0 without MIG */
} sim_visible;

struct sim_context {
    int device;
    int retained;
};

typedef struct {
    pthread_mutex_t lock; /* taken before the host's */
    pid_t pid;            /* that called cuInit; a child has to do so again, and may not */
    sim_host *host;
    int count;
    sim_visible visible[SIM_GPUS];
    struct sim_context contexts[SIM_GPUS];
    int mps_socket;       /* -1: not under MPS */
    int64_t mps_limit_bytes;
    int mps_percent;
    uint32_t mps_server;
    CUresult broken;      /* what every next call answers */
} sim_cuda;

extern sim_cuda sim_cuda_process;

/* Takes the process's lock and the host's unless it returns an error. */
CUresult sim_cuda_begin(const char *function, CUdevice device);
CUresult sim_cuda_end(CUresult result);
/* The device of the thread's current context; -1 without. */
CUdevice sim_cuda_current(void);

/* Which devices the environment names; their number. Wants the host's lock. */
int sim_cuda_find_visible(const sim_host *host, sim_visible *visible);
const char *sim_cuda_uuid(const sim_host *host, const sim_visible *device);
const sim_instance *sim_cuda_instance(const sim_host *host, const sim_visible *device);
const sim_compute *sim_cuda_compute(const sim_host *host, const sim_visible *device);
/* False where its compute instance is gone. */
bool sim_cuda_is_there(const sim_host *host, const sim_visible *device);
sim_process *sim_cuda_record(sim_host *host, const sim_visible *device);

/* Under MPS, where the environment says so: connects to the control daemon's stand-in. */
CUresult sim_mps_connect(const char *uuid);
/* What the daemon said since; CUDA_SUCCESS: nothing. */
CUresult sim_mps_hear(void);
/* Of the environment, for a device by its place; -1: none. */
int64_t sim_mps_asked_limit(int device);

#define CU_BEGIN(device)                                       \
    CUresult refused_ = sim_cuda_begin(__func__, (device));    \
    if (refused_ != CUDA_SUCCESS) return refused_
#define CU_END(result) return sim_cuda_end(result)
#define CU_REQUIRE(condition, error)      \
    do {                                  \
        if (!(condition)) CU_END(error);  \
    } while (0)

#endif
