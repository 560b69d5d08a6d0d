/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Latencies in buckets that grow by a quarter of an octave of whole microseconds: the same as
 * profile.Histogram.bucket() in Python, and compared with it in the tests.
 */
#ifndef CI_FLAME_HISTOGRAM_H
#define CI_FLAME_HISTOGRAM_H

#include "loader.h"

#define HISTOGRAM_BUCKETS 256 /* 2^64 us would be in bucket 255 */

/* Counts only grow: user space takes differences, so that nothing is lost between two reads. */
struct histogram {
	__u64 counts[HISTOGRAM_BUCKETS];
	__u64 max_us;
};

static __always_inline __u32 histogram_bucket(__u64 us)
{
	__u64 rest = us;
	__u32 octave = 0;

	if (us <= 1)
		return 0;
	if (rest >> 32) {
		octave += 32;
		rest >>= 32;
	}
	if (rest >> 16) {
		octave += 16;
		rest >>= 16;
	}
	if (rest >> 8) {
		octave += 8;
		rest >>= 8;
	}
	if (rest >> 4) {
		octave += 4;
		rest >>= 4;
	}
	if (rest >> 2) {
		octave += 2;
		rest >>= 2;
	}
	if (rest >> 1)
		octave += 1;
	/* The two bits below the highest; shifted down first where they would not fit above it. */
	rest = octave >= 2 ? us >> (octave - 2) : us << (2 - octave);
	return 4 * octave + (rest & 3);
}

static __always_inline void histogram_add(struct histogram *histogram, __u64 us)
{
	__u32 bucket = histogram_bucket(us) & (HISTOGRAM_BUCKETS - 1);

	__sync_fetch_and_add(&histogram->counts[bucket], 1);
	if (us > histogram->max_us)
		histogram->max_us = us;
}

#endif
