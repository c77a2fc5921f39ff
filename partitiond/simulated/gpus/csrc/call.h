/* One NVML call: lock, handle, faults, lost GPUs. */
#ifndef SIM_CALL_H
#define SIM_CALL_H

#include "geometry.h"
#include "nvml_types.h"
#include "state.h"

/* A device, GPU instance or compute instance as a caller holds it. Never freed: a handle of
 * something that is gone has to be refused, not to crash. */
struct sim_handle {
    enum { SIM_GPU_HANDLE = 1, SIM_MIG_HANDLE, SIM_GI_HANDLE, SIM_CI_HANDLE } kind;
    unsigned gpu;
    uint64_t instance_serial, compute_serial; /* 0 where it has none */
    struct sim_handle *next;
};

typedef struct {
    sim_host *host;
    const struct sim_handle *handle; /* NULL in calls about no device */
    unsigned index;
    sim_gpu *gpu;
    sim_instance *instance;          /* of a MIG device, GPU or compute instance */
    sim_compute *compute;
    bool die_after;
} sim_call;

/* Takes the lock unless it returns an error. `kinds`: bits (1 << kind) of handles the call takes;
 * 0: it is about no device. */
nvmlReturn_t sim_begin(sim_call *call, const char *function, const struct sim_handle *handle,
                       unsigned kinds);
nvmlReturn_t sim_end(sim_call *call, nvmlReturn_t result);

struct sim_handle *sim_handle_of(int kind, unsigned gpu, uint64_t instance, uint64_t compute);
sim_host *sim_initialised_host(void);
/* Copies a text into a caller's buffer. */
nvmlReturn_t sim_text(char *buffer, unsigned length, const char *text);

#define SIM_PHYSICAL (1u << SIM_GPU_HANDLE)
#define SIM_ANY_DEVICE (SIM_PHYSICAL | 1u << SIM_MIG_HANDLE)

#define BEGIN(handle, kinds)                                                 \
    sim_call call;                                                           \
    nvmlReturn_t refused_ = sim_begin(&call, __func__, (handle), (kinds));   \
    if (refused_ != NVML_SUCCESS) return refused_
#define BEGIN_SYSTEM() BEGIN(NULL, 0)
#define BEGIN_GPU(device) BEGIN(device, SIM_PHYSICAL)
#define BEGIN_DEVICE(device) BEGIN(device, SIM_ANY_DEVICE)
#define BEGIN_GI(instance) BEGIN(instance, 1u << SIM_GI_HANDLE)
#define BEGIN_CI(compute) BEGIN(compute, 1u << SIM_CI_HANDLE)
#define END(result) return sim_end(&call, (result))
#define REQUIRE(condition, error) \
    do {                          \
        if (!(condition)) END(error); \
    } while (0)
#define REQUIRE_OUT(pointer) REQUIRE((pointer) != NULL, NVML_ERROR_INVALID_ARGUMENT)
#define REQUIRE_PRIVILEGE() REQUIRE(sim_is_privileged(call.host), NVML_ERROR_NO_PERMISSION)
#define REQUIRE_MIG() REQUIRE(call.gpu->mig_mode, NVML_ERROR_NOT_SUPPORTED)

#endif
