/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Requests to block devices that are issued while a window is open, by device and operation.
 *
 * Of the whole machine: what a benchmark writes is mostly sent to the disk by the kernel's own
 * threads. Requests that a thread of the tree issues itself are counted beside that.
 */
#ifndef CI_FLAME_BLOCK_IO_H
#define CI_FLAME_BLOCK_IO_H

#include "histogram.h"
#include "sched.h"

#define DEVICE_NAME_BYTES 28

struct gendisk {
	char disk_name[32];
} __attribute__((preserve_access_index));

struct request_queue {
	struct gendisk *disk;
} __attribute__((preserve_access_index));

struct request {
	struct request_queue *q;
	unsigned int cmd_flags;
	unsigned int __data_len;
} __attribute__((preserve_access_index));

struct issued {
	__u64 since_ns;
	__u64 own; /* 1: by a thread of the tree */
	__u64 bytes;
};

struct device_key {
	char device[DEVICE_NAME_BYTES];
	__u32 operation;
};

struct device_io {
	struct histogram latency;
	__u64 bytes;
	__u64 own;
};

MAP(issued_requests, BPF_MAP_TYPE_HASH, __u64, struct issued, 8192);
MAP(block_io, BPF_MAP_TYPE_HASH, struct device_key, struct device_io, 128);
MAP(device_ios, BPF_MAP_TYPE_ARRAY, __u32, struct device_io, 1); /* zeros to begin with */

SEC("tp_btf/block_rq_issue")
int block_io_issue(__u64 *ctx)
{
	struct request *request = (struct request *)ctx[0];
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	__u64 address = ctx[0];
	struct issued issued = {};

	if (!window_now()) {
		/* One of this address whose end was never seen must not be taken for it. */
		bpf_map_delete_elem(&issued_requests, &address);
		return 0;
	}
	issued.since_ns = bpf_ktime_get_ns();
	issued.own = tgid && bpf_map_lookup_elem(&processes, &tgid);
	issued.bytes = request->__data_len;
	if (bpf_map_update_elem(&issued_requests, &address, &issued, BPF_ANY))
		count(COUNT_LOST_LATENCIES);
	return 0;
}

/* A request may be completed in parts: its last one ends it. */
SEC("tp_btf/block_rq_complete")
int block_io_complete(__u64 *ctx)
{
	struct request *request = (struct request *)ctx[0];
	struct device_key key = {.operation = request->cmd_flags & 0xff};
	__u64 address = ctx[0], now = bpf_ktime_get_ns();
	struct issued *issued = bpf_map_lookup_elem(&issued_requests, &address);
	struct device_io *io, *empty;
	__u32 zero = 0;

	if (!issued || (__u32)ctx[2] < request->__data_len)
		return 0;
	bpf_probe_read_kernel_str(key.device, sizeof(key.device), request->q->disk->disk_name);
	io = bpf_map_lookup_elem(&block_io, &key);
	if (!io) {
		empty = bpf_map_lookup_elem(&device_ios, &zero);
		if (!empty)
			return 0;
		bpf_map_update_elem(&block_io, &key, empty, BPF_NOEXIST);
		io = bpf_map_lookup_elem(&block_io, &key);
	}
	if (io) {
		histogram_add(&io->latency, (now - issued->since_ns) / 1000);
		__sync_fetch_and_add(&io->bytes, issued->bytes);
		__sync_fetch_and_add(&io->own, issued->own);
	} else {
		count(COUNT_LOST_LATENCIES);
	}
	bpf_map_delete_elem(&issued_requests, &address);
	return 0;
}

#endif
