/* Where a GPU sits: PCI, NUMA, links to others. */
#include "call.h"

#include <stdio.h>
#include <string.h>

enum { LEVEL_INTERNAL = 0, LEVEL_MULTIPLE = 20, LEVEL_NODE = 40, LEVEL_SYSTEM = 50 };
enum { FIRST_SWITCH = 100, FIRST_SWITCH_BUS = 0xc0 };

static void fill_pci(nvmlPciInfo_t *pci, unsigned domain, unsigned bus, unsigned device,
                     unsigned id) {
    memset(pci, 0, sizeof *pci);
    pci->domain = domain;
    pci->bus = bus;
    pci->device = device;
    pci->pciDeviceId = id;
    pci->pciSubSystemId = 0x144e10de;
    snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:%02X.0", domain, bus, device);
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.0", domain & 0xffff,
             bus & 0xff, device & 0xff);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    BEGIN_GPU(device);
    REQUIRE_OUT(pci);
    fill_pci(pci, call.gpu->domain, call.gpu->bus, call.gpu->device, call.gpu->pci_device_id);
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    return nvmlDeviceGetPciInfo_v3(device, pci);
}

#define PCIE(function, expression)                                            \
    NVML_EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned *value) { \
        BEGIN_GPU(device);                                                    \
        REQUIRE_OUT(value);                                                   \
        *value = (expression);                                                \
        END(NVML_SUCCESS);                                                    \
    }

PCIE(nvmlDeviceGetMaxPcieLinkGeneration, call.gpu->cc_major >= 9 ? 5 : 4)
PCIE(nvmlDeviceGetGpuMaxPcieLinkGeneration, call.gpu->cc_major >= 9 ? 5 : 4)
PCIE(nvmlDeviceGetCurrPcieLinkGeneration, call.gpu->cc_major >= 9 ? 5 : 4)
PCIE(nvmlDeviceGetMaxPcieLinkWidth, 16)
PCIE(nvmlDeviceGetCurrPcieLinkWidth, 16)

static unsigned level_between(const sim_host *host, unsigned one, unsigned other) {
    const sim_gpu *a = &host->gpu[one], *b = &host->gpu[other];
    if (one == other) return LEVEL_INTERNAL;
    if (a->numa_node != b->numa_node) return LEVEL_SYSTEM;
    return a->pcie_switch == b->pcie_switch ? LEVEL_MULTIPLE : LEVEL_NODE;
}

/* The index of a second GPU's handle; SIM_NONE where it is none. Wants the lock. */
static unsigned index_of(const sim_call *call, nvmlDevice_t device) {
    for (unsigned i = 0; i < call->host->gpus; i++)
        if (sim_handle_of(SIM_GPU_HANDLE, i, 0, 0) == device) return i;
    return SIM_NONE;
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t device,
                                                             nvmlDevice_t second,
                                                             unsigned *level) {
    BEGIN_GPU(device);
    unsigned other = index_of(&call, second);
    REQUIRE(level != NULL && other != SIM_NONE, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(!call.host->gpu[other].lost, NVML_ERROR_GPU_IS_LOST);
    *level = level_between(call.host, call.index, other);
    END(NVML_SUCCESS);
}

/* Those at this very level, as the reference has it. */
NVML_EXPORT nvmlReturn_t nvmlDeviceGetTopologyNearestGpus(nvmlDevice_t device, unsigned level,
                                                          unsigned *count, nvmlDevice_t *devices) {
    BEGIN_GPU(device);
    REQUIRE_OUT(count);
    unsigned found = 0, room = devices == NULL ? 0 : *count;
    for (unsigned i = 0; i < call.host->gpus; i++) {
        if (i == call.index || level_between(call.host, call.index, i) != level) continue;
        if (found < room) devices[found] = sim_handle_of(SIM_GPU_HANDLE, i, 0, 0);
        found++;
    }
    *count = found;
    END(devices != NULL && found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS);
}

static bool linked(const sim_gpu *gpu) { return gpu->nvlinks > 0; }

/* Reads, writes, NVLink, atomics, and by PCIe: all but NVLink everywhere. */
NVML_EXPORT nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t device, nvmlDevice_t second,
                                                unsigned what, unsigned *status) {
    BEGIN_GPU(device);
    unsigned other = index_of(&call, second);
    REQUIRE(status != NULL && other != SIM_NONE && what <= 4, NVML_ERROR_INVALID_ARGUMENT);
    bool both = linked(call.gpu) && linked(&call.host->gpu[other]);
    bool parted = call.gpu->mig_mode || call.host->gpu[other].mig_mode;
    *status = parted || (what == 2 && !both) ? 5 : 0; /* 5: not supported */
    END(NVML_SUCCESS);
}

