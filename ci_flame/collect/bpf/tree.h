/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The process tree that is recorded: who belongs to it, in which window, and how records leave.
 *
 * Everything leaves through one ring buffer. What could not be sent is counted, never silent.
 */
#ifndef CI_FLAME_TREE_H
#define CI_FLAME_TREE_H

#include "loader.h"
#include "python_walk.h"

#define MAX_PID_LEVELS 32 /* the kernel's own limit of PID namespaces inside each other */

enum record_type {
	RECORD_SAMPLE = 1,
	RECORD_STACK = 2,
	RECORD_CODE = 3,
	RECORD_STRING = 4,
	RECORD_FORK = 5,
	RECORD_EXEC = 6,
	RECORD_EXIT = 7,
	RECORD_KERNEL_STACK = 8,
	RECORD_WAIT = 9,
};

enum counter {
	COUNT_TICKS = 0, /* samples of the tree inside a window */
	COUNT_LOST = 1,  /* of them, those that the ring buffer had no room for */
	COUNT_UNSENT = 2, /* strings, code objects and stacks that it had no room for */
	COUNT_FAULTS = 3,
	COUNT_UNTRACKED = 4, /* children that did not fit into the map */
	COUNT_LOST_WAITS = 5, /* waits that neither map nor ring buffer had room for */
	COUNT_SHORT_WAITS = 6, /* waits below the shortest that is kept */
	COUNT_MISSED_SWITCHES = 7, /* returns to a CPU that the kernel did not report */
	COUNT_LOST_LATENCIES = 8, /* latencies whose beginning or device no map had room for */
	COUNTERS = 16,
};

/* One program image of one process: changes with fork and with exec. */
struct process {
	__u64 image;
	__u32 pid; /* in the collector's PID namespace; 0: not known there */
	__u32 unused;
	struct py_layout python;
};

struct config {
	__u64 namespace_inode; /* the collector's PID namespace */
	__u64 waiting; /* how many entries `waiting` had; 0 saves the look there */
};

struct image_record {
	__u32 type;
	__u32 pid; /* in the collector's PID namespace; 0: not known there */
	__u32 tgid; /* in the first PID namespace: the key of `processes` */
	__u32 unused;
	__u64 before;
	__u64 image;
};

MAP(configs, BPF_MAP_TYPE_ARRAY, __u32, struct config, 1);
MAP(processes, BPF_MAP_TYPE_HASH, __u32, struct process, 8192);
/* The roots of the tree that have not run yet, by their number in the collector's PID namespace. */
MAP(waiting, BPF_MAP_TYPE_HASH, __u32, struct process, 8192);
MAP(threads, BPF_MAP_TYPE_LRU_HASH, __u32, __u64, 8192);
MAP(counters, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, COUNTERS);

/* The phase word and its clock, written by the target (collector.py) in an order that keeps them
 * true for whoever reads them in the order given here: phase, stopped_ns, closed_ns. Of the clock
 * only off_cpu.h takes notice, and only for its mode it is kept. */
struct window {
	__u64 phase;      /* 0: no window is open */
	__u64 closed_ns;  /* how long the windows of this phase were closed since the first opened */
	__u64 stopped_ns; /* the phase's clock while its window is closed; 0: it runs */
	__u64 last;       /* the phase, also while its window is closed; 0: none will open again */
};

MAPPABLE(phase, struct window);
RING(ring, 8 << 20);

static __always_inline void count(__u32 which)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &which);

	if (value)
		*value += 1;
}

/* Return the address of a task's number in the PID namespace of this level. */
static __always_inline __u64 number_at(__u64 pid, __u32 level)
{
	return pid + KERNEL_OFFSET(pid, numbers) + level * KERNEL_SIZE(upid);
}

/* Return the number that a task itself knows as its own: in its own, innermost PID namespace. */
static __always_inline __u32 own_number(__u64 task)
{
	__u64 pid = KERNEL_READ(__u64, task, task_struct, thread_pid);

	if (!pid)
		return 0; /* it has ended */
	return KERNEL_READ(__u32, number_at(pid, KERNEL_READ(__u32, pid, pid, level)), upid, nr);
}

