/* CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER. */
#include "cuda_inner.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool faster(const sim_gpu *one, const sim_gpu *other) {
    unsigned a = one->cc_major * 10 + one->cc_minor, b = other->cc_major * 10 + other->cc_minor;
    return a != b ? a > b : one->sm_count > other->sm_count;
}

/* GPUs that are there, in the order that the environment asks for: the fastest first, unless it
 * says PCI_BUS_ID, which is NVML's order. */
static unsigned ordered(const sim_host *host, unsigned *order) {
    unsigned count = 0;
    for (unsigned i = 0; i < host->gpus; i++)
        if (!host->gpu[i].lost) order[count++] = i;
    const char *asked = getenv("CUDA_DEVICE_ORDER");
    if (asked != NULL && strcmp(asked, "PCI_BUS_ID") == 0) return count;
    for (unsigned i = 1; i < count; i++)
        for (unsigned k = i; k > 0 && faster(&host->gpu[order[k]], &host->gpu[order[k - 1]]); k--) {
            unsigned moved = order[k];
            order[k] = order[k - 1];
            order[k - 1] = moved;
        }
    return count;
}

/* A MIG device by its whole UUID or a prefix of it that no other has. */
static bool find_mig(const sim_host *host, const char *name, sim_visible *found) {
    unsigned matches = 0;
    size_t length = strlen(name);
    for (unsigned g = 0; g < host->gpus; g++)
        for (unsigned i = 0; i < SIM_INSTANCES && !host->gpu[g].lost; i++) {
            const sim_instance *instance = &host->gpu[g].instances[i];
            for (unsigned c = 0; instance->used && c < SIM_COMPUTES; c++) {
                const sim_compute *compute = &instance->computes[c];
                if (!compute->used || strncmp(compute->uuid, name, length) != 0) continue;
                *found = (sim_visible){g, instance->serial, compute->serial};
                matches++;
            }
        }
    return matches == 1;
}

/* A GPU as CUDA shows it: in MIG mode its first MIG device stands for it. False: it has none. */
static bool show(const sim_host *host, unsigned gpu, sim_visible *found) {
    *found = (sim_visible){gpu, 0, 0};
    if (!host->gpu[gpu].mig_mode) return true;
    const sim_instance *instance;
    const sim_compute *compute = sim_mig_device(&host->gpu[gpu], 0, &instance);
    if (compute == NULL) return false;
    *found = (sim_visible){gpu, instance->serial, compute->serial};
    return true;
}

/* One entry of the list: an index, a GPU's UUID or its unique prefix, or a MIG device. */
static bool find_one(const sim_host *host, const unsigned *order, unsigned count, const char *name,
                     sim_visible *found) {
    size_t length = strlen(name);
    if (strncmp(name, "MIG-", 4) == 0 && length > 4) return find_mig(host, name, found);
    char *end = NULL;
    unsigned long index = strtoul(name, &end, 10);
    if (isdigit((unsigned char)*name) && *end == '\0')
        return index < count && show(host, order[index], found);
    if (strncmp(name, "GPU-", 4) != 0 || length == 4) return false;
    unsigned matches = 0, gpu = 0;
    for (unsigned i = 0; i < count; i++)
        if (strncmp(host->gpu[order[i]].uuid, name, length) == 0) {
            gpu = order[i];
            matches++;
        }
    return matches == 1 && show(host, gpu, found);
}

static bool same(const sim_visible *one, const sim_visible *other) {
    return one->gpu == other->gpu && one->compute_serial == other->compute_serial;
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

/* The list ends at the first entry that names nothing. */
static int parse(const sim_host *host, const unsigned *order, unsigned count, const char *list,
                 sim_visible *visible) {
    char text[4096];
    snprintf(text, sizeof text, "%s", list);
    int found = 0;
    char *rest = NULL;
    for (char *name = strtok_r(text, ",", &rest); name != NULL && found < SIM_GPUS;
         name = strtok_r(NULL, ",", &rest)) {
        while (isspace((unsigned char)*name)) name++;
        for (char *end = name + strlen(name); end > name && isspace((unsigned char)end[-1]);)
            *--end = '\0';
        sim_visible one;
        if (!find_one(host, order, count, name, &one)) break;
        for (int i = 0; i < found; i++)
            if (same(&visible[i], &one)) return 0; /* named twice: nothing is visible */
        visible[found++] = one;
    }
    return found;
}

int sim_cuda_find_visible(const sim_host *host, sim_visible *visible) {
    unsigned order[SIM_GPUS];
    unsigned count = ordered(host, order);
    int found = 0;
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    if (list != NULL)
        found = parse(host, order, count, list, visible);
    else
        for (unsigned i = 0; i < count; i++) found += show(host, order[i], &visible[found]);
    return alone_if_mig(visible, found);
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
