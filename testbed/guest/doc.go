// Package guest is real machines for the testbed: Debian in qemu, with a kernel, a root
// disk, an init and a network of their own, which can lose their power.
//
// Build makes an image out of Debian's packages, once, and Boot starts a machine on a
// copy of it. Where the root lies on LVM or encryption, such a machine makes it. The
// machine's disks are plain files of the lab, so that whoever judges them needs no qemu.
//
// No packet of a guest leaves the host: its network is qemu's own with everything
// refused but ssh from the host, on loopback, and those of the host's ports that
// Options.Reach names. A guest finds these at Host, by TCP alone.
//
// Always TCG, never KVM: nested in a virtual machine KVM does not run every kernel, and
// a machine for CI has none. It costs a boot of half a minute.
package guest
