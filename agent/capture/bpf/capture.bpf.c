//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Captures every block write of the tracked disks, in the order of submission.
 *
 * One write: read `lost`, mark the dirty map, and only then, if nothing was lost
 * since the agent armed, copy the data into the ring. Whatever fails after the
 * marking raises `lost`, so that
 *
 *   - a write that is not in the ring is in the dirty map, always;
 *   - a write that depends on a lost one reads the raised `lost` and is not in the
 *     ring either: the ring up to the first record with another `lost` is a prefix.
 *
 * Programs are pairs of a hook and a way to copy. The agent loads those that fit
 * the kernel; the others are never shown to it.
 */
#include "issue.h"
#include "mark.h"
#include "copy_pieces.h"
#include "copy_whole.h"
#include "rescue.h"

char _license[] SEC("license") = "Dual BSD/GPL";

enum copy { PIECES, WHOLE };

/* What kernels differ in, as far as it decides which instructions a program has. */
struct form {
	enum copy copy;
	enum granules granules;
};

#define FORM_510 ((struct form){ PIECES, BYTES })
#define FORM_511 ((struct form){ PIECES, BITS })
#define FORM_616 ((struct form){ WHOLE, BITS })

static __always_inline __u8 record_op(__u32 op)
{
	switch (op) {
	case OP_WRITE:
	case OP_WRITE_SAME_OR_ZONE_APPEND:
		return RECORD_WRITE;
	case OP_DISCARD:
	case OP_SECURE_ERASE:
		return RECORD_DISCARD;
	case OP_WRITE_ZEROES:
		return RECORD_ZERO;
	}
	return 0;
}

/* The slot of a tracked disk, MAX_DISKS for any other. */
static __always_inline __u32 slot_of(__u32 dev)
{
	__u32 *slot = bpf_map_lookup_elem(&devices, &dev);

	return slot ? *slot : MAX_DISKS;
}

static __always_inline int put_empty(struct record *head)
{
	return bpf_ringbuf_output(&ring, head, sizeof(*head), WAKE_FIRST) ?
		       CAUSE_RING_FULL + 1 : 0;
}

static __always_inline void count_submitted(__u32 slot, __u32 op, __u32 bytes)
{
	struct counters *c = bpf_map_lookup_elem(&counts, &slot);

	if (c && op == OP_WRITE)
		__sync_fetch_and_add(&c->submitted, bytes);
}

static __always_inline bool same_disk(struct disk *disk, struct gendisk *gendisk)
{
	return !bpf_core_field_exists(gendisk->diskseq) || gendisk->diskseq == disk->diskseq;
}

/* Everything of the disk is in doubt from here on. */
static __always_inline void suspect(struct disk *disk, __u32 cause)
{
	__sync_fetch_and_add(&disk->suspect[self.generation & 1], 1);
	lose(cause);
}

static __always_inline int copy(struct bio *bio, struct record *head, enum copy how)
{
	__u32 zero = 0;
	struct depth *depth = bpf_map_lookup_elem(&depths, &zero);
	int failed;

	if (!depth)
		return CAUSE_NESTED + 1;
	depth->depth++;
	failed = how == WHOLE ? copy_whole(bio, head, depth->depth - 1) :
				copy_pieces(bio, head, depth->depth - 1);
	depth->depth--;
	return failed;
}

/* The ring, for a write whose blocks are marked. */
static __always_inline void keep(struct bio *bio, struct record *head, __u32 op, enum copy how)
{
	int failed;

	if (op == OP_WRITE_SAME_OR_ZONE_APPEND || (op == OP_WRITE && encrypted_below(bio)))
		failed = CAUSE_OPERATION + 1;
	else if (op != OP_WRITE)
		failed = put_empty(head);
	else
		failed = copy(bio, head, how);
	if (failed)
		lose(failed - 1);
}

