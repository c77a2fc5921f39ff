/* Contexts and memory. */
#include "cuda_inner.h"

#include <stdlib.h>
#include <unistd.h>

typedef struct allocation {
    struct allocation *next;
    CUdeviceptr at;
    size_t bytes;
    CUdevice device;
} allocation;

static allocation *allocations;
static CUdeviceptr next_address = 0x7f0000000000ull;
static __thread CUcontext current;

/* The driver hands memory out in pieces of two megabytes. */
static const size_t PIECE = 2 * SIM_MIB;

static sim_cuda *self(void) { return &sim_cuda_process; }
static bool known(CUdevice device) { return device >= 0 && device < self()->count; }
static const sim_visible *visible(CUdevice device) { return &self()->visible[device]; }

CUdevice sim_cuda_current(void) {
    return current != NULL && current->retained > 0 ? current->device : -1;
}

/* Total, and what nobody holds. The pinned limit of an MPS client is its whole device to it. */
static void memory_of(CUdevice device, uint64_t *free_bytes, uint64_t *total) {
    sim_host *host = self()->host;
    const sim_gpu *gpu = &host->gpu[visible(device)->gpu];
    const sim_instance *instance = sim_cuda_instance(host, visible(device));
    sim_reap(host);
    *total = gpu->total_bytes - gpu->reserved_bytes;
    if (instance != NULL) *total = gpu->profiles[instance->profile_row].memory_mib * SIM_MIB;
    uint64_t used =
        sim_used_bytes(host, visible(device)->gpu, instance == NULL ? SIM_NONE : instance->id);
    *free_bytes = used < *total ? *total - used : 0;
    if (device != 0 || self()->mps_limit_bytes < 0) return;
    uint64_t limit = (uint64_t)self()->mps_limit_bytes;
    const sim_process *mine = sim_cuda_record(host, visible(device));
    uint64_t held = mine == NULL ? 0 : mine->context_bytes + mine->allocated_bytes;
    if (limit < *total) *total = limit;
    uint64_t left = held < limit ? limit - held : 0;
    if (left < *free_bytes) *free_bytes = left;
}

CUDA_EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    CU_BEGIN(device);
    CU_REQUIRE(bytes != NULL, CUDA_ERROR_INVALID_VALUE);
    CU_REQUIRE(known(device), CUDA_ERROR_INVALID_DEVICE);
    uint64_t free_bytes, total;
    memory_of(device, &free_bytes, &total);
    *bytes = total;
    CU_END(CUDA_SUCCESS);
}

/* What the compute mode allows: 3 is one process at a time, 2 none. MPS is one process to it. */
static CUresult may_open(const sim_visible *device) {
    sim_host *host = self()->host;
    uint32_t mode = host->gpu[device->gpu].compute_mode;
    if (mode == 2) return CUDA_ERROR_DEVICE_UNAVAILABLE;
    if (mode != 3) return CUDA_SUCCESS;
    for (unsigned i = 0; i < SIM_PROCESSES; i++) {
        const sim_process *other = &host->processes[i];
        bool together = self()->mps_server && (other->server_pid == self()->mps_server ||
                                               (uint32_t)other->pid == self()->mps_server);
        if (other->used && other->gpu == device->gpu && other->pid != getpid() && !together)
            return CUDA_ERROR_DEVICE_UNAVAILABLE;
    }
    return CUDA_SUCCESS;
}

static CUresult open_context(CUdevice device) {
    sim_host *host = self()->host;
    const sim_visible *place = visible(device);
    uint64_t free_bytes, total;
    memory_of(device, &free_bytes, &total);
    CUresult allowed = may_open(place);
    if (allowed != CUDA_SUCCESS) return allowed;
    uint64_t needed = host->gpu[place->gpu].context_bytes;
    if (free_bytes < needed) return CUDA_ERROR_OUT_OF_MEMORY;
    sim_process *process = sim_add_process(host, place->gpu, getpid());
    if (process == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    const sim_compute *compute = sim_cuda_compute(host, place);
    if (compute != NULL) {
        process->instance_id = sim_cuda_instance(host, place)->id;
        process->compute_id = compute->id;
    }
    process->kind = self()->mps_socket >= 0 ? SIM_MPS_CLIENT : SIM_CONTEXT;
    process->server_pid = self()->mps_server;
    process->context_bytes = needed;
    return CUDA_SUCCESS;
}

CUDA_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    CU_BEGIN(device);
    CU_REQUIRE(context != NULL, CUDA_ERROR_INVALID_VALUE);
    CU_REQUIRE(known(device), CUDA_ERROR_INVALID_DEVICE);
    struct sim_context *made = &self()->contexts[device];
    CUresult opened = made->retained ? CUDA_SUCCESS : open_context(device);
    CU_REQUIRE(opened == CUDA_SUCCESS, opened);
    made->device = device;
    made->retained++;
    *context = made;
    CU_END(CUDA_SUCCESS);
}

