/* MIG's placement rules. See geometry.h. */
#include "geometry.h"

#include <stdio.h>
#include <string.h>

sim_profile *sim_profile_by_enum(sim_gpu *gpu, uint32_t profile) {
    for (unsigned row = 0; row < SIM_PROFILES; row++)
        if (gpu->profiles[row].used && gpu->profiles[row].profile == profile)
            return &gpu->profiles[row];
    return NULL;
}

int sim_profile_row(const sim_gpu *gpu, uint32_t id) {
    for (int row = 0; row < SIM_PROFILES; row++)
        if (gpu->profiles[row].used && gpu->profiles[row].id == id) return row;
    return -1;
}

sim_compute *sim_compute_by_id(sim_instance *instance, uint32_t id) {
    for (unsigned i = 0; i < SIM_COMPUTES; i++)
        if (instance->computes[i].used && instance->computes[i].id == id)
            return &instance->computes[i];
    return NULL;
}

unsigned sim_instance_count(const sim_gpu *gpu) {
    unsigned count = 0;
    for (unsigned i = 0; i < SIM_INSTANCES; i++) count += gpu->instances[i].used != 0;
    return count;
}

const sim_compute *sim_mig_device(const sim_gpu *gpu, unsigned index,
                                  const sim_instance **instance) {
    unsigned at = 0;
    for (uint32_t id = 0; id < 2 * SIM_MEMORY_SLICES; id++)
        for (unsigned i = 0; i < SIM_INSTANCES; i++) {
            if (!gpu->instances[i].used || gpu->instances[i].id != id) continue;
            for (unsigned c = 0; c < SIM_COMPUTES; c++) {
                const sim_compute *compute = &gpu->instances[i].computes[c];
                if (!compute->used || at++ != index) continue;
                *instance = &gpu->instances[i];
                return compute;
            }
        }
    return NULL;
}

unsigned sim_mig_index(const sim_gpu *gpu, uint64_t compute_serial) {
    const sim_instance *instance;
    const sim_compute *compute;
    for (unsigned at = 0; (compute = sim_mig_device(gpu, at, &instance)) != NULL; at++)
        if (compute->serial == compute_serial) return at;
    return SIM_NONE;
}

void sim_clear_instances(sim_gpu *gpu) {
    for (unsigned i = 0; i < SIM_INSTANCES; i++) gpu->instances[i].used = 0;
}

static uint32_t cover(uint32_t start, uint32_t size) { return ((1u << size) - 1) << start; }

static uint32_t taken_slices(const sim_gpu *gpu) {
    uint32_t taken = 0;
    for (unsigned i = 0; i < SIM_INSTANCES; i++) {
        const sim_instance *instance = &gpu->instances[i];
        if (instance->used) taken |= cover(instance->start, instance->size);
    }
    return taken;
}

static unsigned existing(const sim_gpu *gpu, unsigned row) {
    unsigned count = 0;
    for (unsigned i = 0; i < SIM_INSTANCES; i++)
        count += gpu->instances[i].used && gpu->instances[i].profile_row == row;
    return count;
}

/* Ids are nodes of a binary tree over the memory slices; which half comes first differs between
 * GPUs, so nothing can be read from an id. */
static uint32_t instance_id(const sim_gpu *gpu, uint32_t start, uint32_t size) {
    uint32_t places = SIM_MEMORY_SLICES / size, place = start / size;
    if (gpu->swizzle && places > 1) place = (place + places / 2) % places;
    return places - 1 + place;
}

nvmlReturn_t sim_instance_create(sim_host *host, unsigned gpu_index, unsigned row, uint32_t start,
                                 sim_instance **created) {
    sim_gpu *gpu = &host->gpu[gpu_index];
    const sim_profile *profile = &gpu->profiles[row];
    if (start >= SIM_MEMORY_SLICES || !(profile->starts >> start & 1))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (existing(gpu, row) >= profile->max_instances) return NVML_ERROR_INSUFFICIENT_RESOURCES;
    if (taken_slices(gpu) & cover(start, profile->memory_slices))
        return NVML_ERROR_INSUFFICIENT_RESOURCES;
    for (unsigned i = 0; i < SIM_INSTANCES; i++) {
        sim_instance *instance = &gpu->instances[i];
        if (instance->used) continue;
        memset(instance, 0, sizeof *instance);
        instance->id = instance_id(gpu, start, profile->memory_slices);
        instance->profile_row = row;
        instance->start = start;
        instance->size = profile->memory_slices;
        instance->serial = host->next_serial++;
        instance->used = 1;
        *created = instance;
        return NVML_SUCCESS;
    }
    return NVML_ERROR_INSUFFICIENT_RESOURCES;
}

nvmlReturn_t sim_instance_destroy(sim_host *host, unsigned gpu, sim_instance *instance) {
    for (unsigned i = 0; i < SIM_COMPUTES; i++)
        if (instance->computes[i].used) return NVML_ERROR_IN_USE;
    sim_reap(host);
    if (sim_process_count(host, gpu, instance->id)) return NVML_ERROR_IN_USE;
    instance->used = 0;
    return NVML_SUCCESS;
}

