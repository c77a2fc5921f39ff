/* MIG on one GPU's records: what may be placed where. All want the lock. */
#ifndef SIM_GEOMETRY_H
#define SIM_GEOMETRY_H

#include "nvml_types.h"
#include "state.h"

sim_profile *sim_profile_by_enum(sim_gpu *gpu, uint32_t profile);
int sim_profile_row(const sim_gpu *gpu, uint32_t id); /* -1: none */
sim_compute *sim_compute_by_id(sim_instance *instance, uint32_t id);

nvmlReturn_t sim_instance_create(sim_host *host, unsigned gpu, unsigned row, uint32_t start,
                                 sim_instance **created);
nvmlReturn_t sim_instance_destroy(sim_host *host, unsigned gpu, sim_instance *instance);

/* Compute slices of a compute instance profile by its enum or its id (they are the same number);
 * 0 where there is none in this GPU instance. */
unsigned sim_compute_slices(const sim_gpu *gpu, const sim_instance *instance, uint32_t profile);
/* How many of a profile fit into an empty GPU instance. */
unsigned sim_compute_capacity(const sim_gpu *gpu, const sim_instance *instance, uint32_t profile);
unsigned sim_compute_sms(const sim_gpu *gpu, const sim_instance *instance, unsigned slices);
nvmlReturn_t sim_compute_create(sim_host *host, unsigned gpu, sim_instance *instance,
                                uint32_t profile, sim_compute **created);
nvmlReturn_t sim_compute_destroy(sim_host *host, unsigned gpu, sim_instance *instance,
                                 sim_compute *compute);
/* Forgets all instances, as a reset does. */
void sim_clear_instances(sim_gpu *gpu);
unsigned sim_instance_count(const sim_gpu *gpu);

/* The compute instance that is a GPU's MIG device of this number: they are counted by GPU instance
 * and within it, and closed up when one goes. NULL where there are fewer. */
const sim_compute *sim_mig_device(const sim_gpu *gpu, unsigned index,
                                  const sim_instance **instance);
/* The number of a MIG device; SIM_NONE where it is gone. */
unsigned sim_mig_index(const sim_gpu *gpu, uint64_t compute_serial);

#endif