/* Return the number of a task's process in the collector's PID namespace; 0 where it has none. */
static __always_inline __u32 number_here(__u64 task, const struct config *config)
{
	__u64 pid = KERNEL_READ(__u64, task, task_struct, group_leader), number, namespace;
	__u32 level, deepest;

	pid = KERNEL_READ(__u64, pid, task_struct, thread_pid);
	if (!pid)
		return 0;
	deepest = KERNEL_READ(__u32, pid, pid, level);
	for (level = 0; level <= MAX_PID_LEVELS; level++) {
		if (level > deepest)
			return 0;
		number = number_at(pid, level);
		namespace = KERNEL_READ(__u64, number, upid, ns) + KERNEL_OFFSET(pid_namespace, ns);
		if (KERNEL_READ(__u32, namespace, ns_common, inum) == config->namespace_inode)
			return KERNEL_READ(__u32, number, upid, nr);
	}
	return 0;
}

/* Return the process that runs here if it is of the tree, adopting a root when first met. */
static __always_inline struct process *current_process(__u32 tgid)
{
	struct process *process = bpf_map_lookup_elem(&processes, &tgid), *root;
	struct config *config;
	__u32 zero = 0, number;

	if (process)
		return process;
	config = bpf_map_lookup_elem(&configs, &zero);
	if (!config || !config->waiting)
		return 0;
	number = number_here(bpf_get_current_task(), config);
	root = bpf_map_lookup_elem(&waiting, &number);
	if (!root)
		return 0;
	/* Another thread of it may do the same on another CPU: only one of them deletes. */
	bpf_map_update_elem(&processes, &tgid, root, BPF_NOEXIST);
	if (!bpf_map_delete_elem(&waiting, &number))
		__sync_fetch_and_add(&config->waiting, -1);
	return bpf_map_lookup_elem(&processes, &tgid);
}

/* Return a number that no other image has: of a moment on a CPU. User space gives small ones. */
static __always_inline __u64 new_image(void)
{
	return bpf_ktime_get_ns() << 10 | (bpf_get_smp_processor_id() & 1023);
}

SEC("tp_btf/sched_process_fork")
int on_fork(__u64 *ctx)
{
	__u64 child = ctx[1];
	struct image_record record = {.type = RECORD_FORK};
	struct config *config;
	struct process *parent, copy;
	__u32 tgid = KERNEL_READ(__u32, child, task_struct, tgid), zero = 0;

	if (KERNEL_READ(__u32, child, task_struct, pid) != tgid)
		return 0; /* a thread */
	parent = current_process(bpf_get_current_pid_tgid() >> 32);
	config = bpf_map_lookup_elem(&configs, &zero);
	if (!parent || !config)
		return 0;
	copy = *parent;
	copy.image = new_image();
	copy.pid = number_here(child, config);
	record.pid = copy.pid;
	record.tgid = tgid;
	record.before = parent->image;
	record.image = copy.image;
	if (bpf_map_update_elem(&processes, &record.tgid, &copy, BPF_ANY)) {
		count(COUNT_UNTRACKED);
		return 0;
	}
	if (bpf_ringbuf_output(&ring, &record, sizeof(record), BPF_RB_NO_WAKEUP))
		count(COUNT_UNSENT);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int on_exec(__u64 *ctx)
{
	__u64 both = bpf_get_current_pid_tgid();
	__u32 tgid = both >> 32, tid = (__u32)both;
	struct image_record record = {.type = RECORD_EXEC};
	struct process *process = current_process(tgid);

	if (!process)
		return 0;
	bpf_map_delete_elem(&threads, &tid);
	record.pid = process->pid;
	record.tgid = tgid;
	record.before = process->image;
	record.image = new_image();
	process->python.interpreters = 0;
	process->image = record.image;
	/* The collector must look for an interpreter now: this one may wake it. */
	if (bpf_ringbuf_output(&ring, &record, sizeof(record), BPF_RB_FORCE_WAKEUP))
		count(COUNT_UNSENT);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int on_exit(__u64 *ctx)
{
	__u64 both = bpf_get_current_pid_tgid(), signals;
	struct image_record record = {.type = RECORD_EXIT};
	struct process *process;
	__u32 tid = (__u32)both;

	record.tgid = both >> 32;
	/* A root that never ran must not wait on: its number may become another's. */
	process = current_process(record.tgid);
	if (!process)
		return 0;
	bpf_map_delete_elem(&threads, &tid);
	signals = KERNEL_READ(__u64, ctx[0], task_struct, signal);
	if (KERNEL_READ(__u32, signals, signal_struct, live))
		return 0; /* other threads go on */
	record.before = process->image;
	bpf_map_delete_elem(&processes, &record.tgid);
	if (bpf_ringbuf_output(&ring, &record, sizeof(record), BPF_RB_NO_WAKEUP))
		count(COUNT_UNSENT);
	return 0;
}

#endif
