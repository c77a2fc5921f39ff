/* Power, energy, utilization, and the figures that are asked for by field number. */
#include "call.h"

#include <string.h>
#include <time.h>

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
POWER(nvmlDeviceGetPowerManagementLimit, call.gpu->power_limit_mw)
POWER(nvmlDeviceGetEnforcedPowerLimit, call.gpu->power_limit_mw)
POWER(nvmlDeviceGetPowerManagementDefaultLimit, call.gpu->power_default_mw)
POWER(nvmlDeviceGetPowerManagementMode, 1)

NVML_EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device,
                                                                      unsigned *lowest,
                                                                      unsigned *highest) {
    BEGIN_GPU(device);
    REQUIRE(lowest != NULL && highest != NULL, NVML_ERROR_INVALID_ARGUMENT);
    *lowest = call.gpu->power_min_mw;
    *highest = call.gpu->power_max_mw;
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceSetPowerManagementLimit(nvmlDevice_t device, unsigned limit) {
    BEGIN_GPU(device);
    REQUIRE_PRIVILEGE();
    REQUIRE(limit >= call.gpu->power_min_mw && limit <= call.gpu->power_max_mw,
            NVML_ERROR_INVALID_ARGUMENT);
    call.gpu->power_limit_mw = limit;
    END(NVML_SUCCESS);
}

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

/* The GPU's work in equal parts: the simulated processes do none of their own. */
NVML_EXPORT nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                                         nvmlProcessUtilizationSample_t *samples,
                                                         unsigned *count,
                                                         unsigned long long since) {
    BEGIN_GPU(device);
    REQUIRE_OUT(count);
    REQUIRE(!call.gpu->mig_mode, NVML_ERROR_NOT_SUPPORTED);
    sim_reap(call.host);
    unsigned all = sim_process_count(call.host, call.index, SIM_NONE), room = *count, found = 0;
    unsigned long long now = (unsigned long long)time(NULL) * 1000000ull;
    *count = all;
    REQUIRE(all > 0 && now > since, NVML_ERROR_NOT_FOUND);
    REQUIRE(samples != NULL && room >= all, NVML_ERROR_INSUFFICIENT_SIZE);
    for (unsigned i = 0; i < SIM_PROCESSES; i++) {
        const sim_process *process = &call.host->processes[i];
        if (!process->used || process->gpu != call.index) continue;
        samples[found++] = (nvmlProcessUtilizationSample_t){
            (unsigned)process->pid, now, percent(call.gpu->sm_activity / all),
            percent(call.gpu->dram_activity / all), 0, 0};
    }
    END(NVML_SUCCESS);
}

enum { VALUE_UINT = 1, VALUE_ULONGLONG = 3 };

/* One figure by its NVML_FI_DEV_* number; false where there is none of that number. */
static bool field_value(const sim_gpu *gpu, unsigned id, unsigned long long *value, bool *wide) {
    *wide = false;
    switch (id) {
    case 1: case 2: *value = gpu->ecc_mode; return true;
    case 3: *wide = true; *value = gpu->ecc_corrected_volatile; return true;
    case 4: *wide = true; *value = gpu->ecc_uncorrected_volatile; return true;
    case 5: *wide = true; *value = gpu->ecc_corrected_aggregate; return true;
    case 6: *wide = true; *value = gpu->ecc_uncorrected_aggregate; return true;
    case 29: *value = gpu->retired_sbe; return true;
    case 30: *value = gpu->retired_dbe; return true;
    case 31: *value = gpu->retired_pending; return true;
    case 82: *value = gpu->memory_temperature_c; return true;
    case 83: *wide = true; *value = energy_mj(gpu); return gpu->energy_counter != 0;
    case 91: *value = gpu->nvlinks; return true;
    case 142: *value = gpu->remapped_corrected; return true;
    case 143: *value = gpu->remapped_uncorrected; return true;
    case 144: *value = gpu->remapped_pending; return true;
    case 145: *value = gpu->remapped_failure; return true;
    case 185: case 186: *value = (unsigned)(gpu->power_watts * 1000 + 0.5); return true;
    case 187: *value = gpu->power_min_mw; return true;
    case 188: *value = gpu->power_max_mw; return true;
    case 189: *value = gpu->power_default_mw; return true;
    case 190: case 192: *value = gpu->power_limit_mw; return true;
    default: return false;
    }
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count,
                                                  nvmlFieldValue_t *values) {
    BEGIN_GPU(device);
    REQUIRE(values != NULL && count > 0, NVML_ERROR_INVALID_ARGUMENT);
    for (int i = 0; i < count; i++) {
        unsigned long long value = 0;
        bool wide = false;
        bool found = field_value(call.gpu, values[i].fieldId, &value, &wide);
        values[i].timestamp = (long long)time(NULL) * 1000000ll;
        values[i].latencyUsec = 0;
        values[i].valueType = wide ? VALUE_ULONGLONG : VALUE_UINT;
        values[i].nvmlReturn = found ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
        memset(&values[i].value, 0, sizeof values[i].value);
        if (wide) values[i].value.ullVal = value;
        else values[i].value.uiVal = (unsigned)value;
    }
    END(NVML_SUCCESS);
}
