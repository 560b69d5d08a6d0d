/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Everything that the collector can load; programs that a recording does not want stay out of
 * the kernel (bpf_program__set_autoload).
 */
#include "tree.h"
#include "learn.h"
#include "on_cpu.h"
#include "off_cpu.h"
#include "run_queue.h"
#include "block_io.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
