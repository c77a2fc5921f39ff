/* Where a GPU sits: PCI, and the cores near it. */
#include "call.h"

#include <stdio.h>
#include <string.h>

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
