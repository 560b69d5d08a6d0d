/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Time off the CPU: where a thread stood when it left, how long until it was woken, and how long
 * from there until it ran.
 *
 * Times are those of the phase's clock, which stands still while the window is closed: a window that
 * opens once per iteration does not count what other threads wait in the set-ups between. A wait
 * that begins in a set-up begins with the next opening; one in set-ups alone takes no time.
 *
 * A wait that begins and ends in one phase is added up here, by place. One that ends later is sent
 * as it is, or is still open when the phase is read: user space knows where the phase's clock
 * stopped. Waits that begin before a phase's first window are not looked at.
 */
#ifndef CI_FLAME_OFF_CPU_H
#define CI_FLAME_OFF_CPU_H

#include "learn.h"
#include "sched.h"

#define SHORTEST_WAIT_NS 1000
#define MAX_WAIT_FRAMES 127
#define FLAG_TIMED_OUT 0x100U /* beside python_walk.h's: a timer woke it */
#define ENOENT 2
#define KERNEL_SEED 0x6b65726e656cULL

/* linux/ptrace.h has a structure of the same name with other names for the fields. */
struct pt_regs___kernel {
	unsigned long ip;
} __attribute__((preserve_access_index));

/* Waits of one place are equal in this, byte for byte. */
struct wait_key {
	__u32 flags;
	__u32 state;
	__u64 phase;
	__u64 image;
	__u64 stack;
	__u64 address; /* where user code entered the kernel, or was interrupted */
	__u64 kernel;  /* hash of the kernel stack */
};

struct wait_sum {
	__u64 waits;
	__u64 blocked_ns;
	__u64 queued; /* of the waits, those that stood in the run queue after their wake-up */
	__u64 queued_ns;
};

struct open_wait {
	__u64 since_ns; /* by the phase's clock */
	__u64 woken_ns; /* by the same; 0: not yet */
	__u64 ran_ns;   /* CPU time of the thread until then */
	struct wait_key key;
};

struct wait_record {
	__u32 type;
	__u32 whole; /* 1: inside its window, but the map was full */
	__u64 end_ns;
	struct open_wait wait;
};

struct kernel_stack_record {
	__u32 type;
	__u32 depth;
	__u64 hash;
	__u64 address[MAX_WAIT_FRAMES + 1];
};

MAP(open_waits, BPF_MAP_TYPE_HASH, __u32, struct open_wait, 8192);
MAP(waits, BPF_MAP_TYPE_HASH, struct wait_key, struct wait_sum, 65536);
MAP(kernel_stacks, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct kernel_stack_record, 1);
MAP(in_timer, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u32, 1);

/* Return the hash of the kernel stack of the thread that runs here; sends it the first time. */
static __always_inline __u64 learn_kernel_stack(void *ctx)
{
	__u32 zero = 0, index;
	struct kernel_stack_record *record = bpf_map_lookup_elem(&kernel_stacks, &zero);
	__u64 hash = KERNEL_SEED, depth;
	long got;

	if (!record)
		return 0;
	got = bpf_get_stack(ctx, record->address, MAX_WAIT_FRAMES * 8, 0);
	if (got <= 0)
		return 0;
	depth = ((__u64)got / 8) & 127;
	for (index = 0; index < MAX_WAIT_FRAMES; index++) {
		if (index >= depth)
			break;
		hash = py_mix(hash, record->address[index]);
	}
	if (seen_before(hash))
		return hash;
	record->type = RECORD_KERNEL_STACK;
	record->depth = depth;
	record->hash = hash;
	send_once(record, __builtin_offsetof(struct kernel_stack_record, address) + 8 * depth, hash);
	return hash;
}

/* A moment as the waits of a phase know it. */
struct moment {
	__u64 phase; /* 0: no window was open that may open again */
	__u64 ns;    /* by the phase's clock */
};

static __always_inline __u64 phase_of(const volatile struct window *window)
{
	__u64 open = window->phase;

	return open ? open : window->last;
}

static __always_inline struct moment moment_at(__u64 now)
{
	__u32 zero = 0;
	volatile struct window *window = bpf_map_lookup_elem(&phase, &zero);
	struct moment at = {.ns = now};
	__u64 open;

	if (!window)
		return at;
	open = window->phase;
	at.phase = open ? open : window->last;
	if (!open)
		at.ns = window->stopped_ns;
	if (open || !at.ns)
		at.ns = now - window->closed_ns;
	if (phase_of(window) == at.phase)
		return at;
	at.phase = 0; /* another phase began just now */
	at.ns = now;
	return at;
}

static __always_inline void send_wait(const struct open_wait *wait, __u64 now, __u32 whole)
{
	struct wait_record record = {.type = RECORD_WAIT, .whole = whole, .end_ns = now};

	record.wait = *wait;
	if (bpf_ringbuf_output(&ring, &record, sizeof(record), BPF_RB_NO_WAKEUP))
		count(COUNT_LOST_WAITS);
}

