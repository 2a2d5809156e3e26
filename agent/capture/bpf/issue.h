/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What reaches the driver: the bytes of WRITE, to be held against those that were
 * captured, and commands that go around the block layer's writes.
 */
#pragma once

#include "bio.h"

/*
 * The disk that a request's queue is of, by its dev_t; 0 for a queue without one. Not the
 * disk that the request names, where it names one: one that came by /dev/sg* names the
 * sg driver's own, and one by /dev/bsg none.
 */
static __always_inline __u32 request_dev(struct request *rq)
{
	struct request_queue___disk *q = (void *)rq->q;
	struct request_queue___bdi *older = (void *)rq->q;
	struct request___disk *old = (void *)rq;
	struct device *owner;

	if (bpf_core_field_exists(q->disk))
		return q->disk ? disk_dev(q->disk) : 0;
	if (bpf_core_field_exists(older->backing_dev_info)) {
		owner = older->backing_dev_info->owner;
		if (owner)
			return owner->devt;
	}
	return bpf_core_field_exists(old->rq_disk) && old->rq_disk ? disk_dev(old->rq_disk) : 0;
}

/* A command from user space goes by no name of the block layer's: see whether it writes. */
static __always_inline bool passthrough_writes(struct request *rq, struct disk *disk, __u32 op)
{
	__u8 *command, opcode = 0;

	if (op == OP_DRV_OUT || op == OP_SCSI_OUT)
		return true;
	if (op != OP_DRV_IN || !(disk->flags & DISK_NVME))
		return false;
	/*
	 * NVMe has commands that write without sending data. struct nvme_request
	 * follows the request and begins with a pointer to the command, which
	 * begins with the opcode.
	 */
	if (bpf_probe_read_kernel(&command, sizeof(command),
				  (void *)((__u64)rq + bpf_core_type_size(struct request))))
		return true;
	if (bpf_probe_read_kernel(&opcode, 1, command))
		return true;
	return opcode == 0x04 /* write uncorrectable */ || opcode == 0x08 /* write zeroes */ ||
	       opcode == 0x09 /* dataset management */ || opcode == 0x19 /* copy */;
}
