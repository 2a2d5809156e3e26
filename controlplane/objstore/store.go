// Package objstore is the ground the vault stands on: named, immutable objects in
// flat key order. The interface is what a directory, a memory map and Azure Blob
// have in common, and no more; duties that cut across stores (retry, metering) are
// decorators, and every store passes the suite in storetest.
package objstore

import (
	"context"
	"iter"
	"strings"
)

// MaxKeyLen bounds a key, in bytes.
const MaxKeyLen = 512

// Info describes one stored object.
type Info struct {
	Key  string
	Size int64 // bytes
}

// Store holds immutable objects. It is safe for concurrent use. Every error is
// classified: see Error.
type Store interface {
	// Put stores data under key if nothing is there, else fails with ErrExists and
	// changes nothing. The object appears whole or not at all, and has reached
	// stable storage when Put returns nil.
	Put(ctx context.Context, key string, data []byte) error

	// Get returns the n bytes of the object from off on, fewer where the object ends
	// first, all the rest for a negative n. ErrNotFound if there is no object.
	Get(ctx context.Context, key string, off, n int64) ([]byte, error)

	// Head describes the object; ErrNotFound if there is none.
	Head(ctx context.Context, key string) (Info, error)

	// List yields every object whose key starts with prefix, in ascending byte order
	// of the keys, and ends after the first error. Some stores list late: an object
	// just put may be missing. Head and Get are never late.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]

	// Delete removes the object; no error if there is none. A power cut may undo it.
	Delete(ctx context.Context, key string) error

	// String says where the store is, for messages to the operator.
	String() string
}

// CheckKey refuses keys that some store could not hold: a key is one or more
// segments of [a-z0-9._-] joined by '/', none of which begins with a dot.
func CheckKey(key string) error {
	if key == "" || len(key) > MaxKeyLen {
		return &Error{Op: "check key", Key: key, Class: ErrBadKey}
	}
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "" || segment[0] == '.' || strings.Trim(segment, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
			return &Error{Op: "check key", Key: key, Class: ErrBadKey}
		}
	}
	return nil
}
