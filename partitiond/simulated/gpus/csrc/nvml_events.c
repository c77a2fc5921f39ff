/* Event sets: Xid errors and what else the host is told to send. */
#define _GNU_SOURCE
#include "call.h"

#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct sim_event_set {
    uint64_t types[SIM_GPUS];
    uint64_t since[SIM_GPUS]; /* what came up to this number came before it was asked for */
    uint64_t next; /* number of the first event not yet looked at */
};

NVML_EXPORT nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) {
    BEGIN_SYSTEM();
    REQUIRE_OUT(set);
    struct sim_event_set *made = calloc(1, sizeof *made);
    REQUIRE(made != NULL, NVML_ERROR_MEMORY);
    made->next = call.host->events_sent + 1;
    *set = made;
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
    BEGIN_SYSTEM();
    REQUIRE_OUT(set);
    free(set);
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device,
                                                          unsigned long long *types) {
    BEGIN_GPU(device);
    REQUIRE_OUT(types);
    *types = NVML_EVENTS_OFFERED;
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types,
                                                  nvmlEventSet_t set) {
    BEGIN_GPU(device);
    REQUIRE(set != NULL && (types & ~NVML_EVENTS_OFFERED) == 0, NVML_ERROR_INVALID_ARGUMENT);
    if (!set->types[call.index]) set->since[call.index] = call.host->events_sent;
    set->types[call.index] |= types;
    END(NVML_SUCCESS);
}

/* The next event this set asked for; false where there is none yet. Wants the lock. */
static bool take(sim_host *host, nvmlEventSet_t set, nvmlEventData_t *data) {
    if (host->events_sent >= set->next + SIM_EVENTS) /* a slow reader loses the oldest */
        set->next = host->events_sent - SIM_EVENTS + 1;
    while (set->next <= host->events_sent) {
        const sim_event *event = &host->events[set->next++ % SIM_EVENTS];
        if (!(set->types[event->gpu] & event->type)) continue;
        if (event->number <= set->since[event->gpu]) continue;
        data->device = sim_handle_of(SIM_GPU_HANDLE, event->gpu, 0, 0);
        data->eventType = event->type;
        data->eventData = event->data;
        data->gpuInstanceId = event->instance_id;
        data->computeInstanceId = event->compute_id;
        return true;
    }
    return false;
}

static bool any_lost(const sim_host *host, const struct sim_event_set *set) {
    for (unsigned i = 0; i < host->gpus; i++)
        if (set->types[i] && host->gpu[i].lost) return true;
    return false;
}

static double monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void sleep_until_bell(sim_host *host, uint32_t heard, double seconds) {
    struct timespec wait = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    syscall(SYS_futex, &host->event_bell, FUTEX_WAIT, heard, &wait, NULL, 0);
}

NVML_EXPORT nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data,
                                             unsigned timeout_ms) {
    if (set == NULL || data == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    double until = monotonic() + timeout_ms / 1e3;
    for (;;) {
        BEGIN_SYSTEM();
        if (take(call.host, set, data)) END(NVML_SUCCESS);
        if (any_lost(call.host, set)) END(NVML_ERROR_GPU_IS_LOST);
        uint32_t heard = __atomic_load_n(&call.host->event_bell, __ATOMIC_SEQ_CST);
        sim_end(&call, NVML_SUCCESS);
        double left = until - monotonic();
        if (left <= 0) return NVML_ERROR_TIMEOUT;
        sleep_until_bell(call.host, heard, left);
    }
}
