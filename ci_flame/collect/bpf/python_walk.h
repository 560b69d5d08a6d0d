/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Walks the frames of the CPython thread that runs on this CPU, innermost first.
 *
 * Nothing here knows a kernel structure or a CPython version: user space tells the offsets
 * (cpython.py) and the address of the runtime. Every read is of user memory and may fail when
 * a page is not there; a failed read ends the walk and is flagged, never guessed over.
 *
 * The thread is found by its native id in the interpreters' lists of threads, so that no
 * thread-local storage, and with it no layout of task_struct or libpthread, is needed.
 */
#ifndef CI_FLAME_PYTHON_WALK_H
#define CI_FLAME_PYTHON_WALK_H

#ifndef PY_MAX_FRAMES
#define PY_MAX_FRAMES 1024 /* C's entry frames, which stand between Python's, included */
#endif
#ifndef PY_MAX_THREADS
#define PY_MAX_THREADS 1024
#endif
#define PY_NO_FIELD 0xffffffffU

/* Bytes copied at once of a frame, and of a code object from its first field that is needed: what
 * a copy costs is the cache lines that it touches. No CPython has smaller structures. */
#define PY_FRAME_BYTES 80
#define PY_CODE_BYTES 72

/* A code object's address can be used again, with strings at the addresses of freed ones. So its
 * name's length and hash belong to its id; but each is a cache line more, and code that comes and
 * goes stands near the leaf: only this many innermost frames are told apart by content. */
#define PY_CHECKED_FRAMES 8

#define PY_FLAG_TRUNCATED 1U /* more than PY_MAX_FRAMES slots */
#define PY_FLAG_FAULT 2U     /* a read failed: the outermost frames are missing */
#define PY_FLAG_NO_THREAD 4U /* no thread of this native id: not a Python thread */
#define PY_FLAG_NO_FRAME 8U  /* the thread runs no Python code now */
#define PY_FLAG_GC 16U       /* its interpreter is collecting garbage */
#define PY_FLAG_PYTHON 32U   /* the process is known to be Python */

struct py_layout {
	__u64 interpreters; /* address of _PyRuntime.interpreters.head; 0: not (yet) Python */
	__u32 interpreter_next;
	__u32 interpreter_threads;
	__u32 interpreter_collecting; /* PY_NO_FIELD: unknown */
	__u32 thread_next;
	__u32 thread_interpreter;
	__u32 thread_native_id;
	__u32 thread_cframe; /* PY_NO_FIELD: thread_frame is in the thread itself (3.13) */
	__u32 thread_frame;
	__u32 frame_code;
	__u32 frame_previous;
	__u32 frame_owner;
	__u32 owner_not_python; /* this owner and higher ones are C's entry frames */
	__u32 code_start; /* of the next three, which are told from the object's beginning */
	__u32 code_file;
	__u32 code_qualname;
	__u32 code_line;
	__u32 ascii_bytes;   /* where the characters of an ASCII string begin */
	__u32 compact_bytes; /* where those of any other string begin */
};

/*
 * What changes while a walk goes on lies in a map: a verifier that follows plain loops keeps no
 * account of its values, and finds that one pass leaves what the pass before left.
 */
struct py_stack {
	__u64 id[PY_MAX_FRAMES];
	__u64 code[PY_MAX_FRAMES];
	__u8 frame[PY_FRAME_BYTES + 48]; /* masked offsets stay below 120 + 8 */
	__u8 object[PY_CODE_BYTES + 56]; /* and these too */
	__u64 image; /* mixed into every id: what another process has learnt says nothing here */
	__u64 next;
	__u64 outer; /* 3.11, 3.12: the frame that called the interpreter's loop; else 0 */
	__u64 code_type; /* and the type of its code object */
	__u64 hash;
	__u32 depth;
	__u32 flags;
	__u64 interpreter;
	__u64 thread;
	__u64 native_id;
	__u64 found;
};

