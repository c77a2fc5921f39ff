/* Discovery, names, memory and processes. */
#include "call.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define NVML_VERSION_WORD_MEMORY_V2 NVML_STRUCT_VERSION(nvmlMemory_v2_t, 2u)

NVML_EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length) {
    BEGIN_SYSTEM();
    END(sim_text(version, length, call.host->driver));
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) {
    BEGIN_SYSTEM();
    REQUIRE_OUT(count);
    *count = call.host->gpus;
    END(NVML_SUCCESS);
}

static nvmlReturn_t give_gpu(sim_call *call, unsigned index, nvmlDevice_t *device) {
    if (call->host->gpu[index].lost) return NVML_ERROR_GPU_IS_LOST;
    *device = sim_handle_of(SIM_GPU_HANDLE, index, 0, 0);
    return *device == NULL ? NVML_ERROR_MEMORY : NVML_SUCCESS;
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device) {
    BEGIN_SYSTEM();
    REQUIRE_OUT(device);
    REQUIRE(index < call.host->gpus, NVML_ERROR_INVALID_ARGUMENT);
    END(give_gpu(&call, index, device));
}

static nvmlReturn_t give_mig(sim_host *host, unsigned gpu, const char *uuid, nvmlDevice_t *device) {
    for (unsigned i = 0; i < SIM_INSTANCES; i++) {
        const sim_instance *instance = &host->gpu[gpu].instances[i];
        for (unsigned c = 0; instance->used && c < SIM_COMPUTES; c++) {
            const sim_compute *compute = &instance->computes[c];
            if (!compute->used || strcmp(compute->uuid, uuid) != 0) continue;
            if (host->gpu[gpu].lost) return NVML_ERROR_GPU_IS_LOST;
            *device = sim_handle_of(SIM_MIG_HANDLE, gpu, instance->serial, compute->serial);
            return *device == NULL ? NVML_ERROR_MEMORY : NVML_SUCCESS;
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    BEGIN_SYSTEM();
    REQUIRE(uuid != NULL && device != NULL, NVML_ERROR_INVALID_ARGUMENT);
    for (unsigned i = 0; i < call.host->gpus; i++) {
        if (strcmp(call.host->gpu[i].uuid, uuid) == 0) END(give_gpu(&call, i, device));
        nvmlReturn_t found = give_mig(call.host, i, uuid, device);
        if (found != NVML_ERROR_NOT_FOUND) END(found);
    }
    END(NVML_ERROR_NOT_FOUND);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned length) {
    BEGIN_DEVICE(device);
    char text[224];
    if (call.compute == NULL) END(sim_text(name, length, call.gpu->name));
    snprintf(text, sizeof text, "%s MIG %s", call.gpu->name,
             call.gpu->profiles[call.instance->profile_row].name);
    END(sim_text(name, length, text));
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned length) {
    BEGIN_DEVICE(device);
    END(sim_text(uuid, length, call.compute == NULL ? call.gpu->uuid : call.compute->uuid));
}

/* Of a MIG device its number inside its GPU, by which nvmlDeviceGetMigDeviceHandleByIndex gives it
 * again, as the reference has it. */
NVML_EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned *index) {
    BEGIN_DEVICE(device);
    REQUIRE_OUT(index);
    *index = call.compute == NULL ? call.index : sim_mig_index(call.gpu, call.compute->serial);
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, unsigned *architecture) {
    BEGIN_DEVICE(device);
    REQUIRE_OUT(architecture);
    *architecture = call.gpu->architecture;
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major,
                                                            int *minor) {
    BEGIN_DEVICE(device);
    REQUIRE(major != NULL && minor != NULL, NVML_ERROR_INVALID_ARGUMENT);
    *major = (int)call.gpu->cc_major;
    *minor = (int)call.gpu->cc_minor;
    END(NVML_SUCCESS);
}

/* Total, reserved and used of a GPU or of a GPU instance. The driver tells the aggregate of a GPU
 * in MIG mode to privileged users only. */
static nvmlReturn_t memory_of(sim_call *call, nvmlMemory_v2_t *memory) {
    if (call->instance == NULL && call->gpu->mig_mode && !sim_is_privileged(call->host))
        return NVML_ERROR_NO_PERMISSION;
    sim_reap(call->host);
    if (call->instance == NULL) {
        memory->total = call->gpu->total_bytes;
        memory->reserved = call->gpu->reserved_bytes;
        memory->used = sim_used_bytes(call->host, call->index, SIM_NONE);
    } else {
        memory->total = call->gpu->profiles[call->instance->profile_row].memory_mib * SIM_MIB;
        memory->reserved = 0;
        memory->used = sim_used_bytes(call->host, call->index, call->instance->id);
    }
    unsigned long long taken = memory->used + memory->reserved;
    memory->free = taken < memory->total ? memory->total - taken : 0;
    return NVML_SUCCESS;
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    BEGIN_DEVICE(device);
    REQUIRE_OUT(memory);
    nvmlMemory_v2_t found;
    nvmlReturn_t result = memory_of(&call, &found);
    if (result == NVML_SUCCESS) /* the first version counts the driver's own as used */
        *memory = (nvmlMemory_t){found.total, found.free, found.total - found.free};
    END(result);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    BEGIN_DEVICE(device);
    REQUIRE_OUT(memory);
    REQUIRE(memory->version == NVML_VERSION_WORD_MEMORY_V2, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    END(memory_of(&call, memory));
}

static bool listed(const sim_call *call, const sim_process *process, unsigned kinds) {
    if (!process->used || process->gpu != call->index || !(kinds & process->kind)) return false;
    if (call->instance != NULL && process->instance_id != call->instance->id) return false;
    return call->compute == NULL || process->compute_id == call->compute->id;
}

/* `kinds`: which of SIM_CONTEXT and SIM_MPS_CLIENT. `fill` writes one entry. */
static nvmlReturn_t list_processes(sim_call *call, unsigned kinds, unsigned *count, void *entries,
                                   void (*fill)(void *, unsigned, const sim_process *)) {
    if (count == NULL || (*count && entries == NULL)) return NVML_ERROR_INVALID_ARGUMENT;
    if (call->instance == NULL && call->gpu->mig_mode && !sim_is_privileged(call->host))
        return NVML_ERROR_NO_PERMISSION;
    sim_reap(call->host);
    unsigned room = *count, found = 0;
    for (unsigned i = 0; i < SIM_PROCESSES; i++) {
        const sim_process *process = &call->host->processes[i];
        if (!listed(call, process, kinds)) continue;
        if (found < room) fill(entries, found, process);
        found++;
    }
    *count = found;
    return found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

static void fill_v1(void *entries, unsigned at, const sim_process *process) {
    ((nvmlProcessInfo_v1_t *)entries)[at] = (nvmlProcessInfo_v1_t){
        (unsigned)process->pid, process->context_bytes + process->allocated_bytes};
}

static void fill_v3(void *entries, unsigned at, const sim_process *process) {
    ((nvmlProcessInfo_t *)entries)[at] = (nvmlProcessInfo_t){
        (unsigned)process->pid, process->context_bytes + process->allocated_bytes,
        process->instance_id, process->compute_id};
}

/* One function of each version and list, as the library has them. nvidia-smi's "M+C" are
 * processes that are in both lists. */
#define PROCESS_LIST(name, kinds, fill)                                               \
    NVML_EXPORT nvmlReturn_t name(nvmlDevice_t device, unsigned *count, void *infos) { \
        BEGIN_DEVICE(device);                                                         \
        END(list_processes(&call, (kinds), count, infos, fill));                      \
    }

PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses, SIM_CONTEXT | SIM_MPS_CLIENT, fill_v1)
PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v2, SIM_CONTEXT | SIM_MPS_CLIENT, fill_v3)
PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v3, SIM_CONTEXT | SIM_MPS_CLIENT, fill_v3)
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses, SIM_MPS_CLIENT, fill_v1)
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, SIM_MPS_CLIENT, fill_v3)
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, SIM_MPS_CLIENT, fill_v3)
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses, 0, fill_v1)
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, 0, fill_v3)
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, 0, fill_v3)
