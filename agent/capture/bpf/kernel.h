/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The little of the kernel that capture reads, and nothing else. Every field is
 * relocated against the running kernel's BTF, so order and omissions do not matter;
 * a name with ___ is another version of the same struct.
 */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;
typedef _Bool bool;

#define true 1
#define false 0
#define NULL ((void *)0)

/* UAPI constants, frozen by the kernel. */
#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_ARRAY_OF_MAPS 12
#define BPF_MAP_TYPE_RINGBUF 27
#define BPF_MAP_TYPE_TASK_STORAGE 29
#define BPF_F_NO_PREALLOC 1
#define BPF_LOCAL_STORAGE_GET_F_CREATE 1
#define BPF_F_MMAPABLE (1U << 10)
#define BPF_F_INNER_MAP (1U << 12)
/*
 * How records are given to the ring: whoever waits for it is woken by the first record
 * after it was freed to its end, and by no other.
 */
#define WAKE_FIRST 0

/* Operations of bi_opf and cmd_flags (their low eight bits). */
#define REQ_OP_MASK 0xff
#define OP_WRITE 1
#define OP_DISCARD 3
#define OP_SECURE_ERASE 5
#define OP_WRITE_SAME_OR_ZONE_APPEND 7
#define OP_WRITE_ZEROES 9
#define OP_SCSI_OUT 33 /* 5.10 only */
#define OP_DRV_IN 34
#define OP_DRV_OUT 35

struct bpf_dynptr {
	__u64 opaque[2];
} __attribute__((aligned(8)));

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct request_queue;

struct gendisk {
	int major;
	int first_minor;
	__u64 diskseq; /* 5.15 */
};

struct request_queue___disk { /* 5.15 */
	struct gendisk *disk;
};

struct device {
	__u32 devt;
};

struct backing_dev_info {
	struct device *owner; /* of the disk */
};

struct request_queue___bdi { /* before 5.15 */
	struct backing_dev_info *backing_dev_info;
};

struct block_device {
	struct gendisk *bd_disk;
	__u32 bd_dev;
};

struct page;
struct bio_vec;

struct bvec_iter {
	__u64 bi_sector;
	__u32 bi_size;
	__u32 bi_idx;
	__u32 bi_bvec_done;
};

struct bio {
	struct block_device *bi_bdev; /* 5.12 */
	__u32 bi_opf;
	__u16 bi_flags;
	struct bvec_iter bi_iter;
	struct bio_vec *bi_io_vec;
	void *bi_crypt_context; /* with CONFIG_BLK_INLINE_ENCRYPTION */
};

struct bio___disk { /* before 5.12 */
	struct gendisk *bi_disk;
	__u8 bi_partno;
};

struct bvec_iter___offset { /* 7.3 */
	__u32 bi_offset;
};

struct bio___offset {
	struct bvec_iter___offset bi_iter;
};

struct request {
	struct request_queue *q;
	__u32 cmd_flags;
	__u32 __data_len;
	__u64 __sector;
};

struct request___disk { /* before 5.17 */
	struct gendisk *rq_disk;
};

struct buffer_head {
	struct page *b_page;
	__u64 b_size;
	char *b_data;
};

struct buffer_head___folio { /* where b_page is gone */
	struct page *b_folio;
};

struct task_struct {
	int pid;
	unsigned long nvcsw;
	unsigned long nivcsw;
	__u64 utime;
	__u64 start_time;
	void *bio_list;
	unsigned int __state; /* 5.14 */
};

struct task_struct___state {
	long state;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

#pragma clang attribute pop
