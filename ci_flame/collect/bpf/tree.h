/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The process tree that is recorded: who belongs to it, in which window, and how records leave.
 *
 * Everything leaves through one ring buffer. What could not be sent is counted, never silent.
 */
#ifndef CI_FLAME_TREE_H
#define CI_FLAME_TREE_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "python_walk.h"

/* The fields of the kernel that are read; libbpf moves the offsets to the running one. */
typedef struct {
	int counter;
} __attribute__((preserve_access_index)) atomic_t;

struct signal_struct {
	atomic_t live;
} __attribute__((preserve_access_index));

struct ns_common {
	unsigned int inum;
} __attribute__((preserve_access_index));

struct pid_namespace {
	struct ns_common ns;
} __attribute__((preserve_access_index));

struct upid {
	int nr;
	struct pid_namespace *ns;
} __attribute__((preserve_access_index));

struct pid {
	unsigned int level;
	struct upid numbers[1];
} __attribute__((preserve_access_index));

struct task_struct {
	int pid;
	int tgid;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	struct signal_struct *signal;
} __attribute__((preserve_access_index));

/* Read one field through a pointer that the verifier knows nothing of. */
#define KERNEL_READ(type, pointer, structure, member)                                              \
	({                                                                                         \
		__u64 from_ = (__u64)(pointer);                                                    \
		type value_ = 0;                                                                   \
		bpf_core_read(&value_, sizeof(value_), &((struct structure *)from_)->member);      \
		value_;                                                                            \
	})
#define KERNEL_OFFSET(structure, member) bpf_core_field_offset(struct structure, member)
#define KERNEL_SIZE(structure) bpf_core_type_size(struct structure)

#define MAX_PID_LEVELS 32 /* the kernel's own limit of PID namespaces inside each other */

enum record_type {
	RECORD_SAMPLE = 1,
	RECORD_STACK = 2,
	RECORD_CODE = 3,
	RECORD_STRING = 4,
	RECORD_FORK = 5,
	RECORD_EXEC = 6,
	RECORD_EXIT = 7,
};

enum counter {
	COUNT_TICKS = 0, /* samples of the tree inside a window */
	COUNT_LOST = 1,  /* of them, those that the ring buffer had no room for */
	COUNT_UNSENT = 2, /* strings, code objects and stacks that it had no room for */
	COUNT_FAULTS = 3,
	COUNT_UNTRACKED = 4, /* children that did not fit into the map */
	COUNTERS = 8,
};

/* One program image of one process: changes with fork and with exec. */
struct process {
	__u64 image;
	__u32 pid; /* in the collector's PID namespace; 0: not known there */
	__u32 unused;
	struct py_layout python;
};

struct config {
	__u64 namespace_device;
	__u64 namespace_inode; /* the collector's PID namespace */
	__u64 waiting; /* how many entries `waiting` had; 0 saves the look there */
	__u64 next_image;
};

struct image_record {
	__u32 type;
	__u32 pid; /* in the collector's PID namespace; 0: not known there */
	__u32 tgid; /* in the first PID namespace: the key of `processes` */
	__u32 unused;
	__u64 before;
	__u64 image;
};

#define MAP(name, kind, key_type, value_type, entries)                                             \
	struct {                                                                                   \
		__uint(type, kind);                                                                \
		__type(key, key_type);                                                             \
		__type(value, value_type);                                                         \
		__uint(max_entries, entries);                                                      \
	} name SEC(".maps")

MAP(configs, BPF_MAP_TYPE_ARRAY, __u32, struct config, 1);
MAP(processes, BPF_MAP_TYPE_HASH, __u32, struct process, 8192);
/* The roots of the tree that have not run yet, by their number in the collector's PID namespace. */
MAP(waiting, BPF_MAP_TYPE_HASH, __u32, struct process, 8192);
MAP(threads, BPF_MAP_TYPE_LRU_HASH, __u32, __u64, 8192);
MAP(counters, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, COUNTERS);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} phase SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} ring SEC(".maps");

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
	__u64 pid = KERNEL_READ(__u64, task, task_struct, group_leader), number;
	__u32 level, deepest;

	pid = KERNEL_READ(__u64, pid, task_struct, thread_pid);
	if (!pid)
		return 0;
	deepest = KERNEL_READ(__u32, pid, pid, level);
	for (level = 0; level <= MAX_PID_LEVELS; level++) {
		if (level > deepest)
			return 0;
		number = number_at(pid, level);
		if (KERNEL_READ(__u32, KERNEL_READ(__u64, number, upid, ns), pid_namespace, ns.inum) ==
		    (__u32)config->namespace_inode)
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

static __always_inline __u64 new_image(void)
{
	__u32 zero = 0;
	struct config *config = bpf_map_lookup_elem(&configs, &zero);

	return config ? __sync_fetch_and_add(&config->next_image, 1) : 0;
}

SEC("tp_btf/sched_process_fork")
int on_fork(__u64 *ctx)
{
	struct task_struct *child = (struct task_struct *)ctx[1];
	struct image_record record = {.type = RECORD_FORK};
	struct config *config;
	struct process *parent, copy;
	__u32 zero = 0;

	if (child->pid != child->tgid)
		return 0; /* a thread */
	parent = current_process(bpf_get_current_pid_tgid() >> 32);
	config = bpf_map_lookup_elem(&configs, &zero);
	if (!parent || !config)
		return 0;
	copy = *parent;
	copy.image = new_image();
	copy.pid = number_here((__u64)child, config);
	record.pid = copy.pid;
	record.tgid = child->tgid;
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
	struct task_struct *task = (struct task_struct *)ctx[0];
	struct image_record record = {.type = RECORD_EXIT};
	struct process *process;
	__u32 tid = task->pid;

	record.tgid = task->tgid;
	/* A root that never ran must not wait on: its number may become another's. */
	process = current_process(record.tgid);
	if (!process)
		return 0;
	bpf_map_delete_elem(&threads, &tid);
	if (task->signal->live.counter)
		return 0; /* other threads go on */
	record.before = process->image;
	bpf_map_delete_elem(&processes, &record.tgid);
	if (bpf_ringbuf_output(&ring, &record, sizeof(record), BPF_RB_NO_WAKEUP))
		count(COUNT_UNSENT);
	return 0;
}

#endif
