package main

import (
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// TestReplicaHasItsSourcesHardware, as far as the agent told of it and it can be had.
func TestReplicaHasItsSourcesHardware(t *testing.T) {
	inv, err := inventory.Open(t.Context(), filepath.Join(t.TempDir(), "inventory.db"), time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = inv.Close() })
	id := block.NewMachineID()
	facts := hardwareOf{inv}
	if h, err := facts.Hardware(t.Context(), id); err != nil || !reflect.DeepEqual(h, failover.Hardware{}) {
		t.Errorf("of a machine that is not known: %+v, %v", h, err)
	}
	if _, err := inv.Adopt(t.Context(), id, "web1", nil, nil); err != nil {
		t.Fatal(err)
	}
	report := func(hardware *desired.Hardware, drivers ...string) failover.Hardware {
		t.Helper()
		r := desired.Report{Version: desired.Version, Instance: "a", Time: time.Now(), Host: desired.Host{Hostname: "web1", Hardware: hardware}}
		for _, d := range drivers {
			r.Disks = append(r.Disks, desired.Disk{ID: block.DiskIDFromName(d), Name: d, Driver: d})
		}
		if _, err := inv.Record(t.Context(), id, r); err != nil {
			t.Fatal(err)
		}
		h, err := facts.Hardware(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	if h := report(nil); !reflect.DeepEqual(h, failover.Hardware{}) {
		t.Errorf("of an older agent: %+v", h)
	}
	got := report(&desired.Hardware{Firmware: "uefi", Memory: 4 << 30, CPUs: 3, Cards: []desired.Card{
		{Name: "eth0", MAC: "52:54:00:00:00:01", Driver: "virtio_net"}, {Name: "eth1", MAC: "52:54:00:00:00:02", Driver: "vmxnet3"}}}, "megaraid_sas", "nvme")
	want := failover.Hardware{Firmware: failover.UEFI, Memory: 4 << 30, CPUs: 3, Bus: failover.NVMe,
		Cards: []failover.Card{{MAC: "52:54:00:00:00:01", Virtio: true}, {MAC: "52:54:00:00:00:02"}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if h := report(&desired.Hardware{Firmware: "coreboot"}, "megaraid_sas"); h.Firmware != "" || h.Bus != "" {
		t.Errorf("what nobody can have: %+v", h)
	}
}

func TestDisksKeepTheirOrder(t *testing.T) {
	var disks []failover.Served
	for _, path := range []string{"/dev/sdaa", "/dev/sdb", "/dev/sda", "/dev/sdz"} {
		disks = append(disks, failover.Served{Path: path})
	}
	slices.SortFunc(disks, byPath)
	var order []string
	for _, d := range disks {
		order = append(order, d.Path)
	}
	if got := strings.Join(order, " "); got != "/dev/sda /dev/sdb /dev/sdz /dev/sdaa" {
		t.Error(got)
	}
}

// TestFlagsOfABoot: what would silently be ignored is refused.
func TestFlagsOfABoot(t *testing.T) {
	startPlane(t)
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"test", "web1", "--memory", "1GiB"}, "--boot"},
		{[]string{"run", "web1", "--source-is-gone"}, "--boot"},
		{[]string{"test", "web1", "--boot", "--format", "vhd"}, "nothing is copied"},
		{[]string{"run", "web1", "--shutdown-source"}, "--boot"},
		{[]string{"run", "web1", "--boot", "--shutdown-source", "--source-is-gone"}, "one thing only"},
	} {
		if out, code := cli(t, append([]string{"failover"}, c.args...)...); code != exitUsage || !strings.Contains(out, c.says) {
			t.Errorf("%v: exit code %d, %s", c.args, code, out)
		}
	}
}

// TestWhatBecomesOfTheSource: each way to say it comes through to the control plane, which
// then asks who the machine is.
func TestWhatBecomesOfTheSource(t *testing.T) {
	startPlane(t)
	for _, said := range []string{"--shutdown-source", "--source-is-gone", "--without-shutdown"} {
		if out, code := cli(t, "failover", "run", "web1", "--boot", said); code != exitNotFound {
			t.Errorf("%s: exit code %d, %s", said, code, out)
		}
	}
}
