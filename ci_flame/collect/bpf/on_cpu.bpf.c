/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Samples a process tree by the CPU clock: Python stack, native leaf, kernel stack.
 *
 * Everything leaves through one ring buffer. Strings, code objects and stacks are sent when they
 * are first seen, samples hold only hashes of them. What could not be sent is counted and not
 * marked as seen, so that it is sent again with the next sample that needs it.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <linux/ptrace.h>
#include <linux/bpf_perf_event.h>
#include <bpf/bpf_helpers.h>

#include "python_walk.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define MAX_KERNEL_FRAMES 127
#define MAX_STRING_BYTES 8191

/* The four fields of the kernel that are read; libbpf moves the offsets to the running one. */
typedef struct {
	int counter;
} __attribute__((preserve_access_index)) atomic_t;

struct signal_struct {
	atomic_t live;
} __attribute__((preserve_access_index));

struct task_struct {
	int pid;
	int tgid;
	struct signal_struct *signal;
} __attribute__((preserve_access_index));

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
	struct py_layout python;
};

struct config {
	__u64 namespace_device;
	__u64 namespace_inode;
	__u32 root; /* in that PID namespace */
	__u32 root_found;
	__u64 next_image;
	struct process process; /* what the root process starts with */
};

/* From `flags` on, samples of one place are equal byte for byte: the collector counts those. */
struct sample {
	__u32 type;
	__u32 pid;
	__u64 time_ns;
	__u32 tid;
	__u32 flags;
	__u64 phase;
	__u64 image;
	__u64 stack;
	__u64 address; /* where user code was, or entered the kernel */
	__u64 kernel_frames;
	__u64 kernel[MAX_KERNEL_FRAMES + 1];
};

struct stack_record {
	__u32 type;
	__u32 depth;
	__u64 hash;
	__u64 id[PY_MAX_FRAMES];
};

struct code_record {
	__u32 type;
	__u32 line;
	__u64 id;
	__u64 qualname;
	__u64 file;
};

struct string_record {
	__u32 type;
	__u32 state; /* CPython's bit field: kind, compact, ASCII */
	__u64 id;
	__u64 length; /* in characters, of the whole string */
	__u8 bytes[MAX_STRING_BYTES + 1];
};

struct image_record {
	__u32 type;
	__u32 pid; /* in the root's PID namespace; 0: not known here */
	__u32 tgid; /* in the first PID namespace: the key of `processes` */
	__u32 unused;
	__u64 before;
	__u64 image;
};

