package dir

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"github.com/understudy-dr/understudy/controlplane/objstore"
)

// remedies say what the operator can do about each class.
var remedies = map[error]string{
	objstore.ErrFull:      "free space on that file system, raise its quota, or thin the vault; replication waits in spools and journals meanwhile",
	objstore.ErrReadOnly:  "check the mount options, the owner and the permissions of that directory",
	objstore.ErrTransient: "it will be tried again",
}

// classOf maps what the system reports to the store's classes; nil if none fits.
func classOf(err error) error {
	for class, causes := range map[error][]error{
		objstore.ErrExists:   {fs.ErrExist},
		objstore.ErrNotFound: {fs.ErrNotExist, syscall.ENOTDIR},
		objstore.ErrFull:     {syscall.ENOSPC, syscall.EDQUOT},
		objstore.ErrReadOnly: {syscall.EROFS, fs.ErrPermission},
		objstore.ErrTransient: {
			syscall.EINTR, syscall.EAGAIN, syscall.EBUSY, syscall.ETIMEDOUT,
			syscall.ESTALE, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM,
		},
	} {
		for _, cause := range causes {
			if errors.Is(err, cause) {
				return class
			}
		}
	}
	return nil
}

// classify wraps a system error. A cancelled context stays what it is.
func classify(op, store, key string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	class := classOf(err)
	return &objstore.Error{Op: op, Store: store, Key: key, Class: class, Remedy: remedies[class], Err: err}
}
