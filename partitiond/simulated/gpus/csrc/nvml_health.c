/* Health: ECC, retired pages and remapped rows, clocks and what throttles them, temperature,
 * modes. MIG devices have none of their own. */
#include "call.h"

#include <string.h>

#define NUMBER(function, type, expression)                                \
    NVML_EXPORT nvmlReturn_t function(nvmlDevice_t device, type *value) { \
        BEGIN_GPU(device);                                                \
        REQUIRE_OUT(value);                                               \
        *value = (type)(expression);                                      \
        END(NVML_SUCCESS);                                                \
    }

/* Idle, application clocks, software power cap, hardware slowdown, sync boost, software and
 * hardware thermal slowdown, power brake, display clock. */
#define REASONS_OFFERED 0x1ffull

NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, call.gpu->throttle)
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, call.gpu->throttle)
NUMBER(nvmlDeviceGetSupportedClocksEventReasons, unsigned long long, REASONS_OFFERED)
NUMBER(nvmlDeviceGetSupportedClocksThrottleReasons, unsigned long long, REASONS_OFFERED)
NUMBER(nvmlDeviceGetComputeMode, unsigned, call.gpu->compute_mode)
NUMBER(nvmlDeviceGetPersistenceMode, unsigned, call.gpu->persistence_mode)
NUMBER(nvmlDeviceGetDisplayMode, unsigned, 0)
NUMBER(nvmlDeviceGetDisplayActive, unsigned, 0)
NUMBER(nvmlDeviceGetAccountingMode, unsigned, 0)
NUMBER(nvmlDeviceGetPerformanceState, unsigned, 0)

static nvmlReturn_t set_mode(sim_call *call, uint32_t *member, unsigned value, unsigned highest) {
    if (value > highest) return NVML_ERROR_INVALID_ARGUMENT;
    if (!sim_is_privileged(call->host)) return NVML_ERROR_NO_PERMISSION;
    *member = value;
    return NVML_SUCCESS;
}

/* Exclusive per thread (1) is no longer offered. */
NVML_EXPORT nvmlReturn_t nvmlDeviceSetComputeMode(nvmlDevice_t device, unsigned mode) {
    BEGIN_GPU(device);
    REQUIRE(mode != 1, NVML_ERROR_NOT_SUPPORTED);
    END(set_mode(&call, &call.gpu->compute_mode, mode, 3));
}

NVML_EXPORT nvmlReturn_t nvmlDeviceSetPersistenceMode(nvmlDevice_t device, unsigned mode) {
    BEGIN_GPU(device);
    END(set_mode(&call, &call.gpu->persistence_mode, mode, 1));
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, unsigned *current,
                                              unsigned *pending) {
    BEGIN_GPU(device);
    REQUIRE(current != NULL && pending != NULL, NVML_ERROR_INVALID_ARGUMENT);
    *current = *pending = call.gpu->ecc_mode;
    END(NVML_SUCCESS);
}

/* `type` 0: corrected, 1: uncorrected; `counter` 0: since the driver was loaded, 1: ever. */
static nvmlReturn_t ecc_count(const sim_gpu *gpu, unsigned type, unsigned counter,
                              unsigned long long *count) {
    if (count == NULL || type > 1 || counter > 1) return NVML_ERROR_INVALID_ARGUMENT;
    if (!gpu->ecc_mode) return NVML_ERROR_NOT_SUPPORTED;
    const uint64_t counts[2][2] = {
        {gpu->ecc_corrected_volatile, gpu->ecc_corrected_aggregate},
        {gpu->ecc_uncorrected_volatile, gpu->ecc_uncorrected_aggregate},
    };
    *count = counts[type][counter];
    return NVML_SUCCESS;
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, unsigned type,
                                                     unsigned counter, unsigned long long *count) {
    BEGIN_GPU(device);
    END(ecc_count(call.gpu, type, counter, count));
}