unsigned sim_compute_slices(const sim_gpu *gpu, const sim_instance *instance, uint32_t profile) {
    static const unsigned SLICES[] = {1, 2, 3, 4, 7};
    unsigned all = gpu->profiles[instance->profile_row].compute_slices;
    if (profile >= sizeof SLICES / sizeof *SLICES || SLICES[profile] > all) return 0;
    /* A 4g instance has no 3c: what is left over would be no use. */
    if (SLICES[profile] == 3 && all == 4) return 0;
    return SLICES[profile];
}

unsigned sim_compute_sms(const sim_gpu *gpu, const sim_instance *instance, unsigned slices) {
    const sim_profile *profile = &gpu->profiles[instance->profile_row];
    return profile->sm_count * slices / profile->compute_slices;
}

static uint32_t taken_computes(const sim_instance *instance) {
    uint32_t taken = 0;
    for (unsigned i = 0; i < SIM_COMPUTES; i++) {
        const sim_compute *compute = &instance->computes[i];
        if (compute->used) taken |= cover(compute->start, compute->size);
    }
    return taken;
}

static int compute_start(unsigned slices, unsigned all, uint32_t taken) {
    for (unsigned start = 0; start + slices <= all; start++)
        if (!(taken & cover(start, slices))) return (int)start;
    return -1;
}

unsigned sim_compute_capacity(const sim_gpu *gpu, const sim_instance *instance, uint32_t profile) {
    unsigned slices = sim_compute_slices(gpu, instance, profile), count = 0;
    unsigned all = gpu->profiles[instance->profile_row].compute_slices;
    uint32_t taken = 0;
    if (slices == 0) return 0;
    for (int start; (start = compute_start(slices, all, taken)) >= 0; count++)
        taken |= cover(start, slices);
    return count;
}

/* The same place on the same GPU has the same UUID each time, as with the driver. */
static void name_compute(const sim_gpu *gpu, const sim_instance *instance, sim_compute *compute) {
    char text[160];
    snprintf(text, sizeof text, "%s/%u/%u", gpu->uuid, instance->id, compute->id);
    uint64_t words[2] = {0xcbf29ce484222325ull, 0x9ae16a3b2f90404full};
    for (unsigned word = 0; word < 2; word++)
        for (const char *c = text; *c; c++)
            words[word] = (words[word] ^ (uint8_t)*c) * (word ? 0x9e3779b97f4a7c15ull
                                                              : 0x100000001b3ull);
    words[0] ^= words[1] >> 29;
    words[1] ^= words[0] >> 31;
    snprintf(compute->uuid, sizeof compute->uuid, "MIG-%08x-%04x-5%03x-%04x-%012llx",
             (unsigned)(words[0] >> 32), (unsigned)(words[0] >> 16 & 0xffff),
             (unsigned)(words[0] & 0xfff), (unsigned)(words[1] >> 48 & 0x3fff) | 0x8000,
             (unsigned long long)(words[1] & 0xffffffffffffull));
}

nvmlReturn_t sim_compute_create(sim_host *host, unsigned gpu_index, sim_instance *instance,
                                uint32_t profile, sim_compute **created) {
    sim_gpu *gpu = &host->gpu[gpu_index];
    unsigned slices = sim_compute_slices(gpu, instance, profile);
    unsigned all = gpu->profiles[instance->profile_row].compute_slices;
    if (slices == 0) return NVML_ERROR_NOT_SUPPORTED;
    int at = compute_start(slices, all, taken_computes(instance));
    if (at < 0) return NVML_ERROR_INSUFFICIENT_RESOURCES;
    unsigned id = 0;
    while (sim_compute_by_id(instance, id) != NULL) id++;
    for (unsigned i = 0; i < SIM_COMPUTES; i++) {
        sim_compute *compute = &instance->computes[i];
        if (compute->used) continue;
        memset(compute, 0, sizeof *compute);
        compute->id = id;
        compute->profile_id = profile;
        compute->start = at;
        compute->size = slices;
        compute->serial = host->next_serial++;
        name_compute(gpu, instance, compute);
        compute->used = 1;
        *created = compute;
        return NVML_SUCCESS;
    }
    return NVML_ERROR_INSUFFICIENT_RESOURCES;
}

nvmlReturn_t sim_compute_destroy(sim_host *host, unsigned gpu, sim_instance *instance,
                                 sim_compute *compute) {
    sim_reap(host);
    for (unsigned i = 0; i < SIM_PROCESSES; i++) {
        const sim_process *process = &host->processes[i];
        if (process->used && process->gpu == gpu && process->instance_id == instance->id &&
            process->compute_id == compute->id)
            return NVML_ERROR_IN_USE;
    }
    compute->used = 0;
    return NVML_SUCCESS;
}