static __always_inline void wait_ends(__u32 tid, struct moment at)
{
	struct open_wait *open = bpf_map_lookup_elem(&open_waits, &tid), wait;
	struct wait_sum *sum, first = {};
	__u64 woken;
	long failed;

	if (!open)
		return;
	wait = *open;
	failed = bpf_map_delete_elem(&open_waits, &tid);
	if (failed) {
		if (failed != -ENOENT) /* else user space has taken it */
			count(COUNT_LOST_WAITS);
		return;
	}
	if (at.phase != wait.key.phase) {
		send_wait(&wait, at.ns, 0);
		return;
	}
	if (at.ns <= wait.since_ns)
		return; /* in set-ups alone */
	if (at.ns - wait.since_ns < SHORTEST_WAIT_NS) {
		count(COUNT_SHORT_WAITS);
		return;
	}
	sum = bpf_map_lookup_elem(&waits, &wait.key);
	if (!sum) {
		bpf_map_update_elem(&waits, &wait.key, &first, BPF_NOEXIST);
		sum = bpf_map_lookup_elem(&waits, &wait.key);
		if (!sum) {
			send_wait(&wait, at.ns, 1);
			return;
		}
	}
	__sync_fetch_and_add(&sum->waits, 1);
	woken = wait.key.state == STATE_RUNNABLE ? wait.since_ns : wait.woken_ns;
	if (woken < wait.since_ns || woken > at.ns)
		woken = at.ns;
	__sync_fetch_and_add(&sum->blocked_ns, woken - wait.since_ns);
	if (woken < at.ns) {
		__sync_fetch_and_add(&sum->queued, 1);
		__sync_fetch_and_add(&sum->queued_ns, at.ns - woken);
	}
}

/* Not every kernel reports every switch. A thread that leaves its CPU while it seems to wait has
 * come back unseen: as long ago as it has used the CPU since (in set-ups too, so that a wait that
 * spans one may be told as shorter than it was, never as longer). */
static __always_inline void switch_was_missed(struct task_struct *task, __u32 tid, struct moment at)
{
	struct open_wait *open = bpf_map_lookup_elem(&open_waits, &tid);
	__u64 back;

	if (!open)
		return;
	count(COUNT_MISSED_SWITCHES);
	back = at.ns - (task->se.sum_exec_runtime - open->ran_ns);
	if (back < open->since_ns || back > at.ns)
		back = open->since_ns;
	at.ns = back;
	wait_ends(tid, at);
}

static __always_inline void wait_begins(__u64 *ctx, struct moment at)
{
	struct task_struct *task = (struct task_struct *)ctx[1];
	__u64 both = bpf_get_current_pid_tgid();
	__u32 tgid = both >> 32, tid = (__u32)both, state = state_left_in(ctx);
	struct pt_regs___kernel *registers;
	struct open_wait wait = {};
	struct process *process;

	process = tgid ? current_process(tgid) : 0;
	if (!process)
		return;
	switch_was_missed(task, tid, at);
	if (!at.phase || state & STATE_DEAD)
		return;
	wait.key.phase = at.phase;
	wait.key.state = state;
	wait.key.image = process->image;
	registers = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	wait.key.address = registers->ip;
	if (process->python.interpreters)
		wait.key.stack = walk_python(process, tid, own_number((__u64)task),
					     &wait.key.flags);
	wait.key.kernel = learn_kernel_stack(ctx);
	wait.since_ns = at.ns;
	wait.ran_ns = task->se.sum_exec_runtime;
	if (bpf_map_update_elem(&open_waits, &tid, &wait, BPF_ANY))
		count(COUNT_LOST_WAITS);
}

SEC("tp_btf/sched_switch")
int off_cpu_switch(__u64 *ctx)
{
	struct task_struct *next = (struct task_struct *)ctx[2];
	struct moment at = moment_at(bpf_ktime_get_ns());

	wait_ends(next->pid, at);
	wait_begins(ctx, at);
	return 0;
}

SEC("tp_btf/sched_wakeup")
int off_cpu_wakeup(__u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	__u32 tid = task->pid;
	struct open_wait *open = bpf_map_lookup_elem(&open_waits, &tid);
	struct moment at;

	if (!open || open->woken_ns)
		return 0;
	at = moment_at(bpf_ktime_get_ns());
	/* By the clock of a later phase it is after its own, too. */
	open->woken_ns = at.ns;
	return 0;
}

/* Who is woken while a high-resolution timer's function runs on this CPU has timed out: this is
 * how a poll() that waits for a moment is told from one that waits for data. */
SEC("tp_btf/hrtimer_expire_entry")
int off_cpu_timer_entry(__u64 *ctx)
{
	__u32 zero = 0, *inside = bpf_map_lookup_elem(&in_timer, &zero);

	if (inside)
		*inside = 1;
	return 0;
}

SEC("tp_btf/hrtimer_expire_exit")
int off_cpu_timer_exit(__u64 *ctx)
{
	__u32 zero = 0, *inside = bpf_map_lookup_elem(&in_timer, &zero);

	if (inside)
		*inside = 0;
	return 0;
}

SEC("tp_btf/sched_waking")
int off_cpu_waking(__u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	__u32 zero = 0, tid, *inside = bpf_map_lookup_elem(&in_timer, &zero);
	struct open_wait *open;

	if (!inside || !*inside)
		return 0;
	tid = task->pid;
	open = bpf_map_lookup_elem(&open_waits, &tid);
	if (open && !open->woken_ns)
		open->key.flags |= FLAG_TIMED_OUT;
	return 0;
}

#endif
