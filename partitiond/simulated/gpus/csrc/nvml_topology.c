/* Where a GPU sits: PCI, NUMA, links to others. */
#include "call.h"

#include <stdio.h>
#include <string.h>

enum { LEVEL_INTERNAL = 0, LEVEL_MULTIPLE = 20, LEVEL_NODE = 40, LEVEL_SYSTEM = 50 };
enum { SWITCHES = 6, FIRST_SWITCH_BUS = 0xc0 };

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

#define PCIE(function, expression)                                            \
    NVML_EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned *value) { \
        BEGIN_GPU(device);                                                    \
        REQUIRE_OUT(value);                                                   \
        *value = (expression);                                                \
        END(NVML_SUCCESS);                                                    \
    }

PCIE(nvmlDeviceGetMaxPcieLinkGeneration, call.gpu->cc_major >= 9 ? 5 : 4)
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

static nvmlReturn_t known_link(const sim_call *call, unsigned link) {
    if (call->gpu->nvlinks == 0) return NVML_ERROR_NOT_SUPPORTED;
    return link < call->gpu->nvlinks ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned link,
                                                  unsigned *active) {
    BEGIN_GPU(device);
    REQUIRE_OUT(active);
    nvmlReturn_t known = known_link(&call, link);
    REQUIRE(known == NVML_SUCCESS, known);
    *active = !call.gpu->mig_mode; /* with MIG on, links are down */
    END(NVML_SUCCESS);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned link,
                                                             nvmlPciInfo_t *pci) {
    BEGIN_GPU(device);
    REQUIRE_OUT(pci);
    nvmlReturn_t known = known_link(&call, link);
    REQUIRE(known == NVML_SUCCESS, known);
    REQUIRE(!call.gpu->mig_mode, NVML_ERROR_NOT_SUPPORTED);
    fill_pci(pci, 0, FIRST_SWITCH_BUS + link % SWITCHES, 0, 0x1af110de);
    END(NVML_SUCCESS);
}

/* All links of the simulated GPUs lead to switches (2). */
NVML_EXPORT nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t device, unsigned link,
                                                             unsigned *type) {
    BEGIN_GPU(device);
    REQUIRE_OUT(type);
    nvmlReturn_t known = known_link(&call, link);
    REQUIRE(known == NVML_SUCCESS, known);
    REQUIRE(!call.gpu->mig_mode, NVML_ERROR_NOT_SUPPORTED);
    *type = 2;
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
