/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What off_cpu.h and run_queue.h share: the states of a thread that leaves its CPU.
 */
#ifndef CI_FLAME_SCHED_H
#define CI_FLAME_SCHED_H

#include "tree.h"

#define STATE_RUNNABLE 0U
#define STATE_UNINTERRUPTIBLE 2U
#define STATE_DEAD 0x80U

/* sched_switch(preempt, previous, next, state of the previous): Linux 5.18 and newer. One that is
 * preempted stays on the run queue, whatever it was about to wait for. */
static __always_inline __u32 state_left_in(__u64 *ctx)
{
	return ctx[0] & 1 ? STATE_RUNNABLE : (__u32)ctx[3] & 0xff;
}

/* Return the phase; 0 outside every window. */
static __always_inline __u64 window_now(void)
{
	__u32 zero = 0;
	struct window *window = bpf_map_lookup_elem(&phase, &zero);

	return window ? *(volatile __u64 *)&window->phase : 0;
}

#endif