static void forget_allocations(CUdevice device) {
    for (allocation **link = &allocations; *link != NULL;) {
        allocation *one = *link;
        if (one->device == device) {
            *link = one->next;
            free(one);
        } else {
            link = &one->next;
        }
    }
}

static CUresult release(CUdevice device) {
    struct sim_context *context = &self()->contexts[device];
    if (context->retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
    if (--context->retained > 0) return CUDA_SUCCESS;
    sim_process *process = sim_cuda_record(self()->host, visible(device));
    if (process != NULL) process->used = 0;
    forget_allocations(device);
    return CUDA_SUCCESS;
}

CUDA_EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    CU_BEGIN(device);
    CU_REQUIRE(known(device), CUDA_ERROR_INVALID_DEVICE);
    CU_END(release(device));
}

CUDA_EXPORT CUresult cuCtxSetCurrent(CUcontext context) {
    CU_BEGIN(-1);
    CU_REQUIRE(context == NULL || context->retained > 0, CUDA_ERROR_INVALID_CONTEXT);
    current = context;
    CU_END(CUDA_SUCCESS);
}

CUDA_EXPORT CUresult cuMemGetInfo_v2(size_t *free_out, size_t *total_out) {
    CUdevice device = sim_cuda_current();
    CU_BEGIN(device);
    CU_REQUIRE(free_out != NULL && total_out != NULL, CUDA_ERROR_INVALID_VALUE);
    CU_REQUIRE(device >= 0, CUDA_ERROR_INVALID_CONTEXT);
    uint64_t free_bytes, total;
    memory_of(device, &free_bytes, &total);
    *free_out = free_bytes;
    *total_out = total;
    CU_END(CUDA_SUCCESS);
}

static CUresult allocate(CUdevice device, size_t bytes, CUdeviceptr *at) {
    size_t whole = (bytes + PIECE - 1) / PIECE * PIECE;
    uint64_t free_bytes, total;
    memory_of(device, &free_bytes, &total);
    if (whole < bytes || whole > free_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
    sim_process *process = sim_cuda_record(self()->host, visible(device));
    if (process == NULL) return CUDA_ERROR_CONTEXT_IS_DESTROYED; /* the host was rebooted */
    allocation *made = malloc(sizeof *made);
    if (made == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    *made = (allocation){allocations, next_address, whole, device};
    allocations = made;
    next_address += whole;
    process->allocated_bytes += whole;
    *at = made->at;
    return CUDA_SUCCESS;
}

CUDA_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *at, size_t bytes) {
    CUdevice device = sim_cuda_current();
    CU_BEGIN(device);
    CU_REQUIRE(at != NULL && bytes > 0, CUDA_ERROR_INVALID_VALUE);
    CU_REQUIRE(device >= 0, CUDA_ERROR_INVALID_CONTEXT);
    CU_END(allocate(device, bytes, at));
}

CUDA_EXPORT CUresult cuMemFree_v2(CUdeviceptr at) {
    CU_BEGIN(-1);
    for (allocation **link = &allocations; *link != NULL; link = &(*link)->next) {
        allocation *one = *link;
        if (one->at != at) continue;
        sim_process *process = sim_cuda_record(self()->host, visible(one->device));
        if (process != NULL && process->allocated_bytes >= one->bytes)
            process->allocated_bytes -= one->bytes;
        *link = one->next;
        free(one);
        CU_END(CUDA_SUCCESS);
    }
    CU_END(at == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

CUDA_EXPORT CUresult cuCtxSynchronize(void) {
    CUdevice device = sim_cuda_current();
    CU_BEGIN(device);
    CU_END(device >= 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT);
}
