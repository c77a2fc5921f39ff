/* Beginning and end of every NVML call, and handles. See call.h. */
#define _GNU_SOURCE
#include "call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int initialised;
static pthread_mutex_t handles_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sim_handle *handles;

struct sim_handle *sim_handle_of(int kind, unsigned gpu, uint64_t instance, uint64_t compute) {
    pthread_mutex_lock(&handles_lock);
    struct sim_handle *handle = handles;
    while (handle != NULL &&
           !((int)handle->kind == kind && handle->gpu == gpu &&
             handle->instance_serial == instance && handle->compute_serial == compute))
        handle = handle->next;
    if (handle == NULL && (handle = calloc(1, sizeof *handle)) != NULL) {
        handle->kind = kind;
        handle->gpu = gpu;
        handle->instance_serial = instance;
        handle->compute_serial = compute;
        handle->next = handles;
        handles = handle;
    }
    pthread_mutex_unlock(&handles_lock);
    return handle;
}

static bool is_ours(const struct sim_handle *handle) {
    pthread_mutex_lock(&handles_lock);
    const struct sim_handle *known = handles;
    while (known != NULL && known != handle) known = known->next;
    pthread_mutex_unlock(&handles_lock);
    return known != NULL;
}

sim_host *sim_initialised_host(void) {
    return __atomic_load_n(&initialised, __ATOMIC_SEQ_CST) > 0 ? sim_attach() : NULL;
}

/* The records that a handle stands for; false where they are gone. */
static bool resolve(sim_call *call) {
    const struct sim_handle *handle = call->handle;
    call->index = handle->gpu;
    call->gpu = &call->host->gpu[handle->gpu];
    if (handle->kind == SIM_GPU_HANDLE) return true;
    for (unsigned i = 0; i < SIM_INSTANCES && call->instance == NULL; i++) {
        sim_instance *instance = &call->gpu->instances[i];
        if (instance->used && instance->serial == handle->instance_serial)
            call->instance = instance;
    }
    if (call->instance == NULL) return false;
    if (handle->kind == SIM_GI_HANDLE) return true;
    for (unsigned i = 0; i < SIM_COMPUTES && call->compute == NULL; i++) {
        sim_compute *compute = &call->instance->computes[i];
        if (compute->used && compute->serial == handle->compute_serial) call->compute = compute;
    }
    return call->compute != NULL;
}

static nvmlReturn_t meet_fault(sim_call *call, const char *function) {
    uint32_t delay_ms = 0;
    uint32_t gpu = call->handle == NULL ? SIM_NONE : call->index;
    int error = sim_fault_of(call->host, function, gpu, &delay_ms);
    if (delay_ms) {
        sim_unlock(call->host);
        sim_delay(call->host, function, gpu, delay_ms);
        if (!sim_lock(call->host)) return NVML_ERROR_TIMEOUT;
    }
    if (error == SIM_KILL_LOCKED) sim_die();
    if (error == SIM_KILL_BEFORE) {
        sim_unlock(call->host);
        sim_die();
    }
    call->die_after = error == SIM_KILL_AFTER;
    return error > 0 ? error : NVML_SUCCESS;
}

nvmlReturn_t sim_begin(sim_call *call, const char *function, const struct sim_handle *handle,
                       unsigned kinds) {
    memset(call, 0, sizeof *call);
    call->host = sim_initialised_host();
    if (call->host == NULL) return NVML_ERROR_UNINITIALIZED;
    if (kinds && (handle == NULL || !is_ours(handle) || !(kinds >> handle->kind & 1)))
        return NVML_ERROR_INVALID_ARGUMENT;
    call->handle = handle;
    if (!sim_lock(call->host)) return NVML_ERROR_TIMEOUT;
    bool there = handle == NULL || resolve(call);
    nvmlReturn_t result = meet_fault(call, function);
    if (result == NVML_SUCCESS && handle != NULL && call->gpu->lost)
        result = NVML_ERROR_GPU_IS_LOST;
    if (result == NVML_SUCCESS && !there) result = NVML_ERROR_INVALID_ARGUMENT;
    if (result != NVML_SUCCESS) sim_unlock(call->host);
    return result;
}

nvmlReturn_t sim_end(sim_call *call, nvmlReturn_t result) {
    sim_unlock(call->host);
    if (call->die_after) sim_die();
    return result;
}

nvmlReturn_t sim_text(char *buffer, unsigned length, const char *text) {
    if (buffer == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    if (length <= strlen(text)) return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return NVML_SUCCESS;
}

static nvmlReturn_t init(const char *function) {
    sim_host *host = sim_attach();
    if (host == NULL) return NVML_ERROR_DRIVER_NOT_LOADED;
    if (!sim_lock(host)) return NVML_ERROR_TIMEOUT;
    sim_call call = {.host = host};
    nvmlReturn_t result = meet_fault(&call, function);
    if (result == NVML_SUCCESS && !host->driver_loaded) result = NVML_ERROR_DRIVER_NOT_LOADED;
    sim_unlock(host);
    if (result == NVML_SUCCESS) __atomic_add_fetch(&initialised, 1, __ATOMIC_SEQ_CST);
    return result;
}

NVML_EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return init(__func__);
}

NVML_EXPORT nvmlReturn_t nvmlShutdown(void) {
    sim_host *host = sim_attach();
    while (host != NULL && sim_hangs(host, __func__, SIM_NONE)) usleep(1000);
    int before = __atomic_load_n(&initialised, __ATOMIC_SEQ_CST);
    while (before > 0 && !__atomic_compare_exchange_n(&initialised, &before, before - 1, false,
                                                      __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
    return before > 0 ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}
