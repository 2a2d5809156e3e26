/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From 7.0 the kernel may skip either hook: the kprobe, while a task that was preempted
 * on this CPU is inside a system call on a BPF map, anybody's; the tracepoint, while one
 * was preempted inside its program, in the few instructions before that forbids it. So
 * there are both. The kprobe's program leaves the bio with the task as a token; the
 * tracepoint's, which fires right behind for a bio that is new, captures one without a
 * token, and counts it. How often the kprobe was skipped and how often the tracepoint
 * stood in are the same number; the agent holds them against each other, and what both
 * missed is a loss with a name.
 *
 * What is left of a split bio comes to the kprobe alone, for nothing; that one of those
 * was skipped shows by the number of splits. It is an excuse as long as there is no other
 * reason why a bio comes twice: a throttled one may be a rest, and is not known for one.
 *
 * What goes wrong with a token (no memory for it; an interrupt that submits between the
 * hooks; one left behind by a tracepoint that was skipped) captures a write twice, which
 * before it is issued is harmless, or makes the numbers differ.
 */
#pragma once

#include "layout.h"

struct token {
	__u64 bio;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct token);
} tokens SEC(".maps");

/* Says that the kprobe has seen the bio. */
static __always_inline void leave_token(struct bio *bio)
{
	struct token *t = bpf_task_storage_get(&tokens, bpf_get_current_task_btf(), NULL,
					       BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (t)
		t->bio = (__u64)bio;
	else
		__sync_fetch_and_add(&self.untold, 1);
}

/* Whether the kprobe has seen the bio. */
static __always_inline bool take_token(struct bio *bio)
{
	struct token *t = bpf_task_storage_get(&tokens, bpf_get_current_task_btf(), NULL, 0);

	if (t && t->bio == (__u64)bio) {
		t->bio = 0;
		return true;
	}
	__sync_fetch_and_add(&self.rescued, 1);
	return false;
}
