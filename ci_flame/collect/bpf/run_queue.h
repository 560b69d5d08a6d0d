/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How long the threads of the tree stand in the run queue: from the wake-up, or from being
 * preempted, until they run. Both ends must lie inside a window.
 */
#ifndef CI_FLAME_RUN_QUEUE_H
#define CI_FLAME_RUN_QUEUE_H

#include "histogram.h"
#include "sched.h"

struct queued {
	__u64 since_ns;
	__u64 ran_ns; /* CPU time of the thread until then */
};

MAP(queued_threads, BPF_MAP_TYPE_HASH, __u32, struct queued, 8192);
MAP(run_queue, BPF_MAP_TYPE_ARRAY, __u32, struct histogram, 1);

static __always_inline void queue_begins(struct task_struct *task, __u64 now)
{
	struct queued queued = {.since_ns = now, .ran_ns = task->se.sum_exec_runtime};
	__u32 tid = task->pid;

	if (bpf_map_update_elem(&queued_threads, &tid, &queued, BPF_ANY))
		count(COUNT_LOST_LATENCIES);
}

static __always_inline void queue_ends(__u32 tid, const struct queued *queued, __u64 now)
{
	__u32 zero = 0;
	struct histogram *histogram = bpf_map_lookup_elem(&run_queue, &zero);
	__u64 us = now > queued->since_ns ? (now - queued->since_ns) / 1000 : 0;

	if (histogram && window_now())
		histogram_add(histogram, us);
	bpf_map_delete_elem(&queued_threads, &tid);
}

SEC("tp_btf/sched_switch")
int run_queue_switch(__u64 *ctx)
{
	struct task_struct *previous = (struct task_struct *)ctx[1];
	struct task_struct *next = (struct task_struct *)ctx[2];
	__u64 now = bpf_ktime_get_ns();
	__u32 tid = next->pid, tgid = previous->tgid;
	struct queued *queued = bpf_map_lookup_elem(&queued_threads, &tid);

	if (queued)
		queue_ends(tid, queued, now);
	if (!tgid || !current_process(tgid))
		return 0;
	tid = previous->pid;
	queued = bpf_map_lookup_elem(&queued_threads, &tid);
	if (queued) /* it came to its CPU unseen, see off_cpu.h */
		queue_ends(tid, queued, now - (previous->se.sum_exec_runtime - queued->ran_ns));
	if (window_now() && state_left_in(ctx) == STATE_RUNNABLE)
		queue_begins(previous, now);
	return 0;
}

static __always_inline int woken(struct task_struct *task)
{
	__u32 tgid = task->tgid, tid = task->pid;

	if (!window_now() || !bpf_map_lookup_elem(&processes, &tgid))
		return 0;
	if (!bpf_map_lookup_elem(&queued_threads, &tid))
		queue_begins(task, bpf_ktime_get_ns());
	return 0;
}

SEC("tp_btf/sched_wakeup")
int run_queue_wakeup(__u64 *ctx)
{
	return woken((struct task_struct *)ctx[0]);
}

SEC("tp_btf/sched_wakeup_new")
int run_queue_wakeup_new(__u64 *ctx)
{
	return woken((struct task_struct *)ctx[0]);
}

#endif
