/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Samples by the CPU clock: Python stack, native leaf, kernel stack.
 */
#ifndef CI_FLAME_ON_CPU_H
#define CI_FLAME_ON_CPU_H

#include "learn.h"

#define MAX_KERNEL_FRAMES 127

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

MAP(samples, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct sample, 1);

SEC("perf_event")
int on_sample(struct bpf_perf_event_data *ctx)
{
	__u64 both = bpf_get_current_pid_tgid(), open, bytes;
	__u32 tgid = both >> 32, tid = (__u32)both, zero = 0;
	struct window *window;
	struct process *process;
	struct sample *sample;
	long got;

	window = bpf_map_lookup_elem(&phase, &zero);
	open = window ? window->phase : 0;
	if (!open || !tgid)
		return 0;
	process = current_process(tgid);
	if (!process)
		return 0;
	sample = bpf_map_lookup_elem(&samples, &zero);
	if (!sample)
		return 0;
	count(COUNT_TICKS);
	sample->type = RECORD_SAMPLE;
	sample->flags = 0;
	sample->time_ns = bpf_ktime_get_ns();
	sample->phase = open;
	sample->image = process->image;
	sample->pid = process->pid;
	sample->tid = own_number(bpf_get_current_task());
	sample->stack = 0;
	sample->kernel_frames = 0;
	sample->address = USER_ADDRESS(ctx);
	if (IN_KERNEL(ctx)) {
		got = bpf_get_stack(ctx, sample->kernel, MAX_KERNEL_FRAMES * 8, 0);
		if (got > 0)
			sample->kernel_frames = got / 8;
		sample->address = 0;
		bpf_get_stack(ctx, &sample->address, 8, BPF_F_USER_STACK);
	}
	if (process->python.interpreters)
		sample->stack = walk_python(process, tid, sample->tid, &sample->flags);
	bytes = (sample->kernel_frames & 127) * 8;
	if (bpf_ringbuf_output(&ring, sample, __builtin_offsetof(struct sample, kernel) + bytes,
			       BPF_RB_NO_WAKEUP))
		count(COUNT_LOST);
	if (sample->stack)
		learn_now(ctx);
	return 0;
}

#endif
