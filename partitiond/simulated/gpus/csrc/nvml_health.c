/* Health: ECC, retired pages and remapped rows, clocks and what throttles them, temperature,
 * modes. MIG devices have none of their own. */
#include "call.h"

#define NUMBER(function, type, expression)                                \
    NVML_EXPORT nvmlReturn_t function(nvmlDevice_t device, type *value) { \
        BEGIN_GPU(device);                                                \
        REQUIRE_OUT(value);                                               \
        *value = (type)(expression);                                      \
        END(NVML_SUCCESS);                                                \
    }

NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, call.gpu->throttle)
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, call.gpu->throttle)
NUMBER(nvmlDeviceGetComputeMode, unsigned, call.gpu->compute_mode)
NUMBER(nvmlDeviceGetPersistenceMode, unsigned, call.gpu->persistence_mode)

/* `type` 0: corrected, 1: uncorrected; `counter` 0: since the driver was loaded, 1: ever. */
static nvmlReturn_t ecc_count(const sim_gpu *gpu, unsigned type, unsigned counter,
                              unsigned long long *count) {
    if (count == NULL || type > 1 || counter > 1) return NVML_ERROR_INVALID_ARGUMENT;
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

/* No page of an older GPU is retired. */
NVML_EXPORT nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, unsigned cause,
                                                   unsigned *count, unsigned long long *addresses) {
    (void)addresses;
    BEGIN_GPU(device);
    REQUIRE(count != NULL && cause <= 1, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(!remaps(call.gpu), NVML_ERROR_NOT_SUPPORTED);
    *count = 0;
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t device,
                                                                unsigned *pending) {
    BEGIN_GPU(device);
    REQUIRE_OUT(pending);
    REQUIRE(!remaps(call.gpu), NVML_ERROR_NOT_SUPPORTED);
    *pending = 0;
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned sensor,
                                                  unsigned *celsius) {
    BEGIN_GPU(device);
    REQUIRE(celsius != NULL && sensor == 0, NVML_ERROR_INVALID_ARGUMENT);
    *celsius = call.gpu->temperature_c;
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, unsigned threshold,
                                                           unsigned *celsius) {
    BEGIN_GPU(device);
    REQUIRE_OUT(celsius);
    REQUIRE(threshold == 1, NVML_ERROR_NOT_SUPPORTED); /* of the slow-down */
    *celsius = call.gpu->slowdown_c;
    END(NVML_SUCCESS);
}
