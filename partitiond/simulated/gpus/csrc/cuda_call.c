/* Beginning and end of every CUDA call, errors, and what a process holds. */
#define _GNU_SOURCE
#include "cuda_inner.h"

#include <string.h>
#include <unistd.h>

sim_cuda sim_cuda_process = {.lock = PTHREAD_MUTEX_INITIALIZER, .mps_socket = -1};
static bool die_after;

/* The fault that is due for this call, with its delay. Wants both locks. */
static CUresult meet_fault(sim_host *host, const char *function, uint32_t gpu) {
    uint32_t delay_ms = 0;
    int error = sim_fault_of(host, function, gpu, &delay_ms);
    if (delay_ms) {
        sim_unlock(host);
        sim_delay(host, function, gpu, delay_ms);
        if (!sim_lock(host)) return CUDA_ERROR_UNKNOWN;
    }
    if (error == SIM_KILL_LOCKED) sim_die();
    if (error == SIM_KILL_BEFORE) {
        sim_unlock(host);
        sim_die();
    }
    die_after = error == SIM_KILL_AFTER;
    return error > 0 ? error : CUDA_SUCCESS;
}

sim_process *sim_cuda_record(sim_host *host, const sim_visible *device) {
    const sim_instance *instance = sim_cuda_instance(host, device);
    const sim_compute *compute = sim_cuda_compute(host, device);
    pid_t pid = getpid();
    for (unsigned i = 0; i < SIM_PROCESSES; i++) {
        sim_process *process = &host->processes[i];
        if (process->used && process->pid == pid && process->gpu == device->gpu &&
            process->context_bytes > 0 &&
            process->instance_id == (instance ? instance->id : SIM_NONE) &&
            process->compute_id == (compute ? compute->id : SIM_NONE))
            return process;
    }
    return NULL;
}

/* What is wrong with the process as a whole; errors of this kind stay. */
static CUresult state_of_process(sim_host *host) {
    sim_cuda *self = &sim_cuda_process;
    CUresult heard = sim_mps_hear();
    if (heard != CUDA_SUCCESS) self->broken = heard;
    pid_t pid = getpid();
    for (unsigned i = 0; i < SIM_PROCESSES && self->broken == CUDA_SUCCESS; i++)
        if (host->processes[i].used && host->processes[i].pid == pid && host->processes[i].broken)
            self->broken = (CUresult)host->processes[i].broken;
    return self->broken;
}

CUresult sim_cuda_begin(const char *function, CUdevice device) {
    sim_cuda *self = &sim_cuda_process;
    pthread_mutex_lock(&self->lock);
    CUresult result = CUDA_SUCCESS;
    if (self->pid != getpid()) result = CUDA_ERROR_NOT_INITIALIZED;
    if (result == CUDA_SUCCESS && !sim_lock(self->host)) result = CUDA_ERROR_UNKNOWN;
    if (result != CUDA_SUCCESS) {
        pthread_mutex_unlock(&self->lock);
        return result;
    }
    bool known = device >= 0 && device < self->count;
    result = meet_fault(self->host, function, known ? self->visible[device].gpu : SIM_NONE);
    if (result == CUDA_SUCCESS) result = state_of_process(self->host);
    if (result == CUDA_SUCCESS && known && !sim_cuda_is_there(self->host, &self->visible[device]))
        result = self->broken = CUDA_ERROR_UNKNOWN; /* what a GPU off the bus looks like */
    if (result != CUDA_SUCCESS) {
        sim_unlock(self->host);
        pthread_mutex_unlock(&self->lock);
    }
    return result;
}

CUresult sim_cuda_end(CUresult result) {
    sim_unlock(sim_cuda_process.host);
    if (die_after) sim_die();
    pthread_mutex_unlock(&sim_cuda_process.lock);
    return result;
}

static CUresult start(sim_cuda *self) {
    sim_host *host = sim_attach();
    if (host == NULL || !sim_lock(host)) return CUDA_ERROR_UNKNOWN;
    CUresult result = meet_fault(host, "cuInit", SIM_NONE);
    char uuid[80] = "";
    if (result == CUDA_SUCCESS && !host->driver_loaded) result = CUDA_ERROR_NO_DEVICE;
    if (result == CUDA_SUCCESS) {
        self->count = sim_cuda_find_visible(host, self->visible);
        if (self->count == 0) result = CUDA_ERROR_NO_DEVICE;
        else strcpy(uuid, sim_cuda_uuid(host, &self->visible[0]));
    }
    sim_unlock(host);
    self->host = host;
    self->mps_limit_bytes = -1;
    /* Without the host's lock: the daemon on the other side may want it to answer. */
    if (result == CUDA_SUCCESS) result = sim_mps_connect(uuid);
    if (result == CUDA_SUCCESS) self->pid = getpid();
    return result;
}

CUDA_EXPORT CUresult cuInit(unsigned flags) {
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    sim_cuda *self = &sim_cuda_process;
    pthread_mutex_lock(&self->lock);
    CUresult result = CUDA_SUCCESS;
    if (self->pid != 0 && self->pid != getpid()) result = CUDA_ERROR_NOT_INITIALIZED; /* forked */
    else if (self->pid == 0) result = start(self);
    pthread_mutex_unlock(&self->lock);
    return result;
}

static const struct {
    CUresult code;
    const char *name;
} ERRORS[] = {
    {1, "CUDA_ERROR_INVALID_VALUE"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY"},
    {3, "CUDA_ERROR_NOT_INITIALIZED"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE"},
    {100, "CUDA_ERROR_NO_DEVICE"},
    {101, "CUDA_ERROR_INVALID_DEVICE"},
    {201, "CUDA_ERROR_INVALID_CONTEXT"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
    {709, "CUDA_ERROR_CONTEXT_IS_DESTROYED"},
    {719, "CUDA_ERROR_LAUNCH_FAILED"},
    {805, "CUDA_ERROR_MPS_CONNECTION_FAILED"},
    {806, "CUDA_ERROR_MPS_RPC_FAILURE"},
    {807, "CUDA_ERROR_MPS_SERVER_NOT_READY"},
    {808, "CUDA_ERROR_MPS_MAX_CLIENTS_REACHED"},
    {810, "CUDA_ERROR_MPS_CLIENT_TERMINATED"},
    {999, "CUDA_ERROR_UNKNOWN"},
};

CUDA_EXPORT CUresult cuGetErrorName(CUresult error, const char **text) {
    if (text == NULL) return CUDA_ERROR_INVALID_VALUE;
    *text = NULL;
    for (unsigned i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == error) *text = ERRORS[i].name;
    return *text == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
