/* MIG: mode, GPU instances, MIG devices. */
#include "call.h"

#include <stdio.h>
#include <string.h>

NVML_EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current,
                                              unsigned *pending) {
    BEGIN_GPU(device);
    REQUIRE(current != NULL && pending != NULL, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(call.gpu->mig_capable, NVML_ERROR_NOT_SUPPORTED);
    *current = call.gpu->mig_mode;
    *pending = call.gpu->mig_pending;
    END(NVML_SUCCESS);
}

#define FILL_PROFILE(info, profile)                        \
    do {                                                   \
        (info)->id = (profile)->id;                        \
        (info)->sliceCount = (profile)->compute_slices;    \
        (info)->instanceCount = (profile)->max_instances;  \
        (info)->multiprocessorCount = (profile)->sm_count; \
        (info)->copyEngineCount = (profile)->copy_engines; \
        (info)->decoderCount = (profile)->decoders;        \
        (info)->encoderCount = 0; /* none encodes */       \
        (info)->jpegCount = (profile)->jpegs;              \
        (info)->ofaCount = (profile)->ofas;                \
        (info)->memorySizeMB = (profile)->memory_mib;      \
    } while (0)

NVML_EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t device, unsigned profile,
                                                             nvmlGpuInstanceProfileInfo_t *info) {
    BEGIN_GPU(device);
    REQUIRE_OUT(info);
    const sim_profile *found = sim_profile_by_enum(call.gpu, profile);
    REQUIRE(found != NULL, NVML_ERROR_NOT_SUPPORTED);
    FILL_PROFILE(info, found);
    info->isP2pSupported = 0;
    END(NVML_SUCCESS);
}

