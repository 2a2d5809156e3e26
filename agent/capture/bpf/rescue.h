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
 * What is left of a split bio comes to the kprobe alone, to be passed over. That one of
 * those was skipped, and nothing with it, is known by the task's next step: it was told
 * to expect the rest when the bio was split. This counts as long as no bio comes twice
 * for another cause, since the rest of a throttled one comes late and as such.
 *
 * What goes wrong with a token (no memory for it; an interrupt that submits between the
 * hooks; one left behind by a tracepoint that was skipped) captures a write twice, which
 * before it is issued is harmless, or makes the numbers differ.
 */
#pragma once

#include "layout.h"

struct token {
	__u64 bio;
	__u64 rest; /* is expected */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct token);
} tokens SEC(".maps");

static __always_inline struct token *task_token(__u64 flags)
{
	return bpf_task_storage_get(&tokens, bpf_get_current_task_btf(), NULL, flags);
}

/* The task goes on: a rest that it expects by now was skipped. */
static __always_inline void go_on(struct token *t, bool rest)
{
	if (t->rest)
		__sync_fetch_and_add(&self.rests, 1);
	t->rest = rest;
}

/* Says that the kprobe has seen the bio. */
static __always_inline void leave_token(struct bio *bio)
{
	struct token *t = task_token(BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!t) {
		__sync_fetch_and_add(&self.untold, 1);
		return;
	}
	go_on(t, false);
	t->bio = (__u64)bio;
}

/* Whether the kprobe has seen the bio. */
static __always_inline bool take_token(struct bio *bio)
{
	struct token *t = task_token(0);

	if (t && t->bio == (__u64)bio) {
		t->bio = 0;
		return true;
	}
	__sync_fetch_and_add(&self.rescued, 1);
	return false;
}

static __always_inline int rest_will_come(void)
{
	struct token *t = task_token(BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (t)
		go_on(t, true);
	return 0;
}

static __always_inline int rest_came(void)
{
	struct token *t = task_token(0);

	if (t)
		t->rest = 0;
	return 0;
}