static __always_inline int capture(struct bio *bio, struct form form)
{
	__u32 op = bio->bi_opf & REQ_OP_MASK, bytes = bio->bi_iter.bi_size;
	struct gendisk *gendisk;
	struct record head = {};
	struct disk *disk;
	__u32 slot;

	head.op = record_op(op);
	if (!head.op || !bytes) /* a read, or a flush without data */
		return 0;
	gendisk = bio_disk(bio);
	slot = slot_of(disk_dev(gendisk));
	if (slot >= MAX_DISKS)
		return 0;
	disk = &disks[slot];

	head.lost = *(volatile __u64 *)&self.lost;
	head.sector = bio->bi_iter.bi_sector;
	head.bytes = bytes;
	head.slot = slot;
	count_submitted(slot, op, bytes);
	if (!same_disk(disk, gendisk)) {
		suspect(disk, CAUSE_CHANGED);
		return 0;
	}
	__u64 last = head.sector + (bytes >> 9) - 1;
	if (disk->excludes && head.sector >= disk->exclude_first &&
	    last <= disk->exclude_last && excluded(slot, head.sector, last))
		return 0;
	if (last >= disk->sectors || !mark(slot, disk, head.sector, bytes >> 9, form.granules)) {
		suspect(disk, CAUSE_BEYOND_END);
		return 0;
	}
	if (head.lost != *(volatile __u64 *)&self.armed)
		return 0;
	head.time = bpf_ktime_get_boot_ns();
	head.cpu = bpf_get_smp_processor_id();
	keep(bio, &head, op, form.copy);
	return 0;
}

/*
 * A driver that sends a bio on to another disk without a new bio (md raid0 and
 * linear on old kernels) fires only block_bio_remap. The remap of a partition to
 * its disk fires it too, before block_bio_queue for a bio that is new, and after
 * the driver's own remap for one that is not.
 */
static __always_inline bool remapped_in_place(struct bio *bio, __u32 from)
{
	if (!(bio->bi_flags & trace_completion))
		return false; /* new: block_bio_queue follows */
	if (bpf_core_field_exists(bio->bi_bdev)) {
		struct block_device *bdev = bio->bi_bdev;

		return bdev->bd_dev == disk_dev(bdev->bd_disk) || bdev->bd_dev == from;
	}
	struct bio___disk *old = (void *)bio;
	__u32 major = from >> 20;

	return !old->bi_partno || major == (__u32)old->bi_disk->major || major == 259;
}

static __always_inline int capture_remap(struct bio *bio, __u32 from, struct form form)
{
	return remapped_in_place(bio, from) ? capture(bio, form) : 0;
}

/* 5.10: the arguments begin with the request queue, and there is no atomic OR. */

SEC("tp_btf/block_bio_queue")
int queue_pieces_q(__u64 *ctx)
{
	return capture((struct bio *)ctx[1], FORM_510);
}

SEC("tp_btf/block_bio_remap")
int remap_pieces_q(__u64 *ctx)
{
	return capture_remap((struct bio *)ctx[1], ctx[2], FORM_510);
}

/* 5.11 to 6.15 */

SEC("tp_btf/block_bio_queue")
int queue_pieces(__u64 *ctx)
{
	return capture((struct bio *)ctx[0], FORM_511);
}

SEC("tp_btf/block_bio_remap")
int remap_pieces(__u64 *ctx)
{
	return capture_remap((struct bio *)ctx[0], ctx[1], FORM_511);
}

/* 6.16 to 6.19 */

SEC("tp_btf/block_bio_queue")
int queue_whole(__u64 *ctx)
{
	return capture((struct bio *)ctx[0], FORM_616);
}

SEC("tp_btf/block_bio_remap")
int remap_whole(__u64 *ctx)
{
	return capture_remap((struct bio *)ctx[0], ctx[1], FORM_616);
}

/*
 * From 7.0 tracepoints are preemptible and their recursion guard drops the write
 * of a task that preempted another inside the hook: probe the function instead,
 * submit_bio_noacct_nocheck(bio, split). It sees remapped bios by itself, and the
 * rest of a split bio a second time, which is to be skipped. What the kprobe does not
 * see the tracepoint does (rescue.h).
 */