struct scratch {
	struct py_stack stack;
	struct sample sample;
	struct stack_record stack_record;
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
MAP(threads, BPF_MAP_TYPE_LRU_HASH, __u32, __u64, 8192);
/* Entries that fall out are only sent once more. */
MAP(seen, BPF_MAP_TYPE_LRU_HASH, __u64, __u8, 131072);
MAP(scratches, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct scratch, 1);
MAP(strings, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct string_record, 1); /* 32 KiB at most each */
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

static __always_inline int seen_before(__u64 id)
{
	return bpf_map_lookup_elem(&seen, &id) != 0;
}

/* Send a record and mark it as seen; the collector polls, a wake-up would cost the target. */
static __always_inline int send_once(void *record, __u64 size, __u64 id)
{
	__u8 yes = 1;

	if (bpf_ringbuf_output(&ring, record, size, BPF_RB_NO_WAKEUP)) {
		count(COUNT_UNSENT);
		return -1;
	}
	bpf_map_update_elem(&seen, &id, &yes, BPF_ANY);
	return 0;
}

/* Return the process that runs here if it is of the tree, adopting the root when first met. */
static __always_inline struct process *current_process(__u32 tgid)
{
	struct process *process = bpf_map_lookup_elem(&processes, &tgid);
	struct bpf_pidns_info ids = {};
	struct config *config;
	__u32 zero = 0;

	if (process)
		return process;
	config = bpf_map_lookup_elem(&configs, &zero);
	if (!config || config->root_found)
		return 0;
	if (bpf_get_ns_current_pid_tgid(config->namespace_device, config->namespace_inode, &ids,
					sizeof(ids)))
		return 0;
	if (ids.tgid != config->root)
		return 0;
	config->root_found = 1;
	bpf_map_update_elem(&processes, &tgid, &config->process, BPF_ANY);
	return bpf_map_lookup_elem(&processes, &tgid);
}

static __always_inline __u64 new_image(void)
{
	__u32 zero = 0;
	struct config *config = bpf_map_lookup_elem(&configs, &zero);

	return config ? __sync_fetch_and_add(&config->next_image, 1) : 0;
}

/* Send a string the first time; return its id, or 0 if that failed. */
static __always_inline __u64 learn_string(struct py_walk *walk, __u64 address)
{
	const struct py_layout *layout = walk->layout;
	__u32 zero = 0;
	struct string_record *record = bpf_map_lookup_elem(&strings, &zero);
	struct py_string_head head;
	__u64 id = py_string_id(walk->image, address, &head), bytes;
	__u32 kind = (head.state >> 2) & 7;

	if (!id || !record)
		return 0;
	if (seen_before(id))
		return id;
	record->type = RECORD_STRING;
	record->state = head.state;
	record->id = id;
	record->length = head.length;
	bytes = head.length * kind;
	if (bytes > MAX_STRING_BYTES)
		bytes = MAX_STRING_BYTES;
	bytes &= MAX_STRING_BYTES;
	address += head.state & 0x40 ? layout->ascii_bytes : layout->compact_bytes;
	if (bpf_probe_read_user(record->bytes, bytes, (void *)address))
		return 0;
	if (send_once(record, __builtin_offsetof(struct string_record, bytes) + bytes, id))
		return 0;
	return id;
}

struct learn {
	struct py_walk *walk;
	struct scratch *scratch;
	__u64 failed;
};

static long learn_code(__u32 index, struct learn *learn)
{
	struct scratch *scratch = learn->scratch;
	struct py_walk *walk = learn->walk;
	const struct py_layout *layout = walk->layout;
	struct code_record record = {.type = RECORD_CODE};
	__u64 code, file, qualname;

	index &= PY_MAX_FRAMES - 1;
	record.id = scratch->stack.id[index];
	scratch->stack_record.id[index] = record.id;
	if (!record.id || seen_before(record.id))
		return 0;
	code = scratch->stack.code[index];
	file = py_read(code + layout->code_file);
	qualname = py_read(code + layout->code_qualname);
	bpf_probe_read_user(&record.line, sizeof(record.line), (void *)(code + layout->code_line));
	record.qualname = learn_string(walk, qualname);
	record.file = learn_string(walk, file);
	if (!record.qualname || !record.file || send_once(&record, sizeof(record), record.id))
		learn->failed = 1;
	return 0;
}

static __always_inline void learn_stack(struct scratch *scratch, struct py_walk *walk)
{
	struct stack_record *record = &scratch->stack_record;
	struct learn learn = {.walk = walk, .scratch = scratch};
	__u64 depth = walk->depth;

	if (seen_before(walk->hash))
		return;
	bpf_loop(walk->depth, learn_code, &learn, 0);
	if (depth > PY_MAX_FRAMES)
		depth = PY_MAX_FRAMES;
	depth &= 2 * PY_MAX_FRAMES - 1;
	record->type = RECORD_STACK;
	record->depth = depth;
	record->hash = walk->hash;
	if (learn.failed) {
		/* Sent, but not marked: the next sample tries what is missing again. */
		bpf_ringbuf_output(&ring, record,
				   __builtin_offsetof(struct stack_record, id) + 8 * depth,
				   BPF_RB_NO_WAKEUP);
		return;
	}
	send_once(record, __builtin_offsetof(struct stack_record, id) + 8 * depth, walk->hash);
}

static __always_inline __u64 find_thread(const struct py_layout *layout, __u32 tid,
					 __u64 native_id)
{
	__u64 *known = bpf_map_lookup_elem(&threads, &tid);
	__u64 thread;

	if (known && py_read(*known + layout->thread_native_id) == native_id)
		return *known;
	thread = py_find_thread(layout, native_id);
	if (thread)
		bpf_map_update_elem(&threads, &tid, &thread, BPF_ANY);
	return thread;
}

static __always_inline void walk_python(struct scratch *scratch, struct process *process,
					__u32 tid)
{
	struct sample *sample = &scratch->sample;
	struct py_walk walk = {
		.layout = &process->python,
		.stack = &scratch->stack,
		.image = process->image,
	};
	__u64 thread = find_thread(&process->python, tid, sample->tid);

	sample->flags |= PY_FLAG_PYTHON;
	if (!thread) {
		sample->flags |= PY_FLAG_NO_THREAD;
		return;
	}
	py_walk(&walk, thread);
	if (walk.flags & PY_FLAG_FAULT)
		count(COUNT_FAULTS);
	if (walk.flags & (PY_FLAG_TRUNCATED | PY_FLAG_FAULT))
		walk.hash = py_mix(walk.hash, walk.flags);
	sample->flags |= walk.flags;
	if (!walk.depth)
		return;
	sample->stack = walk.hash;
	learn_stack(scratch, &walk);
}

SEC("perf_event")
int on_sample(struct bpf_perf_event_data *ctx)
{
	__u64 both = bpf_get_current_pid_tgid(), *window, bytes;
	__u32 tgid = both >> 32, tid = (__u32)both, zero = 0;
	struct bpf_pidns_info ids = {};
	struct process *process;
	struct scratch *scratch;
	struct sample *sample;
	struct config *config;
	long got;

	window = bpf_map_lookup_elem(&phase, &zero);
	if (!window || !*window || !tgid)
		return 0;
	process = current_process(tgid);
	if (!process)
		return 0;
	scratch = bpf_map_lookup_elem(&scratches, &zero);
	config = bpf_map_lookup_elem(&configs, &zero);
	if (!scratch || !config)
		return 0;
	count(COUNT_TICKS);
	sample = &scratch->sample;
	sample->type = RECORD_SAMPLE;
	sample->flags = 0;
	sample->time_ns = bpf_ktime_get_ns();
	sample->phase = *window;
	sample->image = process->image;
	sample->pid = tgid;
	sample->tid = tid;
	sample->stack = 0;
	sample->kernel_frames = 0;
	if (!bpf_get_ns_current_pid_tgid(config->namespace_device, config->namespace_inode, &ids,
					 sizeof(ids))) {
		sample->pid = ids.tgid;
		sample->tid = ids.pid;
	}
	sample->address = ctx->regs.rip;
	if (!(ctx->regs.cs & 3)) {
		got = bpf_get_stack(ctx, sample->kernel, MAX_KERNEL_FRAMES * 8, 0);
		if (got > 0)
			sample->kernel_frames = got / 8;
		sample->address = 0;
		bpf_get_stack(ctx, &sample->address, 8, BPF_F_USER_STACK);
	}
	if (process->python.interpreters)
		walk_python(scratch, process, tid);
	bytes = (sample->kernel_frames & 127) * 8;
	if (bpf_ringbuf_output(&ring, sample, __builtin_offsetof(struct sample, kernel) + bytes,
			       BPF_RB_NO_WAKEUP))
		count(COUNT_LOST);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int on_fork(__u64 *ctx)
{
	struct task_struct *child = (struct task_struct *)ctx[1];
	struct image_record record = {.type = RECORD_FORK};
	struct process *parent, copy;

	if (child->pid != child->tgid)
		return 0; /* a thread */
	parent = current_process(bpf_get_current_pid_tgid() >> 32);
	if (!parent)
		return 0;
	copy = *parent;
	copy.image = new_image();
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
	__u32 tgid = both >> 32, tid = (__u32)both, zero = 0;
	struct image_record record = {.type = RECORD_EXEC};
	struct config *config = bpf_map_lookup_elem(&configs, &zero);
	struct process *process = current_process(tgid);
	struct bpf_pidns_info ids = {};

	if (!process || !config)
		return 0;
	bpf_map_delete_elem(&threads, &tid);
	if (!bpf_get_ns_current_pid_tgid(config->namespace_device, config->namespace_inode, &ids,
					 sizeof(ids)))
		record.pid = ids.tgid;
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
	process = bpf_map_lookup_elem(&processes, &record.tgid);
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
