// Package vault keeps every protected machine's history in an object store, encrypted,
// and shows any disk at any retained recovery point. It describes itself: machines,
// disks and points can be told from the store and the master key alone. README.md
// beside this file has the format and the reasons.
package vault
