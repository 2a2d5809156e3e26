package desired

// A replica finds out by itself that it is one: who brought it up has written so into its
// firmware's tables, where no system of its own has put it and no copy of its disks
// carries it.
const (
	// ReplicaMark begins the SMBIOS string (type 11) of a replica; the id of the failover
	// follows.
	ReplicaMark = "understudy-replica="
	// HeartbeatPort is the virtio serial port on which the agent of a replica says, in a
	// line, that the machine is up.
	HeartbeatPort = "org.understudy.heartbeat"
)
