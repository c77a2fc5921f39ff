/* MIG: compute instances inside a GPU instance. */
#include "call.h"

#include <stdio.h>
#include <string.h>

static nvmlReturn_t known_profile(const sim_call *call, unsigned profile, unsigned engine) {
    if (engine != 0) return NVML_ERROR_INVALID_ARGUMENT; /* engines are always shared */
    return sim_compute_slices(call->gpu, call->instance, profile) ? NVML_SUCCESS
                                                                  : NVML_ERROR_NOT_SUPPORTED;
}

#define FILL_COMPUTE(info, call, profile)                                                         \
    do {                                                                                          \
        const sim_profile *gi_ = &(call)->gpu->profiles[(call)->instance->profile_row];           \
        unsigned slices_ = sim_compute_slices((call)->gpu, (call)->instance, (profile));          \
        (info)->id = (profile);                                                                   \
        (info)->sliceCount = slices_;                                                             \
        (info)->instanceCount =                                                                   \
            sim_compute_capacity((call)->gpu, (call)->instance, (profile));                       \
        (info)->multiprocessorCount = sim_compute_sms((call)->gpu, (call)->instance, slices_);    \
        (info)->sharedCopyEngineCount = gi_->copy_engines;                                        \
        (info)->sharedDecoderCount = gi_->decoders;                                               \
        (info)->sharedEncoderCount = 0;                                                           \
        (info)->sharedJpegCount = gi_->jpegs;                                                     \
        (info)->sharedOfaCount = gi_->ofas;                                                       \
    } while (0)

/* "MIG 1c.3g.20gb", and without the compute part where it is the whole GPU instance. */
static void name_of(const sim_call *call, unsigned profile, char *name, size_t size) {
    const sim_profile *gpu_instance = &call->gpu->profiles[call->instance->profile_row];
    unsigned slices = sim_compute_slices(call->gpu, call->instance, profile);
    if (slices == gpu_instance->compute_slices)
        snprintf(name, size, "MIG %.80s", gpu_instance->name);
    else
        snprintf(name, size, "MIG %uc.%.76s", slices, gpu_instance->name);
}

NVML_EXPORT nvmlReturn_t
nvmlGpuInstanceGetComputeInstanceProfileInfo(nvmlGpuInstance_t instance, unsigned profile,
                                             unsigned engine,
                                             nvmlComputeInstanceProfileInfo_t *info) {
    BEGIN_GI(instance);
    REQUIRE_OUT(info);
    nvmlReturn_t known = known_profile(&call, profile, engine);
    REQUIRE(known == NVML_SUCCESS, known);
    FILL_COMPUTE(info, &call, profile);
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfoV(nvmlGpuInstance_t instance,
                                                                       unsigned profile,
                                                                       unsigned engine,
                                                                       void *info) {
    BEGIN_GI(instance);
    REQUIRE_OUT(info);
    nvmlReturn_t known = known_profile(&call, profile, engine);
    REQUIRE(known == NVML_SUCCESS, known);
    nvmlComputeInstanceProfileInfo_v2_t *v2 = info;
    nvmlComputeInstanceProfileInfo_v3_t *v3 = info;
    if (v2->version == NVML_STRUCT_VERSION(nvmlComputeInstanceProfileInfo_v2_t, 2u)) {
        FILL_COMPUTE(v2, &call, profile);
        name_of(&call, profile, v2->name, sizeof v2->name);
    } else if (v3->version == NVML_STRUCT_VERSION(nvmlComputeInstanceProfileInfo_v3_t, 3u)) {
        FILL_COMPUTE(v3, &call, profile);
        name_of(&call, profile, v3->name, sizeof v3->name);
        v3->capabilities = 0;
    } else {
        END(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    }
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlGpuInstanceCreateComputeInstance(nvmlGpuInstance_t instance,
                                                              unsigned profile,
                                                              nvmlComputeInstance_t *compute) {
    BEGIN_GI(instance);
    REQUIRE_OUT(compute);
    REQUIRE_PRIVILEGE();
    nvmlReturn_t known = known_profile(&call, profile, 0);
    REQUIRE(known == NVML_SUCCESS, known);
    sim_compute *created;
    nvmlReturn_t result =
        sim_compute_create(call.host, call.index, call.instance, profile, &created);
    if (result == NVML_SUCCESS)
        *compute =
            sim_handle_of(SIM_CI_HANDLE, call.index, call.instance->serial, created->serial);
    END(result);
}

NVML_EXPORT nvmlReturn_t nvmlComputeInstanceDestroy(nvmlComputeInstance_t compute) {
    BEGIN_CI(compute);
    REQUIRE_PRIVILEGE();
    END(sim_compute_destroy(call.host, call.index, call.instance, call.compute));
}

NVML_EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstances(nvmlGpuInstance_t instance,
                                                            unsigned profile,
                                                            nvmlComputeInstance_t *computes,
                                                            unsigned *count) {
    BEGIN_GI(instance);
    REQUIRE(computes != NULL && count != NULL, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE_PRIVILEGE();
    nvmlReturn_t known = known_profile(&call, profile, 0);
    REQUIRE(known == NVML_SUCCESS, known);
    *count = 0;
    for (unsigned i = 0; i < SIM_COMPUTES; i++) {
        const sim_compute *found = &call.instance->computes[i];
        if (found->used && found->profile_id == profile)
            computes[(*count)++] =
                sim_handle_of(SIM_CI_HANDLE, call.index, call.instance->serial, found->serial);
    }
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t compute,
                                                       nvmlComputeInstanceInfo_t *info) {
    BEGIN_CI(compute);
    REQUIRE_OUT(info);
    info->device = sim_handle_of(SIM_GPU_HANDLE, call.index, 0, 0);
    info->gpuInstance = sim_handle_of(SIM_GI_HANDLE, call.index, call.instance->serial, 0);
    info->id = call.compute->id;
    info->profileId = call.compute->profile_id;
    info->placement = (nvmlPlacement_t){call.compute->start, call.compute->size};
    END(NVML_SUCCESS);
}