/* The version word that the caller wrote says which structure it has. */
NVML_EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoV(nvmlDevice_t device, unsigned profile,
                                                              void *info) {
    BEGIN_GPU(device);
    REQUIRE_OUT(info);
    const sim_profile *found = sim_profile_by_enum(call.gpu, profile);
    REQUIRE(found != NULL, NVML_ERROR_NOT_SUPPORTED);
    nvmlGpuInstanceProfileInfo_v2_t *v2 = info;
    nvmlGpuInstanceProfileInfo_v3_t *v3 = info;
    char name[sizeof v2->name];
    snprintf(name, sizeof name, "MIG %.80s", found->name);
    if (v2->version == NVML_STRUCT_VERSION(nvmlGpuInstanceProfileInfo_v2_t, 2u)) {
        FILL_PROFILE(v2, found);
        v2->isP2pSupported = 0;
        strcpy(v2->name, name);
    } else if (v3->version == NVML_STRUCT_VERSION(nvmlGpuInstanceProfileInfo_v3_t, 3u)) {
        FILL_PROFILE(v3, found);
        v3->capabilities = 0;
        strcpy(v3->name, name);
    } else {
        END(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    }
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements_v2(nvmlDevice_t device,
                                                                       unsigned id,
                                                                       nvmlPlacement_t *placements,
                                                                       unsigned *count) {
    BEGIN_GPU(device);
    REQUIRE_OUT(count);
    REQUIRE_PRIVILEGE();
    int row = sim_profile_row(call.gpu, id);
    REQUIRE(row >= 0, call.gpu->mig_capable ? NVML_ERROR_INVALID_ARGUMENT
                                            : NVML_ERROR_NOT_SUPPORTED);
    const sim_profile *profile = &call.gpu->profiles[row];
    unsigned found = 0, room = placements == NULL ? 0 : *count;
    for (unsigned start = 0; start < SIM_MEMORY_SLICES; start++) {
        if (!(profile->starts >> start & 1)) continue;
        if (found < room) placements[found] = (nvmlPlacement_t){start, profile->memory_slices};
        found++;
    }
    *count = found;
    END(placements != NULL && found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS);
}

static nvmlReturn_t create(sim_call *call, unsigned id, uint32_t start, nvmlGpuInstance_t *out) {
    if (out == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    if (!call->gpu->mig_mode) return NVML_ERROR_NOT_SUPPORTED;
    if (!sim_is_privileged(call->host)) return NVML_ERROR_NO_PERMISSION;
    int row = sim_profile_row(call->gpu, id);
    if (row < 0) return NVML_ERROR_INVALID_ARGUMENT;
    sim_instance *created;
    nvmlReturn_t result =
        sim_instance_create(call->host, call->index, (unsigned)row, start, &created);
    if (result == NVML_SUCCESS) *out = sim_handle_of(SIM_GI_HANDLE, call->index, created->serial, 0);
    return result;
}

NVML_EXPORT nvmlReturn_t nvmlDeviceCreateGpuInstanceWithPlacement(nvmlDevice_t device, unsigned id,
                                                                  const nvmlPlacement_t *placement,
                                                                  nvmlGpuInstance_t *instance) {
    BEGIN_GPU(device);
    REQUIRE_OUT(placement);
    int row = sim_profile_row(call.gpu, id);
    bool whole = row >= 0 && placement->size == call.gpu->profiles[row].memory_slices;
    REQUIRE(row < 0 || !call.gpu->mig_mode || whole, NVML_ERROR_INVALID_ARGUMENT);
    END(create(&call, id, placement->start, instance));
}

NVML_EXPORT nvmlReturn_t nvmlGpuInstanceDestroy(nvmlGpuInstance_t instance) {
    BEGIN_GI(instance);
    REQUIRE_MIG();
    REQUIRE_PRIVILEGE();
    END(sim_instance_destroy(call.host, call.index, call.instance));
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetGpuInstances(nvmlDevice_t device, unsigned id,
                                                   nvmlGpuInstance_t *instances, unsigned *count) {
    BEGIN_GPU(device);
    REQUIRE(instances != NULL && count != NULL, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE_MIG();
    REQUIRE_PRIVILEGE();
    int row = sim_profile_row(call.gpu, id);
    REQUIRE(row >= 0, NVML_ERROR_INVALID_ARGUMENT);
    *count = 0;
    for (unsigned i = 0; i < SIM_INSTANCES; i++) {
        const sim_instance *found = &call.gpu->instances[i];
        if (found->used && found->profile_row == (unsigned)row)
            instances[(*count)++] = sim_handle_of(SIM_GI_HANDLE, call.index, found->serial, 0);
    }
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t instance,
                                                nvmlGpuInstanceInfo_t *info) {
    BEGIN_GI(instance);
    REQUIRE_OUT(info);
    info->device = sim_handle_of(SIM_GPU_HANDLE, call.index, 0, 0);
    info->id = call.instance->id;
    info->profileId = call.gpu->profiles[call.instance->profile_row].id;
    info->placement = (nvmlPlacement_t){call.instance->start, call.instance->size};
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned *id) {
    BEGIN_DEVICE(device);
    REQUIRE_OUT(id);
    REQUIRE(call.compute != NULL, NVML_ERROR_INVALID_ARGUMENT);
    *id = call.instance->id;
    END(NVML_SUCCESS);
}

/* Zero where MIG is not supported or off, as the reference has it. */
NVML_EXPORT nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned *count) {
    BEGIN_GPU(device);
    REQUIRE_OUT(count);
    *count = call.gpu->mig_mode ? 7 : 0;
    END(NVML_SUCCESS);
}

/* Larger instances come first in the driver's listing, and a place may be empty: callers have to
 * go on after NVML_ERROR_NOT_FOUND. */
NVML_EXPORT nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned index,
                                                             nvmlDevice_t *mig) {
    BEGIN_GPU(device);
    REQUIRE(mig != NULL && index < 7, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE_MIG();
    const sim_instance *instance;
    const sim_compute *compute = sim_mig_device(call.gpu, index, &instance);
    REQUIRE(compute != NULL, NVML_ERROR_NOT_FOUND);
    *mig = sim_handle_of(SIM_MIG_HANDLE, call.index, instance->serial, compute->serial);
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t mig,
                                                                      nvmlDevice_t *device) {
    BEGIN(mig, 1u << SIM_MIG_HANDLE);
    REQUIRE_OUT(device);
    *device = sim_handle_of(SIM_GPU_HANDLE, call.index, 0, 0);
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device,
                                                    nvmlDeviceAttributes_t *attributes) {
    BEGIN_DEVICE(device);
    REQUIRE_OUT(attributes);
    /* "This API currently only supports MIG device handles", says the reference. */
    REQUIRE(call.compute != NULL, NVML_ERROR_NOT_SUPPORTED);
    const sim_profile *profile = &call.gpu->profiles[call.instance->profile_row];
    memset(attributes, 0, sizeof *attributes);
    attributes->multiprocessorCount = sim_compute_sms(call.gpu, call.instance, call.compute->size);
    attributes->memorySizeMB = profile->memory_mib;
    attributes->sharedCopyEngineCount = profile->copy_engines;
    attributes->sharedDecoderCount = profile->decoders;
    attributes->sharedJpegCount = profile->jpegs;
    attributes->sharedOfaCount = profile->ofas;
    attributes->gpuInstanceSliceCount = profile->compute_slices;
    attributes->computeInstanceSliceCount = call.compute->size;
    END(NVML_SUCCESS);
}