/* What stays the same. */
struct py_walk {
	const struct py_layout *layout;
	struct py_stack *stack;
};

struct py_string_head {
	__u64 length;
	__u64 hash;
	__u32 state;
	__u32 padding;
};

/*
 * Call step(index, context) up to `most` times, `limit` being a constant above it, until it returns
 * something else than 0. Kernels before 5.17 and loaders that know no callbacks want a plain loop,
 * of which the verifier follows every pass.
 */
#ifdef PY_PLAIN_LOOPS
#define PY_STEP static __always_inline
#define PY_LOOP(most, limit, step, context)                                                        \
	do {                                                                                       \
		for (__u32 index_ = 0; index_ < (limit); index_++) {                               \
			if (index_ >= (most) || step(index_, context))                             \
				break;                                                             \
		}                                                                                  \
	} while (0)
#else
#define PY_STEP static
#define PY_LOOP(most, limit, step, context) bpf_loop(most, step, context, 0)
#endif

static __always_inline __u64 py_read(__u64 address)
{
	__u64 value = 0;

	bpf_probe_read_user(&value, sizeof(value), (void *)address);
	return value;
}

static __always_inline __u64 py_mix(__u64 hash, __u64 value)
{
	hash = (hash ^ value) * 0x9e3779b97f4a7c15ULL;
	return hash ^ (hash >> 29);
}

#define PY_FIELD(type, buffer, offset, mask) (*(type *)((buffer) + ((offset) & (mask))))

/* A string is known by where it lies and by its length and hash, which is of its content: a new
 * string at the address of a freed one is another string. */
static __always_inline __u64 py_string_id(__u64 image, __u64 address, struct py_string_head *head)
{
	__builtin_memset(head, 0, sizeof(*head));
	if (bpf_probe_read_user(head, 20, (void *)(address + 16)))
		return 0;
	return py_mix(py_mix(py_mix(image, address), head->length), head->hash);
}

PY_STEP long py_search_step(__u32 index, struct py_walk *walk)
{
	const struct py_layout *layout = walk->layout;
	struct py_stack *stack = walk->stack;

	if (!stack->thread) {
		stack->interpreter = py_read(stack->interpreter + layout->interpreter_next);
		if (!stack->interpreter)
			return 1;
		stack->thread = py_read(stack->interpreter + layout->interpreter_threads);
		return 0;
	}
	if (py_read(stack->thread + layout->thread_native_id) == stack->native_id)
		stack->found = stack->thread;
	stack->thread = py_read(stack->thread + layout->thread_next);
	return 0;
}

/* Return the thread state of the thread with this native id, or 0. A thread has one in each
 * interpreter that it has entered; the list begins with the newest interpreter, so that the last
 * found is of the one that the thread came from. */
static __always_inline __u64 py_find_thread(struct py_walk *walk, __u64 native_id)
{
	const struct py_layout *layout = walk->layout;
	struct py_stack *stack = walk->stack;

	stack->native_id = native_id;
	stack->interpreter = py_read(layout->interpreters);
	if (!stack->interpreter)
		return 0;
	stack->thread = py_read(stack->interpreter + layout->interpreter_threads);
	stack->found = 0;
	PY_LOOP(PY_MAX_THREADS, PY_MAX_THREADS, py_search_step, walk);
	return stack->found;
}

/*
 * 3.11 and 3.12 enter their loop by linking a C structure whose current frame is not set yet: what
 * is there may be left over from an earlier call, or be anything. So a first frame that cannot be
 * read, has no code object or is C's entry frame, is passed over: the walk goes on with the caller.
 */
static __always_inline long py_walk_outer(__u32 index, struct py_stack *stack)
{
	if (index || !stack->outer) {
		stack->flags |= PY_FLAG_FAULT;
		return 1;
	}
	stack->next = stack->outer;
	return 0;
}