#define PT_REGS_FIRST(ctx) (arm64 ? (ctx)[0] : (ctx)[112 / 8])
#define PT_REGS_SECOND(ctx) (arm64 ? (ctx)[1] : (ctx)[104 / 8])

extern void *bpf_rdonly_cast(const void *object, __u32 type) __ksym __weak;

SEC("kprobe/submit_bio_noacct_nocheck")
int submit_whole(__u64 *ctx)
{
	struct bio *bio = bpf_rdonly_cast((void *)PT_REGS_FIRST(ctx), bpf_core_type_id_kernel(struct bio));
	bool split = PT_REGS_SECOND(ctx) & 1;

	if (!(bio->bi_flags & trace_completion))
		leave_token(bio);
	else if (split)
		return rest_came();
	else
		__sync_fetch_and_add(&self.others, 1);
	return capture(bio, FORM_616);
}

extern void bpf_preempt_disable(void) __ksym __weak;
extern void bpf_preempt_enable(void) __ksym __weak;

SEC("tp_btf/block_bio_queue")
int rescue_whole(__u64 *ctx)
{
	struct bio *bio = (struct bio *)ctx[0];

	bpf_preempt_disable(); /* or whoever preempts this one finds the program in use */
	if (!take_token(bio))
		capture(bio, FORM_616);
	bpf_preempt_enable();
	return 0;
}

SEC("tp_btf/block_split")
int expect_rest(__u64 *ctx)
{
	return rest_will_come();
}

/*
 * A write that fails leaves the device's blocks unknown, while the ring has what
 * should have been there.
 */
static __always_inline int complete(struct request *rq, __u32 error, __u32 bytes, enum granules form)
{
	__u32 slot;

	if (!error || !record_op(rq->cmd_flags & REQ_OP_MASK) || bytes < 512)
		return 0;
	slot = slot_of(request_dev(rq));
	if (slot >= MAX_DISKS)
		return 0;
	if (mark(slot, &disks[slot], rq->__sector, bytes >> 9, form))
		lose(CAUSE_REFUSED);
	else
		suspect(&disks[slot], CAUSE_REFUSED);
	return 0;
}

SEC("tp_btf/block_rq_complete")
int complete_bytes(__u64 *ctx)
{
	return complete((struct request *)ctx[0], ctx[1], ctx[2], BYTES);
}

SEC("tp_btf/block_rq_complete")
int complete_bits(__u64 *ctx)
{
	return complete((struct request *)ctx[0], ctx[1], ctx[2], BITS);
}

/* The issue audit. A request that the driver gives back is issued again later. */
static __always_inline int issue(struct request *rq, bool back)
{
	__u32 op = rq->cmd_flags & REQ_OP_MASK, slot;
	struct counters *c;

	if (op != OP_WRITE && op < OP_SCSI_OUT)
		return 0;
	slot = slot_of(request_dev(rq));
	if (slot >= MAX_DISKS)
		return 0;
	if (op != OP_WRITE) {
		if (!back && passthrough_writes(rq, &disks[slot], op))
			suspect(&disks[slot], CAUSE_PASSTHROUGH);
		return 0;
	}
	c = bpf_map_lookup_elem(&counts, &slot);
	if (c)
		__sync_fetch_and_add(&c->issued, back ? -(__u64)rq->__data_len : rq->__data_len);
	return 0;
}

SEC("tp_btf/block_rq_issue")
int issue_q(__u64 *ctx)
{
	return issue((struct request *)ctx[1], false);
}

SEC("tp_btf/block_rq_requeue")
int requeue_q(__u64 *ctx)
{
	return issue((struct request *)ctx[1], true);
}

SEC("tp_btf/block_rq_issue")
int issue_rq(__u64 *ctx)
{
	return issue((struct request *)ctx[0], false);
}

SEC("tp_btf/block_rq_requeue")
int requeue_rq(__u64 *ctx)
{
	return issue((struct request *)ctx[0], true);
}
