//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* What the agent asks of the kernel once: where memory lies, who is submitting. */
#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "Dual BSD/GPL";

#define SAMPLES 64

/* A page and an address within it. */
struct sample {
	__u64 page;
	__u64 data;
	__u64 size;
};

struct sample samples[SAMPLES] SEC(".data.samples");
__u32 sampled SEC(".data.sampled");

SEC("tp_btf/block_touch_buffer")
int touch_buffer(__u64 *ctx)
{
	struct buffer_head *bh = (void *)ctx[0];
	struct buffer_head___folio *folio = (void *)bh;
	__u32 at = sampled;

	if (at >= SAMPLES)
		return 0;
	sampled = at + 1;
	if (bpf_core_field_exists(bh->b_page))
		samples[at].page = (__u64)bh->b_page;
	else
		samples[at].page = (__u64)folio->b_folio;
	samples[at].data = (__u64)bh->b_data;
	samples[at].size = bh->b_size;
	return 0;
}

/* Where the variables lie that hold the linear map's beginnings: from kallsyms. */
const volatile __u64 page_offset_at;
const volatile __u64 vmemmap_at;

struct bases {
	__u64 page_offset;
	__u64 vmemmap;
};

struct bases found SEC(".data.bases");

/* Run once by the agent, attached to nothing. */
SEC("raw_tp")
int read_bases(void *ctx)
{
	bpf_probe_read_kernel(&found.page_offset, sizeof(__u64), (void *)page_offset_at);
	bpf_probe_read_kernel(&found.vmemmap, sizeof(__u64), (void *)vmemmap_at);
	return 0;
}

/* A task that may be between a bio's submission and its entry into the queue. */
struct submitter {
	__u64 start;
	__u64 bio_list;
	__u64 utime;
	__u64 switches;
	__u32 pid;
	__u32 running;
};

static __always_inline bool task_running(struct task_struct *task)
{
	struct task_struct___state *old = (void *)task;

	if (bpf_core_field_exists(task->__state))
		return !task->__state;
	return !old->state;
}

SEC("iter/task")
int submitters(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct submitter s = {};

	if (!task)
		return 0;
	s.bio_list = (__u64)task->bio_list;
	s.running = task_running(task);
	if (!s.bio_list && !s.running)
		return 0;
	s.pid = task->pid;
	s.start = task->start_time;
	s.utime = task->utime;
	s.switches = task->nvcsw;
	bpf_seq_write(ctx->meta->seq, &s, sizeof(s));
	return 0;
}
