/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Names and stacks of Python, sent once: samples and waits hold only hashes of them.
 *
 * What could not be sent is not marked as seen, so that it is sent again with the next sample or
 * wait that needs it.
 */
#ifndef CI_FLAME_LEARN_H
#define CI_FLAME_LEARN_H

#include "tree.h"

#define MAX_STRING_BYTES 8191

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

/* What one look at a thread needs beside the BPF stack's 512 bytes. */
struct python_scratch {
	struct py_stack stack;
	struct stack_record record;
	__u32 learnt; /* how many of its code objects have been looked at */
	__u32 failed;
};

/* Entries that fall out are only sent once more. */
MAP(seen, BPF_MAP_TYPE_LRU_HASH, __u64, __u8, 131072);
MAP(python_scratches, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct python_scratch, 1);
MAP(strings, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct string_record, 1); /* 32 KiB at most each */

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

/* Send a string the first time; return its id, or 0 if that failed. */
static __always_inline __u64 learn_string(struct py_walk *walk, __u64 address)
{
	const struct py_layout *layout = walk->layout;
	__u32 zero = 0;
	struct string_record *record = bpf_map_lookup_elem(&strings, &zero);
	struct py_string_head head;
	__u64 id = py_string_id(walk->stack->image, address, &head), bytes;
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
	struct py_walk walk;
	struct python_scratch *scratch;
};

PY_STEP long learn_code(__u32 index, struct learn *learn)
{
	struct python_scratch *scratch = learn->scratch;
	struct py_walk *walk = &learn->walk;
	const struct py_layout *layout = walk->layout;
	struct code_record record = {.type = RECORD_CODE};
	__u64 code, file, qualname;

	index = (index + scratch->learnt) & (PY_MAX_FRAMES - 1);
	record.id = scratch->stack.id[index];
	scratch->record.id[index] = record.id;
	if (!record.id || seen_before(record.id))
		return 0;
	code = scratch->stack.code[index];
	file = py_read(code + layout->code_file);
	qualname = py_read(code + layout->code_qualname);
	bpf_probe_read_user(&record.line, sizeof(record.line), (void *)(code + layout->code_line));
	record.qualname = learn_string(walk, qualname);
	record.file = learn_string(walk, file);
	if (!record.qualname || !record.file || send_once(&record, sizeof(record), record.id))
		scratch->failed = 1;
	return 0;
}

/* Send the stack whose code objects have been looked at. */
static __always_inline void send_stack(struct python_scratch *scratch)
{
	struct stack_record *record = &scratch->record;
	__u64 depth = scratch->stack.depth, hash = scratch->stack.hash;

	if (depth > PY_MAX_FRAMES)
		depth = PY_MAX_FRAMES;
	depth &= 2 * PY_MAX_FRAMES - 1;
	record->type = RECORD_STACK;
	record->depth = depth;
	record->hash = hash;
	if (scratch->failed) {
		/* Sent, but not marked: the next sample tries what is missing again. */
		bpf_ringbuf_output(&ring, record,
				   __builtin_offsetof(struct stack_record, id) + 8 * depth,
				   BPF_RB_NO_WAKEUP);
		return;
	}
	send_once(record, __builtin_offsetof(struct stack_record, id) + 8 * depth, hash);
}

#ifdef CI_FLAME_BCC

/* Plain loops grow too long for the verifier: a program of its own learns, a part at a time. */
/* learn_now() learns the stack that walk_python() has left, if any: the caller's last act. */
#define LEARN_AT_ONCE 128
#define LEARN_PROGRAM 0

BPF_PROG_ARRAY(parts, 1);

static __always_inline void learn_stack(struct python_scratch *scratch, struct py_walk *walk)
{
	scratch->learnt = seen_before(scratch->stack.hash) ? PY_MAX_FRAMES : 0;
	scratch->failed = 0;
}

/* Learn the stack that walk_python() has left, if it left one; the caller's last act. */
static __always_inline void learn_now(void *ctx)
{
	__u32 zero = 0;
	struct python_scratch *scratch = bpf_map_lookup_elem(&python_scratches, &zero);

	if (scratch && scratch->learnt < scratch->stack.depth)
		parts.call(ctx, LEARN_PROGRAM);
}

int on_learn(struct bpf_perf_event_data *ctx)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32, zero = 0;
	struct process *process = bpf_map_lookup_elem(&processes, &tgid);
	struct python_scratch *scratch = bpf_map_lookup_elem(&python_scratches, &zero);
	struct learn learn = {};

	if (!process || !scratch)
		return 0;
	learn.walk.layout = &process->python;
	learn.walk.stack = &scratch->stack;
	learn.scratch = scratch;
	PY_LOOP(scratch->stack.depth - scratch->learnt, LEARN_AT_ONCE, learn_code, &learn);
	scratch->learnt += LEARN_AT_ONCE;
	if (scratch->learnt < scratch->stack.depth)
		parts.call(ctx, LEARN_PROGRAM);
	send_stack(scratch);
	return 0;
}

#else

static __always_inline void learn_now(void *ctx)
{
}

static __always_inline void learn_stack(struct python_scratch *scratch, struct py_walk *walk)
{
	struct learn learn = {.walk = *walk, .scratch = scratch};

	if (seen_before(scratch->stack.hash))
		return;
	scratch->learnt = 0;
	scratch->failed = 0;
	PY_LOOP(scratch->stack.depth, PY_MAX_FRAMES, learn_code, &learn);
	send_stack(scratch);
}

#endif

static __always_inline __u64 find_thread(struct py_walk *walk, __u32 tid, __u64 native_id)
{
	__u64 *known = bpf_map_lookup_elem(&threads, &tid);
	__u64 thread;

	if (known && py_read(*known + walk->layout->thread_native_id) == native_id)
		return *known;
	thread = py_find_thread(walk, native_id);
	if (thread)
		bpf_map_update_elem(&threads, &tid, &thread, BPF_ANY);
	return thread;
}

/* Walk the stack of the thread that runs here; return its hash, 0 where it has no Python frame.
 * `tid` is the kernel's number of it, `native_id` the one that Python knows. */
static __always_inline __u64 walk_python(struct process *process, __u32 tid, __u64 native_id,
					 __u32 *flags)
{
	__u32 zero = 0;
	struct python_scratch *scratch = bpf_map_lookup_elem(&python_scratches, &zero);
	struct py_walk walk = {.layout = &process->python};
	struct py_stack *stack;
	__u64 thread;

	if (!scratch)
		return 0;
	stack = walk.stack = &scratch->stack;
	stack->image = process->image;
	*flags |= PY_FLAG_PYTHON;
	thread = find_thread(&walk, tid, native_id);
	if (!thread) {
		*flags |= PY_FLAG_NO_THREAD;
		return 0;
	}
	py_walk(&walk, thread);
	if (stack->flags & PY_FLAG_FAULT)
		count(COUNT_FAULTS);
	if (stack->flags & (PY_FLAG_TRUNCATED | PY_FLAG_FAULT))
		stack->hash = py_mix(stack->hash, stack->flags);
	*flags |= stack->flags;
	if (!stack->depth)
		return 0;
	learn_stack(scratch, &walk);
	return stack->hash;
}

#endif