static nvmlReturn_t known_link(const sim_call *call, unsigned link) {
    if (!linked(call->gpu)) return NVML_ERROR_NOT_SUPPORTED;
    return link < call->gpu->nvlinks ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

/* With MIG on, links are down. */
static bool link_is_up(const sim_call *call, unsigned link) {
    int32_t peer = call->gpu->nvlink_peer[link];
    if (peer < 0 || call->gpu->mig_mode) return false;
    return peer >= FIRST_SWITCH || !call->host->gpu[peer].lost;
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned link,
                                                  unsigned *active) {
    BEGIN_GPU(device);
    REQUIRE_OUT(active);
    nvmlReturn_t known = known_link(&call, link);
    REQUIRE(known == NVML_SUCCESS, known);
    *active = link_is_up(&call, link);
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t device, unsigned link,
                                                    unsigned *version) {
    BEGIN_GPU(device);
    REQUIRE_OUT(version);
    nvmlReturn_t known = known_link(&call, link);
    REQUIRE(known == NVML_SUCCESS, known);
    *version = call.gpu->cc_major >= 10 ? 7 : call.gpu->cc_major == 9 ? 6 : 5;
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned link,
                                                             nvmlPciInfo_t *pci) {
    BEGIN_GPU(device);
    REQUIRE_OUT(pci);
    nvmlReturn_t known = known_link(&call, link);
    REQUIRE(known == NVML_SUCCESS, known);
    REQUIRE(link_is_up(&call, link), NVML_ERROR_NOT_SUPPORTED);
    int32_t peer = call.gpu->nvlink_peer[link];
    if (peer >= FIRST_SWITCH) {
        fill_pci(pci, 0, FIRST_SWITCH_BUS + (unsigned)(peer - FIRST_SWITCH), 0, 0x1af110de);
    } else {
        const sim_gpu *other = &call.host->gpu[peer];
        fill_pci(pci, other->domain, other->bus, other->device, other->pci_device_id);
    }
    END(NVML_SUCCESS);
}

/* 0: a GPU, 2: a switch. */
NVML_EXPORT nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t device, unsigned link,
                                                             unsigned *type) {
    BEGIN_GPU(device);
    REQUIRE_OUT(type);
    nvmlReturn_t known = known_link(&call, link);
    REQUIRE(known == NVML_SUCCESS, known);
    REQUIRE(link_is_up(&call, link), NVML_ERROR_NOT_SUPPORTED);
    *type = call.gpu->nvlink_peer[link] >= FIRST_SWITCH ? 2 : 0;
    END(NVML_SUCCESS);
}

static nvmlReturn_t fill_cpus(const sim_call *call, unsigned words, unsigned long *set) {
    unsigned all = sizeof call->gpu->cpus / sizeof *call->gpu->cpus;
    if (set == NULL || words == 0) return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned i = 0; i < words; i++) set[i] = i < all ? call->gpu->cpus[i] : 0;
    return NVML_SUCCESS;
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetCpuAffinity(nvmlDevice_t device, unsigned words,
                                                  unsigned long *set) {
    BEGIN_GPU(device);
    END(fill_cpus(&call, words, set));
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetCpuAffinityWithinScope(nvmlDevice_t device, unsigned words,
                                                             unsigned long *set, unsigned scope) {
    BEGIN_GPU(device);
    REQUIRE(scope <= 1, NVML_ERROR_INVALID_ARGUMENT);
    END(fill_cpus(&call, words, set));
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetMemoryAffinity(nvmlDevice_t device, unsigned words,
                                                     unsigned long *set, unsigned scope) {
    BEGIN_GPU(device);
    REQUIRE(set != NULL && words > 0 && scope <= 1, NVML_ERROR_INVALID_ARGUMENT);
    memset(set, 0, words * sizeof *set);
    set[0] = 1ul << call.gpu->numa_node;
    END(NVML_SUCCESS);
}

/* Only where a GPU is a memory node of its own (Grace Hopper). */
NVML_EXPORT nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t device, unsigned *node) {
    BEGIN_GPU(device);
    REQUIRE_OUT(node);
    END(NVML_ERROR_NOT_SUPPORTED);
}