PY_STEP long py_walk_step(__u32 index, struct py_walk *walk)
{
	const struct py_layout *layout = walk->layout;
	struct py_stack *stack = walk->stack;
	struct py_string_head head;
	__u64 code, file, qualname, id;
	__u32 line;
	__u8 owner;

	if (!stack->next)
		return 1;
	/* The loop's index is the only index: a counter of our own would have the verifier follow
	 * every value of it. A slot without a Python frame stays 0. */
	index &= PY_MAX_FRAMES - 1;
	stack->depth = index + 1;
	stack->id[index] = 0;
	if (bpf_probe_read_user(stack->frame, PY_FRAME_BYTES, (void *)stack->next))
		return py_walk_outer(index, stack);
	/* The two lowest bits are tags of 3.14's stack references. */
	code = PY_FIELD(__u64, stack->frame, layout->frame_code, 0x78) & ~3ULL;
	owner = PY_FIELD(__u8, stack->frame, layout->frame_owner, 0x7f);
	stack->next = PY_FIELD(__u64, stack->frame, layout->frame_previous, 0x78);
	if (!index && stack->outer &&
	    (!code || owner >= layout->owner_not_python || py_read(code + 8) != stack->code_type))
		return py_walk_outer(index, stack);
	if (!code || owner >= layout->owner_not_python)
		return 0;
	if (bpf_probe_read_user(stack->object, PY_CODE_BYTES, (void *)(code + layout->code_start)))
		return py_walk_outer(index, stack);
	file = PY_FIELD(__u64, stack->object, layout->code_file - layout->code_start, 0x78);
	qualname = PY_FIELD(__u64, stack->object, layout->code_qualname - layout->code_start, 0x78);
	line = PY_FIELD(__u32, stack->object, layout->code_line - layout->code_start, 0x7c);
	if (index < PY_CHECKED_FRAMES)
		id = py_string_id(stack->image, qualname, &head);
	else
		id = py_mix(stack->image, qualname);
	id = py_mix(py_mix(py_mix(id, code), file), line);
	stack->id[index] = id;
	stack->code[index] = code;
	stack->hash = py_mix(stack->hash, id);
	return 0;
}

/* Walk the stack of one thread state into walk->stack, whose image is set; sets hash, depth and
 * flags. */
static __always_inline void py_walk(struct py_walk *walk, __u64 thread)
{
	const struct py_layout *layout = walk->layout;
	struct py_stack *stack = walk->stack;
	__u64 holder = thread, interpreter, none;
	__u32 collecting = 0;

	stack->flags = 0;
	stack->depth = 0;
	stack->outer = 0;
	if (layout->interpreter_collecting != PY_NO_FIELD) {
		interpreter = py_read(thread + layout->thread_interpreter);
		bpf_probe_read_user(&collecting, sizeof(collecting),
				    (void *)(interpreter + layout->interpreter_collecting));
		if (collecting == 1)
			stack->flags |= PY_FLAG_GC;
	}
	if (layout->thread_cframe != PY_NO_FIELD) {
		holder = py_read(thread + layout->thread_cframe);
		/* The structure's next field is the one before it. */
		stack->outer = py_read(holder + layout->thread_frame + 8);
		if (stack->outer)
			stack->outer = py_read(stack->outer + layout->thread_frame);
		if (stack->outer)
			stack->code_type = py_read(py_read(stack->outer + layout->frame_code) + 8);
	}
	stack->next = py_read(holder + layout->thread_frame);
	none = stack->hash = py_mix(stack->image, 1);
	PY_LOOP(PY_MAX_FRAMES, PY_MAX_FRAMES, py_walk_step, walk);
	if (stack->next && !(stack->flags & PY_FLAG_FAULT))
		stack->flags |= PY_FLAG_TRUNCATED;
	if (stack->hash == none) { /* nothing, or C's entry frames alone */
		stack->depth = 0;
		stack->flags |= PY_FLAG_NO_FRAME;
	}
}

#endif
