/* Devices: what cuInit found. */
#include "cuda_inner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ATTRIBUTE_MULTIPROCESSORS = 16 }; /* of CUdevice_attribute */

static sim_host *host(void) { return sim_cuda_process.host; }
static bool known(CUdevice device) { return device >= 0 && device < sim_cuda_process.count; }
static const sim_visible *visible(CUdevice device) { return &sim_cuda_process.visible[device]; }
static const sim_gpu *gpu_of(CUdevice device) { return &host()->gpu[visible(device)->gpu]; }

CUDA_EXPORT CUresult cuDriverGetVersion(int *version) {
    sim_host *there = sim_attach();
    if (version == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (there == NULL) return CUDA_ERROR_UNKNOWN;
    *version = there->cuda_driver;
    return CUDA_SUCCESS;
}

CUDA_EXPORT CUresult cuDeviceGetCount(int *count) {
    CU_BEGIN(-1);
    CU_REQUIRE(count != NULL, CUDA_ERROR_INVALID_VALUE);
    *count = sim_cuda_process.count;
    CU_END(CUDA_SUCCESS);
}

CUDA_EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    CU_BEGIN(ordinal);
    CU_REQUIRE(device != NULL, CUDA_ERROR_INVALID_VALUE);
    CU_REQUIRE(known(ordinal), CUDA_ERROR_INVALID_DEVICE);
    *device = ordinal;
    CU_END(CUDA_SUCCESS);
}

CUDA_EXPORT CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
    CU_BEGIN(device);
    CU_REQUIRE(name != NULL && length > 0, CUDA_ERROR_INVALID_VALUE);
    CU_REQUIRE(known(device), CUDA_ERROR_INVALID_DEVICE);
    const sim_instance *instance = sim_cuda_instance(host(), visible(device));
    if (instance == NULL)
        snprintf(name, (size_t)length, "%s", gpu_of(device)->name);
    else
        snprintf(name, (size_t)length, "%s MIG %s", gpu_of(device)->name,
                 gpu_of(device)->profiles[instance->profile_row].name);
    CU_END(CUDA_SUCCESS);
}

/* The sixteen bytes behind "GPU-" or "MIG-". */
static void parse_uuid(const char *text, CUuuid *uuid) {
    const char *hex = strchr(text, '-');
    for (unsigned i = 0; hex != NULL && i < sizeof uuid->bytes; i++) {
        while (*hex == '-') hex++;
        char pair[3] = {hex[0], hex[0] ? hex[1] : '\0', '\0'};
        uuid->bytes[i] = (char)strtoul(pair, NULL, 16);
        hex += strlen(pair);
    }
}

/* The first version names the GPU, the second the MIG device where there is one. */
CUDA_EXPORT CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device) {
    CU_BEGIN(device);
    CU_REQUIRE(uuid != NULL, CUDA_ERROR_INVALID_VALUE);
    CU_REQUIRE(known(device), CUDA_ERROR_INVALID_DEVICE);
    parse_uuid(gpu_of(device)->uuid, uuid);
    CU_END(CUDA_SUCCESS);
}

CUDA_EXPORT CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) {
    CU_BEGIN(device);
    CU_REQUIRE(uuid != NULL, CUDA_ERROR_INVALID_VALUE);
    CU_REQUIRE(known(device), CUDA_ERROR_INVALID_DEVICE);
    parse_uuid(sim_cuda_uuid(host(), visible(device)), uuid);
    CU_END(CUDA_SUCCESS);
}

/* Under MPS a percentage of the SMs, rounded up to whole ones (to even ones, as drivers do). */
static int visible_sms(CUdevice device) {
    const sim_instance *instance = sim_cuda_instance(host(), visible(device));
    const sim_compute *compute = sim_cuda_compute(host(), visible(device));
    unsigned sms = compute == NULL
                       ? gpu_of(device)->sm_count
                       : sim_compute_sms(gpu_of(device), instance, compute->size);
    int percent = sim_cuda_process.mps_percent;
    if (percent > 0 && percent < 100) {
        unsigned capped = (sms * (unsigned)percent + 99) / 100;
        capped += capped % 2;
        return (int)(capped < sms ? capped : sms);
    }
    return (int)sms;
}

CUDA_EXPORT CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    CU_BEGIN(device);
    CU_REQUIRE(value != NULL, CUDA_ERROR_INVALID_VALUE);
    CU_REQUIRE(known(device), CUDA_ERROR_INVALID_DEVICE);
    CU_REQUIRE(attribute == ATTRIBUTE_MULTIPROCESSORS, CUDA_ERROR_INVALID_VALUE);
    *value = visible_sms(device);
    CU_END(CUDA_SUCCESS);
}
