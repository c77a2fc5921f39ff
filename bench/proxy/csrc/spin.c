/* Keeps a core from idling: it counts at the lowest real-time priority until it is killed, its
 * parent ends, or 60 seconds have passed. Its working set is one cache line. */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(void) {
    struct sched_param lowest = {.sched_priority = 1};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(60);
    if (sched_setscheduler(0, SCHED_FIFO, &lowest)) { perror("sched_setscheduler"); return 1; }
    for (volatile unsigned long count = 0;;) count++;
}
