/* GPU performance metrics: two samples, and what happened between them. */
#include "call.h"

#include <stdlib.h>

struct sim_gpm_sample {
    unsigned gpu, instance_id;
    double at; /* seconds; 0: nothing sampled */
    double sm_activity, sm_occupancy, tensor_activity, dram_activity, gpu_util;
};

enum { GPM_VERSION = 1 };

static int samples_alive;

/* Samples that this process was given and has not freed: for tests of who uses them. */
NVML_EXPORT int simgpu_samples_alive(void) {
    return __atomic_load_n(&samples_alive, __ATOMIC_SEQ_CST);
}

NVML_EXPORT nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *support) {
    BEGIN_DEVICE(device);
    REQUIRE_OUT(support);
    REQUIRE(support->version == GPM_VERSION, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    support->isSupportedDevice = call.gpu->gpm;
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *sample) {
    BEGIN_SYSTEM();
    REQUIRE_OUT(sample);
    *sample = calloc(1, sizeof **sample);
    if (*sample != NULL) __atomic_add_fetch(&samples_alive, 1, __ATOMIC_SEQ_CST);
    END(*sample == NULL ? NVML_ERROR_MEMORY : NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t sample) {
    BEGIN_SYSTEM();
    REQUIRE_OUT(sample);
    free(sample);
    __atomic_sub_fetch(&samples_alive, 1, __ATOMIC_SEQ_CST);
    END(NVML_SUCCESS);
}

static nvmlReturn_t take(const sim_call *call, unsigned instance_id, nvmlGpmSample_t sample) {
    if (sample == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    if (!call->gpu->gpm) return NVML_ERROR_NOT_SUPPORTED;
    const sim_gpu *gpu = call->gpu;
    *sample = (struct sim_gpm_sample){call->index, instance_id, sim_now(), gpu->sm_activity,
                                      gpu->sm_occupancy, gpu->tensor_activity, gpu->dram_activity,
                                      gpu->gpu_util};
    return NVML_SUCCESS;
}

NVML_EXPORT nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t device, nvmlGpmSample_t sample) {
    BEGIN_DEVICE(device);
    END(take(&call, call.instance == NULL ? SIM_NONE : call.instance->id, sample));
}

/* The mean of both samples, in percent; false for a metric that is not simulated. */
static bool metric_value(unsigned id, nvmlGpmSample_t one, nvmlGpmSample_t two, double *value) {
    switch (id) {
    case 1: *value = 50 * (one->gpu_util + two->gpu_util); return true;
    case 2: *value = 50 * (one->sm_activity + two->sm_activity); return true;
    case 3: *value = 50 * (one->sm_occupancy + two->sm_occupancy); return true;
    case 5: case 7: *value = 50 * (one->tensor_activity + two->tensor_activity); return true;
    case 10: *value = 50 * (one->dram_activity + two->dram_activity); return true;
    default: *value = 0; return false;
    }
}

/* `metrics` begins at its natural place whatever the caller's release has for its length. */
NVML_EXPORT nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *asked) {
    BEGIN_SYSTEM();
    REQUIRE_OUT(asked);
    REQUIRE(asked->version == GPM_VERSION, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    nvmlGpmSample_t one = asked->sample1, two = asked->sample2;
    REQUIRE(one != NULL && two != NULL && one->at > 0 && two->at >= one->at &&
                one->gpu == two->gpu && one->instance_id == two->instance_id,
            NVML_ERROR_INVALID_ARGUMENT);
    for (unsigned i = 0; i < asked->numMetrics; i++) {
        nvmlGpmMetric_t *metric = &asked->metrics[i];
        bool known = metric_value(metric->metricId, one, two, &metric->value);
        metric->nvmlReturn = known ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
    }
    END(NVML_SUCCESS);
}
