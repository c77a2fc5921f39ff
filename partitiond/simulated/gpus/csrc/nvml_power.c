/* Power, energy, utilization, and the figures that are asked for by field number. */
#include "call.h"

static nvmlReturn_t milliwatts(const sim_call *call, unsigned *out, unsigned value) {
    (void)call;
    if (out == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    *out = value;
    return NVML_SUCCESS;
}

#define POWER(function, expression)                                           \
    NVML_EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned *value) { \
        BEGIN_GPU(device);                                                    \
        END(milliwatts(&call, value, (unsigned)(expression)));                \
    }

POWER(nvmlDeviceGetPowerUsage, call.gpu->power_watts * 1000 + 0.5)
POWER(nvmlDeviceGetEnforcedPowerLimit, call.gpu->power_limit_mw)

static unsigned long long energy_mj(const sim_gpu *gpu) {
    return (unsigned long long)(sim_energy_joules(gpu) * 1000);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device,
                                                             unsigned long long *millijoules) {
    BEGIN_GPU(device);
    REQUIRE_OUT(millijoules);
    REQUIRE(call.gpu->energy_counter, NVML_ERROR_NOT_SUPPORTED);
    *millijoules = energy_mj(call.gpu);
    END(NVML_SUCCESS);
}

static unsigned percent(double share) { return (unsigned)(100 * share + 0.5); }

/* Not offered in MIG mode, neither of the GPU nor of its MIG devices. */
NVML_EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device,
                                                       nvmlUtilization_t *rates) {
    BEGIN_DEVICE(device);
    REQUIRE_OUT(rates);
    REQUIRE(!call.gpu->mig_mode, NVML_ERROR_NOT_SUPPORTED);
    *rates = (nvmlUtilization_t){percent(call.gpu->gpu_util), percent(call.gpu->dram_activity)};
    END(NVML_SUCCESS);
}

/* No figure is offered by its number, as by drivers that do not know it yet. */
NVML_EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count,
                                                  nvmlFieldValue_t *values) {
    BEGIN_GPU(device);
    REQUIRE(values != NULL && count > 0, NVML_ERROR_INVALID_ARGUMENT);
    for (int i = 0; i < count; i++) values[i].nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
    END(NVML_SUCCESS);
}
