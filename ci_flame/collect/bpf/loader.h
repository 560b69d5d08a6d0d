/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What libbpf and bcc want to be told in different words: maps, and fields of kernel structures.
 *
 * libbpf moves offsets to the running kernel's when it loads the committed object. bcc compiles
 * against headers that may be another kernel's, so that no structure is taken from them: the
 * offsets come as macros (kernel_types.py).
 */
#ifndef CI_FLAME_LOADER_H
#define CI_FLAME_LOADER_H

#ifdef CI_FLAME_BCC

#include <uapi/linux/bpf.h>
#include <uapi/linux/bpf_perf_event.h>

#define PY_PLAIN_LOOPS
#define SEC(name)

#define KIND_BPF_MAP_TYPE_ARRAY "array"
#define KIND_BPF_MAP_TYPE_HASH "hash"
#define KIND_BPF_MAP_TYPE_LRU_HASH "lru_hash"
#define KIND_BPF_MAP_TYPE_PERCPU_ARRAY "percpu_array"
#define MAP(name, kind, key_type, value_type, entries)                                             \
	BPF_TABLE(KIND_##kind, key_type, value_type, name, entries)
#define MAPPABLE(name, value_type)                                                                 \
	BPF_F_TABLE("array", __u32, value_type, name, 1, BPF_F_MMAPABLE)
#define RING(name, bytes) BPF_RINGBUF_OUTPUT(name, (bytes) >> 12)

#define KERNEL_OFFSET(structure, member) OFFSET_##structure##_##member
#define KERNEL_SIZE(structure) SIZE_##structure
#define KERNEL_ADDRESS(pointer, structure, member) ((pointer) + KERNEL_OFFSET(structure, member))

#define USER_ADDRESS(ctx) PT_REGS_IP(&(ctx)->regs)
#define IN_KERNEL(ctx) (!((ctx)->regs.cs & 3))

#else

#include <linux/bpf.h>
#include <linux/types.h>
#include <linux/ptrace.h>
#include <linux/bpf_perf_event.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

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

struct sched_entity {
	__u64 sum_exec_runtime; /* CPU time, in ns */
} __attribute__((preserve_access_index));

struct task_struct {
	struct sched_entity se;
	int pid;
	int tgid;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	struct signal_struct *signal;
} __attribute__((preserve_access_index));

#define MAP(name, kind, key_type, value_type, entries)                                             \
	struct {                                                                                   \
		__uint(type, kind);                                                                \
		__type(key, key_type);                                                             \
		__type(value, value_type);                                                         \
		__uint(max_entries, entries);                                                      \
	} name SEC(".maps")
#define MAPPABLE(name, value_type)                                                                 \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                  \
		__uint(map_flags, BPF_F_MMAPABLE);                                                 \
		__type(key, __u32);                                                                \
		__type(value, value_type);                                                         \
		__uint(max_entries, 1);                                                            \
	} name SEC(".maps")
#define RING(name, bytes)                                                                          \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_RINGBUF);                                                \
		__uint(max_entries, bytes);                                                        \
	} name SEC(".maps")

#define KERNEL_OFFSET(structure, member) bpf_core_field_offset(struct structure, member)
#define KERNEL_SIZE(structure) bpf_core_type_size(struct structure)
#define KERNEL_ADDRESS(pointer, structure, member)                                                 \
	__builtin_preserve_access_index(&((struct structure *)(pointer))->member)

#define USER_ADDRESS(ctx) ((ctx)->regs.rip)
#define IN_KERNEL(ctx) (!((ctx)->regs.cs & 3))

#endif

/* Read one field through a pointer that the verifier knows nothing of. */
#define KERNEL_READ(type, pointer, structure, member)                                              \
	({                                                                                         \
		__u64 from_ = (__u64)(pointer);                                                    \
		type value_ = 0;                                                                   \
		bpf_probe_read_kernel(&value_, sizeof(value_),                                     \
				      (void *)KERNEL_ADDRESS(from_, structure, member));           \
		value_;                                                                            \
	})

#endif
