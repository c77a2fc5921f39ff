/* CUDA_VISIBLE_DEVICES, whose entries are whole UUIDs here: partitiond names devices so. */
#include "cuda_inner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A GPU without MIG, or a compute instance, by its UUID. */
static bool find(const sim_host *host, const char *uuid, sim_visible *found) {
    for (unsigned g = 0; g < host->gpus; g++) {
        const sim_gpu *gpu = &host->gpu[g];
        *found = (sim_visible){g, 0, 0};
        if (gpu->lost) continue;
        if (strcmp(gpu->uuid, uuid) == 0) return !gpu->mig_mode;
        for (unsigned i = 0; i < SIM_INSTANCES; i++) {
            const sim_instance *instance = &gpu->instances[i];
            for (unsigned c = 0; instance->used && c < SIM_COMPUTES; c++) {
                const sim_compute *compute = &instance->computes[c];
                *found = (sim_visible){g, instance->serial, compute->serial};
                if (compute->used && strcmp(compute->uuid, uuid) == 0) return true;
            }
        }
    }
    return false;
}

/* The list ends at the first entry that names nothing. */
static int parse(const sim_host *host, const char *list, sim_visible *visible) {
    char text[4096];
    snprintf(text, sizeof text, "%s", list);
    int found = 0;
    char *rest = NULL;
    for (char *uuid = strtok_r(text, ",", &rest); uuid != NULL && found < SIM_GPUS;
         uuid = strtok_r(NULL, ",", &rest))
        if (!find(host, uuid, &visible[found++])) return found - 1;
    return found;
}

/* One process sees one MIG device at most, the first, and no GPU beside it (MIG user guide, CUDA
 * device enumeration). */
static int alone_if_mig(sim_visible *visible, int found) {
    for (int i = 0; i < found; i++)
        if (visible[i].compute_serial) {
            visible[0] = visible[i];
            return 1;
        }
    return found;
}

int sim_cuda_find_visible(const sim_host *host, sim_visible *visible) {
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    if (list != NULL) return alone_if_mig(visible, parse(host, list, visible));
    int found = 0;
    for (unsigned i = 0; i < host->gpus; i++)
        if (!host->gpu[i].lost && !host->gpu[i].mig_mode)
            visible[found++] = (sim_visible){i, 0, 0};
    return found;
}

const sim_instance *sim_cuda_instance(const sim_host *host, const sim_visible *device) {
    const sim_gpu *gpu = &host->gpu[device->gpu];
    for (unsigned i = 0; i < SIM_INSTANCES && device->instance_serial; i++)
        if (gpu->instances[i].used && gpu->instances[i].serial == device->instance_serial)
            return &gpu->instances[i];
    return NULL;
}

const sim_compute *sim_cuda_compute(const sim_host *host, const sim_visible *device) {
    const sim_instance *instance = sim_cuda_instance(host, device);
    for (unsigned i = 0; instance != NULL && i < SIM_COMPUTES; i++)
        if (instance->computes[i].used && instance->computes[i].serial == device->compute_serial)
            return &instance->computes[i];
    return NULL;
}

bool sim_cuda_is_there(const sim_host *host, const sim_visible *device) {
    if (host->gpu[device->gpu].lost) return false;
    return device->compute_serial ? sim_cuda_compute(host, device) != NULL
                                  : !host->gpu[device->gpu].mig_mode;
}

const char *sim_cuda_uuid(const sim_host *host, const sim_visible *device) {
    const sim_compute *compute = sim_cuda_compute(host, device);
    return compute == NULL ? host->gpu[device->gpu].uuid : compute->uuid;
}
