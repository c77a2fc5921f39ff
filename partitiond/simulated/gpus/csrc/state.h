/* What a simulated host remembers, shared by all processes through one mapped file.
 *
 * Everything that is derived (memory in use, which slices are taken) is computed from records each
 * time. So a process that is killed in the middle of a change leaves at worst one record that is
 * not yet marked as used: nothing has to be repaired when the lock is taken over from the dead. */
#ifndef SIM_STATE_H
#define SIM_STATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SIM_MAGIC 0x50475055u /* "PGPU" */
#define SIM_LAYOUT 5u
#define SIM_GPUS 64
#define SIM_PROFILES 8
#define SIM_INSTANCES 8
#define SIM_COMPUTES 7
#define SIM_PROCESSES 1024
#define SIM_FAULTS 64
#define SIM_EVENTS 256
#define SIM_MEMORY_SLICES 8
#define SIM_MIB (1ull << 20)
#define SIM_NONE 0xFFFFFFFFu

typedef struct {
    uint32_t used;
    uint32_t profile;      /* NVML's enum, as NVML_GPU_INSTANCE_PROFILE_2_SLICE */
    uint32_t id;           /* for all other calls */
    uint32_t compute_slices, memory_slices, sm_count, max_instances;
    uint32_t copy_engines, decoders, jpegs, ofas, media;
    uint32_t starts;       /* bit n: may begin at memory slice n */
    uint64_t memory_mib;
    char name[96];
} sim_profile;

typedef struct {
    uint32_t used, id, profile_id, start, size; /* start and size in compute slices */
    uint64_t serial;       /* never given twice: tells a new one at an old place from the old */
    char uuid[80];
} sim_compute;

typedef struct {
    uint32_t used, id, profile_row, start, size; /* start and size in memory slices */
    uint64_t serial;
    sim_compute computes[SIM_COMPUTES];
} sim_instance;

typedef struct {
    char uuid[80], name[96];
    uint32_t domain, bus, device, pci_device_id;
    uint32_t architecture, cc_major, cc_minor, sm_count;
    uint64_t total_bytes, reserved_bytes, context_bytes;
    uint32_t lost, mig_capable, mig_mode, mig_pending, swizzle;
    uint32_t compute_mode, persistence_mode;
    uint32_t gpm, energy_counter;
    double sm_activity, sm_occupancy, tensor_activity, dram_activity, gpu_util;
    double power_watts, energy_joules;     /* energy up to energy_at */
    double energy_at;                      /* CLOCK_BOOTTIME, seconds */
    uint32_t power_limit_mw, temperature_c, slowdown_c;
    uint64_t ecc_corrected_volatile, ecc_uncorrected_volatile;
    uint64_t ecc_corrected_aggregate, ecc_uncorrected_aggregate;
    uint32_t remapped_corrected, remapped_uncorrected, remapped_pending, remapped_failure;
    uint64_t throttle;
    uint64_t cpus[16];
    sim_profile profiles[SIM_PROFILES];
    sim_instance instances[SIM_INSTANCES];
} sim_gpu;

enum { SIM_CONTEXT = 1, SIM_MPS_CLIENT = 2 };

typedef struct {
    uint32_t used;
    uint32_t gpu, instance_id, compute_id; /* ids are SIM_NONE without MIG */
    int32_t pid;
    uint32_t kind;
    uint64_t started;      /* of the process, in clock ticks since boot; 0: never looked after */
    uint64_t context_bytes, allocated_bytes;
    uint32_t broken;       /* CUDA error that its every next call answers; 0: well */
    uint32_t server_pid;   /* of its MPS server */
} sim_process;

/* Instead of an error code: the calling process dies by SIGKILL. */
enum { SIM_KILL_BEFORE = -1, SIM_KILL_AFTER = -2, SIM_KILL_LOCKED = -3 };
/* Instead of a delay: the call does not return before its fault is taken away. */
#define SIM_HANG UINT32_MAX

typedef struct {
    uint32_t used;
    char function[64];     /* shell pattern of C functions, or "mig" for any call about MIG */
    uint32_t gpu;          /* SIM_NONE: any, and calls that are about no GPU */
    int32_t error;
    int32_t after, times;  /* calls that go well first; how many fail, -1 without end */
    uint32_t delay_ms;     /* the call takes this long first, or SIM_HANG */
    uint32_t seen;         /* calls that matched so far */
} sim_fault;

typedef struct {
    uint64_t number;       /* from 1, without gaps; its place is number % SIM_EVENTS */
    uint32_t gpu, instance_id, compute_id;
    uint64_t type, data;
} sim_event;

typedef struct {
    uint32_t magic, layout, size, ready;
    pthread_mutex_t lock;
    char driver[80];
    int32_t cuda_driver;
    uint32_t privileged, driver_loaded, gpus;
    uint64_t next_serial, events_sent;
    uint32_t event_bell;   /* futex word */
    uint64_t calls;        /* of all processes, failing ones included */
    sim_gpu gpu[SIM_GPUS];
    sim_process processes[SIM_PROCESSES];
    sim_fault faults[SIM_FAULTS];
    sim_event events[SIM_EVENTS];
} sim_host;

/* The host whose lib/ folder this library lies in; NULL where there is none or its layout is
 * another version's. Mapped once per process. */
sim_host *sim_attach(void);
sim_host *sim_map(const char *path);
int sim_create(const char *path);

/* False where the lock cannot be had in ten seconds. */
bool sim_lock(sim_host *host);
void sim_unlock(sim_host *host);

/* Forgets processes that are gone, and with them their memory. Wants the lock. */
void sim_reap(sim_host *host);
uint64_t sim_started(pid_t pid);
/* Bytes held on a GPU, or in one of its GPU instances unless that is SIM_NONE. */
uint64_t sim_used_bytes(const sim_host *host, uint32_t gpu, uint32_t instance_id);
unsigned sim_process_count(const sim_host *host, uint32_t gpu, uint32_t instance_id);
sim_process *sim_add_process(sim_host *host, uint32_t gpu, pid_t pid);

/* The error that a call is to answer by a fault that was asked for; 0: none. Wants the lock. */
int sim_fault_of(sim_host *host, const char *function, uint32_t gpu, uint32_t *delay_ms);
/* Whether a call hangs now. Wants no lock. */
bool sim_hangs(sim_host *host, const char *function, uint32_t gpu);
/* Spends the delay of a fault; without the lock. */
void sim_delay(sim_host *host, const char *function, uint32_t gpu, uint32_t delay_ms);
/* Carries out SIM_KILL_*; never returns for these. */
void sim_die(void);
bool sim_is_privileged(const sim_host *host);
void sim_send_event(sim_host *host, uint32_t gpu, uint64_t type, uint64_t data, uint32_t instance);
/* Begins a new stretch of the energy counter: wanted before power changes. */
double sim_energy_joules(const sim_gpu *gpu);
void sim_settle_energy(sim_gpu *gpu);
double sim_now(void);

#endif
