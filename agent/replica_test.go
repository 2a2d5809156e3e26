package main

import "testing"

func TestReplicaIsKnownByItsFirmwareAlone(t *testing.T) {
	for name, c := range map[string]struct{ tables, want string }{
		"a replica":                {"\x0b\x05\x00\x11\x01understudy-replica=0123456789ab\x00\x00\x7f", "0123456789ab"},
		"the source":               {"\x01\x1bQEMU\x00Standard PC\x00\x00", ""},
		"a string beside the mark": {"\x0bsomething\x00understudy-replica=ab\x00other\x00\x00", "ab"},
	} {
		if got := sysfs(t, map[string]string{"sys/" + smbiosTables: c.tables}, nil).replicaOf(); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if got := (system{"/nowhere", "/nowhere"}).replicaOf(); got != "" {
		t.Errorf("without SMBIOS: %q", got)
	}
}

func TestHeartbeatPortIsFoundByItsName(t *testing.T) {
	s := sysfs(t, map[string]string{
		"sys/class/virtio-ports/vport1p1/name": "org.qemu.guest_agent.0\n",
		"sys/class/virtio-ports/vport1p2/name": "org.understudy.heartbeat\n",
	}, nil)
	if port, err := s.heartbeatPort(); err != nil || port != "/dev/vport1p2" {
		t.Errorf("%s, %v", port, err)
	}
	if _, err := sysfs(t, map[string]string{"sys/class/virtio-ports/vport1p1/name": "x\n"}, nil).heartbeatPort(); err == nil {
		t.Error("another's port was taken")
	}
}
