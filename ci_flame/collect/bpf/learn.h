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
	struct python_scratch *scratch;
	__u64 failed;
};

static long learn_code(__u32 index, struct learn *learn)
{
	struct python_scratch *scratch = learn->scratch;
	struct py_walk *walk = learn->walk;
	const struct py_layout *layout = walk->layout;
	struct code_record record = {.type = RECORD_CODE};
	__u64 code, file, qualname;

	index &= PY_MAX_FRAMES - 1;
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
		learn->failed = 1;
	return 0;
}

static __always_inline void learn_stack(struct python_scratch *scratch, struct py_walk *walk)
{
	struct stack_record *record = &scratch->record;
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

/* Walk the stack of the thread that runs here; return its hash, 0 where it has no Python frame.
 * `tid` is the kernel's number of it, `native_id` the one that Python knows. */
static __always_inline __u64 walk_python(struct process *process, __u32 tid, __u64 native_id,
					 __u32 *flags)
{
	__u32 zero = 0;
	struct python_scratch *scratch = bpf_map_lookup_elem(&python_scratches, &zero);
	struct py_walk walk = {.layout = &process->python, .image = process->image};
	__u64 thread;

	if (!scratch)
		return 0;
	walk.stack = &scratch->stack;
	*flags |= PY_FLAG_PYTHON;
	thread = find_thread(&process->python, tid, native_id);
	if (!thread) {
		*flags |= PY_FLAG_NO_THREAD;
		return 0;
	}
	py_walk(&walk, thread);
	if (walk.flags & PY_FLAG_FAULT)
		count(COUNT_FAULTS);
	if (walk.flags & (PY_FLAG_TRUNCATED | PY_FLAG_FAULT))
		walk.hash = py_mix(walk.hash, walk.flags);
	*flags |= walk.flags;
	if (!walk.depth)
		return 0;
	learn_stack(scratch, &walk);
	return walk.hash;
}

#endif
