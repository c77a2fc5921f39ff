/* The host's own controls, for what describes and breaks it: records by table, row and name.
 *
 * Values go in and out as text, so that the layout of the records is known in C alone. */
#include "geometry.h"
#include "nvml_types.h"
#include "state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef enum { U32, I32, U64, F64, TEXT } kind;

typedef struct {
    const char *name;
    kind type;
    size_t offset, size, count;
} field;

#define FIELD(record, type, member) \
    {#member, type, offsetof(record, member), sizeof(((record *)0)->member), 1}
#define ARRAY(record, type, member, item) \
    {#member, type, offsetof(record, member), sizeof(item), sizeof(((record *)0)->member) / sizeof(item)}

static const field HOST[] = {
    FIELD(sim_host, TEXT, driver), FIELD(sim_host, I32, cuda_driver),
    FIELD(sim_host, U32, privileged), FIELD(sim_host, U32, driver_loaded),
    FIELD(sim_host, U32, gpus), FIELD(sim_host, U64, calls), FIELD(sim_host, U64, events_sent),
    {0},
};
#define G(type, member) FIELD(sim_gpu, type, member)
static const field GPU[] = {
    G(TEXT, uuid), G(TEXT, name), G(U32, domain), G(U32, bus), G(U32, device),
    G(U32, pci_device_id), G(U32, architecture),
    G(U32, cc_major), G(U32, cc_minor), G(U32, sm_count), G(U64, total_bytes),
    G(U64, reserved_bytes), G(U64, context_bytes), G(U32, lost), G(U32, mig_capable),
    G(U32, mig_mode), G(U32, mig_pending), G(U32, swizzle), G(U32, compute_mode),
    G(U32, persistence_mode), G(U32, gpm), G(U32, energy_counter), G(F64, sm_activity), G(F64, sm_occupancy), G(F64, tensor_activity),
    G(F64, dram_activity), G(F64, gpu_util), G(F64, power_watts), G(F64, energy_joules),
    G(F64, energy_at), G(U32, power_limit_mw), G(U32, temperature_c), G(U32, slowdown_c),
    G(U64, ecc_corrected_volatile), G(U64, ecc_uncorrected_volatile),
    G(U64, ecc_corrected_aggregate), G(U64, ecc_uncorrected_aggregate), G(U32, remapped_corrected),
    G(U32, remapped_uncorrected), G(U32, remapped_pending), G(U32, remapped_failure),
    G(U64, throttle), ARRAY(sim_gpu, U64, cpus, uint64_t), {0},
};
#define P(type, member) FIELD(sim_profile, type, member)
static const field PROFILE[] = {
    P(U32, used), P(U32, profile), P(U32, id), P(U32, compute_slices), P(U32, memory_slices),
    P(U32, sm_count), P(U32, max_instances), P(U32, copy_engines), P(U32, decoders), P(U32, jpegs),
    P(U32, ofas), P(U32, media), P(U32, starts), P(U64, memory_mib), P(TEXT, name), {0},
};
#define I(type, member) FIELD(sim_instance, type, member)
static const field INSTANCE[] = {
    I(U32, used), I(U32, id), I(U32, profile_row), I(U32, start), I(U32, size), {0},
};
#define C(type, member) FIELD(sim_compute, type, member)
static const field COMPUTE[] = {
    C(U32, used), C(U32, id), C(U32, profile_id), C(U32, start), C(U32, size), C(TEXT, uuid), {0},
};
#define R(type, member) FIELD(sim_process, type, member)
static const field PROCESS[] = {
    R(U32, used), R(U32, gpu), R(U32, instance_id), R(U32, compute_id), R(I32, pid), R(U32, kind),
    R(U64, started), R(U64, context_bytes), R(U64, allocated_bytes), R(U32, broken),
    R(U32, server_pid), {0},
};
#define F(type, member) FIELD(sim_fault, type, member)
static const field FAULT[] = {
    F(U32, used), F(TEXT, function), F(U32, gpu), F(I32, error), F(I32, after), F(I32, times),
    F(U32, delay_ms), F(U32, seen), {0},
};

/* The record "gpu", 3, 2: of table, row and row within. NULL where there is none. */
static char *record(sim_host *host, const char *table, unsigned row, unsigned inner,
                    const field **fields) {
    struct { const char *name; const field *fields; unsigned rows, inner_rows; char *base;
             size_t step, inner_step; } TABLES[] = {
        {"host", HOST, 1, 1, (char *)host, 0, 0},
        {"gpu", GPU, SIM_GPUS, 1, (char *)host->gpu, sizeof *host->gpu, 0},
        {"profile", PROFILE, SIM_GPUS, SIM_PROFILES, (char *)host->gpu->profiles,
         sizeof *host->gpu, sizeof(sim_profile)},
        {"instance", INSTANCE, SIM_GPUS, SIM_INSTANCES, (char *)host->gpu->instances,
         sizeof *host->gpu, sizeof(sim_instance)},
        {"compute", COMPUTE, SIM_GPUS, SIM_INSTANCES * SIM_COMPUTES, NULL, 0, 0},
        {"process", PROCESS, SIM_PROCESSES, 1, (char *)host->processes, sizeof(sim_process), 0},
        {"fault", FAULT, SIM_FAULTS, 1, (char *)host->faults, sizeof(sim_fault), 0},
    };
    for (unsigned i = 0; i < sizeof TABLES / sizeof *TABLES; i++) {
        if (strcmp(TABLES[i].name, table) != 0) continue;
        if (row >= TABLES[i].rows || inner >= TABLES[i].inner_rows) return NULL;
        *fields = TABLES[i].fields;
        if (TABLES[i].base == NULL)
            return (char *)&host->gpu[row].instances[inner / SIM_COMPUTES]
                .computes[inner % SIM_COMPUTES];
        return TABLES[i].base + row * TABLES[i].step + inner * TABLES[i].inner_step;
    }
    return NULL;
}

/* "cpus.3" is the fourth of an array. */
static const field *find(const field *fields, const char *name, size_t *place) {
    const char *dot = strchr(name, '.');
    size_t length = dot ? (size_t)(dot - name) : strlen(name);
    *place = dot ? strtoul(dot + 1, NULL, 10) : 0;
    for (; fields->name != NULL; fields++)
        if (strlen(fields->name) == length && strncmp(fields->name, name, length) == 0)
            return *place < fields->count ? fields : NULL;
    return NULL;
}

static int store(const field *to, char *at, const char *text) {
    char *end = NULL;
    unsigned long long whole = 0;
    long number = 0;
    double share = 0;
    errno = 0;
    switch (to->type) {
    case U32: case U64: /* strtoull would take a minus sign */
        whole = *text == '-' ? 0 : strtoull(text, &end, 10);
        if (to->type == U32 && whole > UINT32_MAX) return ERANGE;
        break;
    case I32: number = strtol(text, &end, 10); break;
    case F64: share = strtod(text, &end); break;
    case TEXT:
        if (strlen(text) >= to->size) return ENAMETOOLONG;
        strcpy(at, text);
        return 0;
    }
    if (errno != 0 || end == NULL || end == text || *end != '\0') return EINVAL;
    if (to->type == U32) *(uint32_t *)at = (uint32_t)whole;
    if (to->type == U64) *(uint64_t *)at = whole;
    if (to->type == I32) *(int32_t *)at = (int32_t)number;
    if (to->type == F64) *(double *)at = share;
    return 0;
}

static void load(const field *from, const char *at, char *text, size_t size) {
    switch (from->type) {
    case U32: snprintf(text, size, "%u", *(const uint32_t *)at); break;
    case I32: snprintf(text, size, "%d", *(const int32_t *)at); break;
    case U64: snprintf(text, size, "%llu", *(const unsigned long long *)at); break;
    case F64: snprintf(text, size, "%.17g", *(const double *)at); break;
    case TEXT: snprintf(text, size, "%s", at); break;
    }
}

/* --- what Python calls. All but simgpu_lock want the lock. Errors are errno's. --------------- */

NVML_EXPORT int simgpu_create(const char *path) { return sim_create(path); }

NVML_EXPORT sim_host *simgpu_open(const char *path) { return sim_map(path); }

NVML_EXPORT void simgpu_close(sim_host *host) { munmap(host, sizeof *host); }

NVML_EXPORT int simgpu_lock(sim_host *host) { return sim_lock(host) ? 0 : ETIMEDOUT; }

NVML_EXPORT void simgpu_unlock(sim_host *host) { sim_unlock(host); }

NVML_EXPORT unsigned simgpu_rows(const char *table) {
    if (strcmp(table, "gpu") == 0) return SIM_GPUS;
    if (strcmp(table, "profile") == 0) return SIM_PROFILES;
    if (strcmp(table, "instance") == 0) return SIM_INSTANCES;
    if (strcmp(table, "compute") == 0) return SIM_INSTANCES * SIM_COMPUTES;
    if (strcmp(table, "process") == 0) return SIM_PROCESSES;
    return strcmp(table, "fault") == 0 ? SIM_FAULTS : 0;
}

NVML_EXPORT int simgpu_set(sim_host *host, const char *table, unsigned row, unsigned inner,
                           const char *name, const char *text) {
    const field *fields;
    size_t place;
    char *at = record(host, table, row, inner, &fields);
    if (at == NULL) return ERANGE;
    const field *to = find(fields, name, &place);
    if (to == NULL) return ENOENT;
    return store(to, at + to->offset + place * to->size, text);
}

NVML_EXPORT int simgpu_get(sim_host *host, const char *table, unsigned row, unsigned inner,
                           const char *name, char *text, size_t size) {
    const field *fields;
    size_t place;
    char *at = record(host, table, row, inner, &fields);
    if (at == NULL) return ERANGE;
    const field *from = find(fields, name, &place);
    if (from == NULL) return ENOENT;
    load(from, at + from->offset + place * from->size, text, size);
    return 0;
}

NVML_EXPORT void simgpu_event(sim_host *host, unsigned gpu, uint64_t type, uint64_t data,
                              unsigned instance) {
    sim_send_event(host, gpu, type, data, instance);
}

NVML_EXPORT void simgpu_reap(sim_host *host) { sim_reap(host); }

NVML_EXPORT void simgpu_settle_energy(sim_host *host, unsigned gpu) {
    sim_settle_energy(&host->gpu[gpu]);
}

NVML_EXPORT uint64_t simgpu_used_bytes(sim_host *host, unsigned gpu, unsigned instance) {
    sim_reap(host);
    return sim_used_bytes(host, gpu, instance);
}

/* Adds a process that holds memory; -1 where there are too many. */
NVML_EXPORT int simgpu_add_process(sim_host *host, unsigned gpu, int pid, uint64_t bytes) {
    sim_reap(host);
    sim_process *process = sim_add_process(host, gpu, pid);
    if (process == NULL) return -1;
    process->allocated_bytes = bytes;
    return (int)(process - host->processes);
}

/* Makes a GPU instance and its compute instance; NVML's code. */
NVML_EXPORT int simgpu_make_instance(sim_host *host, unsigned gpu, unsigned profile_row,
                                     unsigned start, int with_compute) {
    static const unsigned WHOLE[] = {0, 0, 1, 2, 3, 0, 0, 4}; /* enum by compute slices */
    sim_instance *instance;
    sim_compute *compute;
    int result = sim_instance_create(host, gpu, profile_row, start, &instance);
    if (result != NVML_SUCCESS || !with_compute) return result;
    unsigned slices = host->gpu[gpu].profiles[profile_row].compute_slices;
    return sim_compute_create(host, gpu, instance, WHOLE[slices], &compute);
}

/* A reboot, or a reset of one GPU: no processes, no instances; the mode that was pending is on. */
NVML_EXPORT void simgpu_reset(sim_host *host, unsigned gpu) {
    for (unsigned i = 0; i < SIM_PROCESSES; i++)
        if (host->processes[i].gpu == gpu) host->processes[i].used = 0;
    sim_clear_instances(&host->gpu[gpu]);
    sim_settle_energy(&host->gpu[gpu]);
    host->gpu[gpu].energy_joules = 0;
    host->gpu[gpu].mig_mode = host->gpu[gpu].mig_pending;
    host->gpu[gpu].lost = 0;
}