/* All errors of the simulated GPUs are in device memory (location 2). */
NVML_EXPORT nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, unsigned type,
                                                         unsigned counter, unsigned location,
                                                         unsigned long long *count) {
    BEGIN_GPU(device);
    REQUIRE(location <= 7, NVML_ERROR_INVALID_ARGUMENT);
    nvmlReturn_t result = ecc_count(call.gpu, type, counter, count);
    if (result == NVML_SUCCESS && location != 2) *count = 0;
    END(result);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetDetailedEccErrors(nvmlDevice_t device, unsigned type,
                                                        unsigned counter,
                                                        nvmlEccErrorCounts_t *counts) {
    BEGIN_GPU(device);
    REQUIRE_OUT(counts);
    memset(counts, 0, sizeof *counts);
    END(ecc_count(call.gpu, type, counter, &counts->deviceMemory));
}

/* From Ampere on rows are remapped in place of pages being retired. */
static bool remaps(const sim_gpu *gpu) { return gpu->cc_major >= 8; }

NVML_EXPORT nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned *corrected,
                                                   unsigned *uncorrected, unsigned *pending,
                                                   unsigned *failure) {
    BEGIN_GPU(device);
    REQUIRE(corrected && uncorrected && pending && failure, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(remaps(call.gpu), NVML_ERROR_NOT_SUPPORTED);
    *corrected = call.gpu->remapped_corrected;
    *uncorrected = call.gpu->remapped_uncorrected;
    *pending = call.gpu->remapped_pending;
    *failure = call.gpu->remapped_failure;
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetRowRemapperHistogram(
    nvmlDevice_t device, nvmlRowRemapperHistogramValues_t *values) {
    BEGIN_GPU(device);
    REQUIRE_OUT(values);
    REQUIRE(remaps(call.gpu), NVML_ERROR_NOT_SUPPORTED);
    unsigned banks = 640, touched = call.gpu->remapped_corrected + call.gpu->remapped_uncorrected;
    if (touched > banks) touched = banks;
    bool failed = call.gpu->remapped_failure && touched;
    *values = (nvmlRowRemapperHistogramValues_t){banks - touched, touched - failed, 0, 0, failed};
    END(NVML_SUCCESS);
}

static nvmlReturn_t retired(const sim_gpu *gpu, unsigned cause, unsigned *count,
                            unsigned long long *addresses, unsigned long long *times) {
    if (count == NULL || cause > 1) return NVML_ERROR_INVALID_ARGUMENT;
    if (remaps(gpu)) return NVML_ERROR_NOT_SUPPORTED;
    unsigned found = cause == 0 ? gpu->retired_sbe : gpu->retired_dbe, room = *count;
    *count = found;
    if (found == 0) return NVML_SUCCESS;
    if (found > room || addresses == NULL) return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < found; i++) {
        addresses[i] = 0x100000ull * (i + 1) + cause;
        if (times != NULL) times[i] = 0;
    }
    return NVML_SUCCESS;
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, unsigned cause,
                                                   unsigned *count, unsigned long long *addresses) {
    BEGIN_GPU(device);
    END(retired(call.gpu, cause, count, addresses, NULL));
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetRetiredPages_v2(nvmlDevice_t device, unsigned cause,
                                                      unsigned *count,
                                                      unsigned long long *addresses,
                                                      unsigned long long *times) {
    BEGIN_GPU(device);
    END(retired(call.gpu, cause, count, addresses, times));
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t device,
                                                                unsigned *pending) {
    BEGIN_GPU(device);
    REQUIRE_OUT(pending);
    REQUIRE(!remaps(call.gpu), NVML_ERROR_NOT_SUPPORTED);
    *pending = call.gpu->retired_pending;
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned sensor,
                                                  unsigned *celsius) {
    BEGIN_GPU(device);
    REQUIRE(celsius != NULL && sensor == 0, NVML_ERROR_INVALID_ARGUMENT);
    *celsius = call.gpu->temperature_c;
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device,
                                                   nvmlTemperature_v1_t *temperature) {
    BEGIN_GPU(device);
    REQUIRE_OUT(temperature);
    REQUIRE(temperature->version == NVML_STRUCT_VERSION(nvmlTemperature_v1_t, 1u),
            NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    REQUIRE(temperature->sensorType == 0, NVML_ERROR_INVALID_ARGUMENT);
    temperature->temperature = (int)call.gpu->temperature_c;
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, unsigned threshold,
                                                           unsigned *celsius) {
    BEGIN_GPU(device);
    REQUIRE_OUT(celsius);
    REQUIRE(threshold <= 1, NVML_ERROR_NOT_SUPPORTED);
    *celsius = threshold == 0 ? call.gpu->shutdown_c : call.gpu->slowdown_c;
    END(NVML_SUCCESS);
}

/* 0: graphics, 1: SM, 2: memory, 3: video. */
static nvmlReturn_t clock_of(unsigned type, unsigned sm, unsigned memory, unsigned *mhz) {
    if (mhz == NULL || type > 3) return NVML_ERROR_INVALID_ARGUMENT;
    *mhz = type == 2 ? memory : sm;
    return NVML_SUCCESS;
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned type, unsigned *mhz) {
    BEGIN_GPU(device);
    END(clock_of(type, call.gpu->sm_clock_mhz, call.gpu->memory_clock_mhz, mhz));
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned type,
                                                   unsigned *mhz) {
    BEGIN_GPU(device);
    END(clock_of(type, call.gpu->max_sm_clock_mhz, call.gpu->max_memory_clock_mhz, mhz));
}
