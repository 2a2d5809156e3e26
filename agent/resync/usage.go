package resync

// # Leaving out free space
//
// A mounted file system tells which of its blocks are free (GETFSMAP). Whatever no
// such file system covers is used: partition tables and gaps, unmounted partitions,
// LVM, md, crypt, swap, btrfs, XFS with a realtime or an external log device, the
// stretch behind the end of a file system.
//
// What is left out must not be needed by any recovery point of the epoch. Let T0 be
// when capture began, T1 when the file system called block b free, T1 > T0.
//
//   - b is written after T0, by anybody: the write was captured, and ranks above.
//   - b is not written after T0: then only something that referred to b before T1 can
//     still refer to it. The file system in memory does not, but the one on the disk
//     may: the deletion that freed b is in a transaction that is not yet in the journal
//     on the disk. A point taken now would bring that file back, with the wrong bytes.
//     Once the transaction is on the disk, and captured on its way there, no point
//     after it refers to b.
//
// So the order is: GETFSMAP first, then syncfs of the same mount (it commits the
// journal; for XFS it forces the log), and only when that has returned may the base be
// called complete. Both go through one open file, so that both speak of the same file
// system whatever is mounted or unmounted meanwhile. It is done before the first read
// of the disk, not at its end: then a base frame exists only after its syncfs, and a
// job that is killed and goes on from a cursor relies on nothing that was lost.
//
// The argument does not use what the replica holds in b. It holds after a crash too,
// where b in the replica may differ from b on the disk: the hash method therefore
// neither compares nor sends free blocks, and a proof that replica and source are
// equal must leave them out as well. A repair of ranges sends them: they are few, and
// ext4 takes a free block into a file's reserve long before it writes it.
//
// A file system that is unmounted, mounted or resized while the disk is read does not
// break this (every write is captured), but nobody needs to believe that: the layout
// is compared at the end of the disk, and on a difference what was left out is read.
